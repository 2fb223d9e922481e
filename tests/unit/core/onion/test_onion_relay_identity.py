"""A kept identity: what OpenSSL writes is read, nothing else is, and a pod's end says why."""

import shutil
import subprocess

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from veilpod.core.onion import relay_identity
from veilpod.errors import InvalidInput

PEM, PKCS8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
KEY = Ed25519PrivateKey.generate()


def test_what_is_written_is_read():
    assert relay_identity.parse(relay_identity.spell(KEY).encode()).private_bytes_raw() == KEY.private_bytes_raw()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl here")
def test_what_openssl_makes_is_read():
    made = subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519"], capture_output=True, check=True).stdout
    assert isinstance(relay_identity.parse(made), Ed25519PrivateKey)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        KEY.private_bytes_raw(),
        KEY.private_bytes_raw().hex().encode(),
        KEY.public_key().public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
        X25519PrivateKey.generate().private_bytes(PEM, PKCS8, serialization.NoEncryption()),
        KEY.private_bytes(PEM, PKCS8, serialization.BestAvailableEncryption(b"password")),
        relay_identity.spell(KEY).encode()[:-40],
        relay_identity.spell(KEY).encode() + bytes(5000),
    ],
    ids=["nothing", "raw", "hexadecimal", "public", "another kind", "encrypted", "cut off", "continued"],
)
def test_anything_else_is_refused_without_a_word_of_what_it_is(data):
    with pytest.raises(InvalidInput) as caught:
        relay_identity.parse(data)
    assert caught.value.reason == "IdentityMalformed"
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def pod(**container):
    return {"status": {"containerStatuses": [container]}}


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ({}, None),
        (pod(state={"running": {}}), None),
        (pod(state={"terminated": {"exitCode": 66}}), "IdentityMissing"),
        (pod(state={"waiting": {"reason": "CrashLoopBackOff"}}, lastState={"terminated": {"exitCode": 65}}), "IdentityMalformed"),
        (pod(state={"terminated": {"exitCode": 1}}, lastState={"terminated": {"exitCode": 66}}), None),
    ],
)
def test_a_pods_last_end_says_whether_it_was_for_its_identity(status, reason):
    assert relay_identity.refusal(status) == reason
