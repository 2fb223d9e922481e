import dataclasses
import json
import pathlib

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from tests.vectors import make_onion

from veilpod.core.onion import ntor
from veilpod.core.onion.replay import ReplayCache
from veilpod.errors import ProtocolViolation

secrets = st.binary(min_size=32, max_size=32)
VECTORS = pathlib.Path(make_onion.__file__).with_name("onion.json")


def shake(client, server, static, identity, context=b"\x01" * 8):
    target = ntor.Target(identity_key=identity, onion_key=ntor.public_bytes(static), context=context)
    skin = ntor.parse_onionskin(ntor.onionskin(target, client))
    return target, *ntor.respond(target, static=static, client=skin.ephemeral, ephemeral=server)


@given(secrets, secrets, secrets, secrets)
def test_both_sides_derive_the_same_seed(client, server, static, identity):
    keys = [X25519PrivateKey.from_private_bytes(secret) for secret in (client, server, static)]
    target, reply, seed = shake(*keys, identity)
    assert ntor.finish(target, reply, ephemeral=keys[0]) == seed


@given(st.integers(0, ntor.REPLY - 1), st.integers(1, 255))
def test_an_altered_answer_is_refused(place, flip):
    client, server, static = (X25519PrivateKey.generate() for _ in range(3))
    target, reply, _ = shake(client, server, static, b"i" * 32)
    altered = bytearray(reply)
    altered[place] ^= flip
    with pytest.raises(ProtocolViolation):
        ntor.finish(target, bytes(altered), ephemeral=client)


def test_even_the_ignored_top_bit_of_a_public_key_is_authenticated():
    client, server, static = (X25519PrivateKey.generate() for _ in range(3))
    target, reply, _ = shake(client, server, static, b"i" * 32)
    altered = bytearray(reply)
    altered[31] ^= 0x80
    with pytest.raises(ProtocolViolation):
        ntor.finish(target, bytes(altered), ephemeral=client)


@pytest.mark.parametrize("change", ["identity_key", "onion_key", "context"])
def test_whoever_is_not_the_target_cannot_answer(change):
    client, server, static = (X25519PrivateKey.generate() for _ in range(3))
    target, reply, _ = shake(client, server, static, b"i" * 32)
    other = ntor.public_bytes(X25519PrivateKey.generate()) if change != "context" else b"\x02" * 8
    with pytest.raises(ProtocolViolation):
        ntor.finish(dataclasses.replace(target, **{change: other}), reply, ephemeral=client)


@pytest.mark.parametrize("point", [bytes(32), b"\x01" + bytes(31)])
def test_points_of_low_order_are_refused_by_both_sides(point):
    client, server, static = (X25519PrivateKey.generate() for _ in range(3))
    target, reply, _ = shake(client, server, static, b"i" * 32)
    with pytest.raises(ProtocolViolation):
        ntor.respond(target, static=static, client=point, ephemeral=server)
    with pytest.raises(ProtocolViolation):
        ntor.finish(target, point + reply[32:], ephemeral=client)


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
