import os

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from veilpod.core.onion.cells import Command, Header, put_header
from veilpod.core.onion.geometry import GEOMETRY, HEADER, LINK_PLAIN, CellClass
from veilpod.core.onion.link import FINAL, HELLO, REPLY, Initiator, Responder
from veilpod.errors import ProtocolViolation

RELAY, OTHER = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()


def public(key):
    return key.public_key().public_bytes_raw()


def pair(identity=None, expected=None):
    initiator = Initiator(
        ephemeral=X25519PrivateKey.generate(), expected=expected or public(RELAY), identity=identity, filler=os.urandom(96)
    )
    return initiator, Responder(ephemeral=X25519PrivateKey.generate(), identity=RELAY)


def established(identity=None):
    initiator, responder = pair(identity)
    reply = responder.reply(initiator.hello)
    third, *ours = initiator.finish(reply)
    peer, *theirs = responder.finish(third)
    assert (len(initiator.hello), len(reply), len(third)) == (HELLO, REPLY, FINAL)
    return peer, ours, theirs


def padding():
    cell = memoryview(bytearray(GEOMETRY[CellClass.SMALL].cell))
    put_header(cell, Header(circ_id=5, command=Command.PADDING, cell_class=CellClass.SMALL))
    cell[HEADER : HEADER + LINK_PLAIN] = os.urandom(LINK_PLAIN)
    return cell


@pytest.mark.parametrize("identity", [None, OTHER])
def test_a_client_stays_anonymous_and_a_relay_is_known(identity):
    peer, (sending, receiving), (back, forth) = established(identity)
    assert peer == (public(identity) if identity else None)
    for out, into in ((sending, forth), (back, receiving)):
        for _ in range(2):
            cell = padding()
            plain = bytes(cell[HEADER : HEADER + LINK_PLAIN])
            out.seal(cell)
            assert into.open(cell) == plain


def test_nothing_of_an_identity_crosses_the_wire_in_the_clear():
    initiator, responder = pair(OTHER)
    reply = responder.reply(initiator.hello)
    third, *_ = initiator.finish(reply)
    assert public(RELAY) not in reply
    assert public(OTHER) not in third


def test_another_relay_than_the_dialled_one_is_refused():
    initiator, responder = pair(expected=public(OTHER))
    with pytest.raises(ProtocolViolation) as caught:
        initiator.finish(responder.reply(initiator.hello))
    assert caught.value.reason == "BadLinkHandshake"


class Impostor:
    """Shows one identity and signs with another."""

    def __init__(self, shown, held):
        self.public_key, self.sign = shown.public_key, held.sign


def test_who_only_knows_a_public_key_is_no_relay():
    initiator, _ = pair()
    responder = Responder(ephemeral=X25519PrivateKey.generate(), identity=Impostor(RELAY, OTHER))
    with pytest.raises(ProtocolViolation):
        initiator.finish(responder.reply(initiator.hello))
    initiator, responder = pair(Impostor(OTHER, RELAY))
    third, *_ = initiator.finish(responder.reply(initiator.hello))
    with pytest.raises(ProtocolViolation):
        responder.finish(third)


def shake_hands_altered(place, flip):
    """Alter one byte of the three messages, counted through."""
    initiator, responder = pair(OTHER)
    hello = bytearray(initiator.hello)
    if place < HELLO:
        hello[place] ^= flip
    reply = bytearray(responder.reply(bytes(hello)))
    if HELLO <= place < HELLO + REPLY:
        reply[place - HELLO] ^= flip
    third = bytearray(initiator.finish(bytes(reply))[0])
    third[place - HELLO - REPLY] ^= flip
    responder.finish(bytes(third))


@given(st.integers(0, HELLO + REPLY + FINAL - 1), st.integers(1, 255))
def test_every_altered_byte_of_the_handshake_is_noticed(place, flip):
    with pytest.raises(ProtocolViolation):
        shake_hands_altered(place, flip)


def test_a_proof_cannot_be_reflected_or_replayed_on_another_link():
    initiator, responder = pair(RELAY)
    reply = responder.reply(initiator.hello)
    third, *_ = initiator.finish(reply)
    _, later = pair(RELAY)
    later.reply(initiator.hello)
    with pytest.raises(ProtocolViolation):
        later.finish(third)
    with pytest.raises(ProtocolViolation):
        responder.finish(reply[32:] + bytes(1))


def test_link_cells_cannot_be_replayed_reordered_or_relabelled():
    for trick in ("replay", "reorder", "header"):
        _, (sending, _), (_, receiving) = established()
        one, two = padding(), padding()
        sending.seal(one)
        sending.seal(two)
        if trick == "replay":
            receiving.open(one)
            victim = one
        elif trick == "reorder":
            victim = two
        else:
            victim = one
            put_header(victim, Header(circ_id=5, command=Command.DESTROY, cell_class=CellClass.SMALL))
        with pytest.raises(ProtocolViolation):
            receiving.open(victim)
