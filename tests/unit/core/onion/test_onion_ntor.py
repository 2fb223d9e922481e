import dataclasses
import json
import pathlib

import pytest
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from tests.vectors import make_onion

from veilpod.core.onion import ntor
from veilpod.core.onion.replay import ReplayCache
from veilpod.errors import ProtocolViolation

secrets = st.binary(min_size=32, max_size=32)
VECTORS = pathlib.Path(make_onion.__file__).with_name("onion.json")


def client_keys(x25519=None, mlkem=None):
    return ntor.Ephemeral(
        x25519=X25519PrivateKey.from_private_bytes(x25519) if x25519 else X25519PrivateKey.generate(),
        mlkem=MLKEM768PrivateKey.from_seed_bytes(mlkem * 2) if mlkem else MLKEM768PrivateKey.generate(),
    )


def shake(client, server, static, identity=b"i" * 32, context=b"\x01" * 8):
    target = ntor.Target(identity_key=identity, onion_key=ntor.public_bytes(static), context=context)
    skin = ntor.parse_onionskin(ntor.onionskin(target, client))
    return target, ntor.respond(target, static=static, client=skin, ephemeral=server, encapsulated=skin.encapsulate())


def strangers():
    client, server, static = client_keys(), X25519PrivateKey.generate(), X25519PrivateKey.generate()
    return client, *shake(client, server, static)


@given(secrets, secrets, secrets, secrets, secrets)
def test_both_sides_derive_the_same_seed_and_the_same_key_for_the_first_message(x25519, mlkem, server, static, identity):
    client = client_keys(x25519, mlkem)
    target, answer = shake(client, *(X25519PrivateKey.from_private_bytes(secret) for secret in (server, static)), identity)
    assert ntor.finish(target, answer.reply, ephemeral=client) == answer.seed
    assert ntor.onward_key(target, client) == answer.onward_key


@given(st.integers(0, ntor.REPLY - 1), st.integers(1, 255))
def test_an_altered_answer_is_refused(place, flip):
    client, target, answer = strangers()
    altered = bytearray(answer.reply)
    altered[place] ^= flip
    with pytest.raises(ProtocolViolation):
        ntor.finish(target, bytes(altered), ephemeral=client)


def test_even_the_ignored_top_bit_of_a_public_key_is_authenticated():
    client, target, answer = strangers()
    altered = bytearray(answer.reply)
    altered[31] ^= 0x80
    with pytest.raises(ProtocolViolation):
        ntor.finish(target, bytes(altered), ephemeral=client)


def test_who_breaks_one_of_the_two_exchanges_has_no_seed():
    client, server, static = client_keys(), X25519PrivateKey.generate(), X25519PrivateKey.generate()
    target, answer = shake(client, server, static)
    half = dataclasses.replace(client, mlkem=MLKEM768PrivateKey.generate())  # knows all of X25519
    with pytest.raises(ProtocolViolation):
        ntor.finish(target, answer.reply, ephemeral=half)
    half = dataclasses.replace(client, x25519=X25519PrivateKey.generate())  # knows all of ML-KEM
    with pytest.raises(ProtocolViolation):
        ntor.finish(target, answer.reply, ephemeral=half)


@pytest.mark.parametrize("change", ["identity_key", "onion_key", "context"])
def test_whoever_is_not_the_target_cannot_answer(change):
    client, target, answer = strangers()
    other = ntor.public_bytes(X25519PrivateKey.generate()) if change != "context" else b"\x02" * 8
    with pytest.raises(ProtocolViolation):
        ntor.finish(dataclasses.replace(target, **{change: other}), answer.reply, ephemeral=client)


@pytest.mark.parametrize("point", [bytes(32), b"\x01" + bytes(31)])
def test_points_of_low_order_are_refused_by_both_sides(point):
    client, server, static = client_keys(), X25519PrivateKey.generate(), X25519PrivateKey.generate()
    target, answer = shake(client, server, static)
    skin = dataclasses.replace(ntor.parse_onionskin(ntor.onionskin(target, client)), x25519=point)
    with pytest.raises(ProtocolViolation):
        ntor.respond(target, static=static, client=skin, ephemeral=server, encapsulated=skin.encapsulate())
    with pytest.raises(ProtocolViolation):
        ntor.finish(target, point + answer.reply[32:], ephemeral=client)


def test_an_encapsulation_key_that_is_none_is_refused():
    client, target, _ = strangers()
    skin = ntor.parse_onionskin(ntor.onionskin(target, client)[:96] + b"\xff" * ntor.ENCAPSULATION_KEY)
    with pytest.raises(ProtocolViolation):
        skin.encapsulate()


def test_the_golden_vectors_still_hold():
    assert json.loads(VECTORS.read_text()) == make_onion.vectors()


def test_an_ephemeral_is_new_once():
    cache = ReplayCache(limit=3)
    assert cache.first_time(b"a" * 32)
    assert not cache.first_time(b"a" * 32)
    assert cache.first_time(b"b" * 32)
    assert not cache.full
    assert cache.first_time(b"c" * 32)
    assert cache.full
