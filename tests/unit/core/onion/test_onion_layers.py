"""What nested layers promise: the next honest party notices, nothing repeats, nothing stale leaves."""

import os

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from veilpod.core.onion import ntor
from veilpod.core.onion.cells import Command
from veilpod.core.onion.geometry import GEOMETRY, MESSAGE_HEADER, TAG, CellClass
from veilpod.core.onion.layers import (
    HopKeys,
    TamperedError,
    client_open,
    client_seal,
    open_end_to_end,
    put_end_to_end,
    relay_open,
    relay_seal,
)
from veilpod.core.onion.legs import Numbers
from veilpod.core.onion.messages import RelayCommand, parse_message, put_message

SMALL = GEOMETRY[CellClass.SMALL]


class Path:
    """A client's keys and its relays' keys for the same hops."""

    def __init__(self, hops: int, *, ratchet: int = 1 << 24) -> None:
        seeds = [os.urandom(32) for _ in range(hops)]
        self.client = [HopKeys(seed, ratchet=ratchet) for seed in seeds]
        self.relays = [HopKeys(seed, ratchet=ratchet) for seed in seeds]

    def write(self, data: bytes, *, command: Command = Command.RELAY) -> memoryview:
        body = memoryview(bytearray(b"\xee" * SMALL.body))
        put_message(body[: SMALL.plain(len(self.client))], RelayCommand.DATA, data, stream_id=1)
        client_seal(self.client, body, SMALL, command)
        return body

    def forward(self, hop: int, body: memoryview, *, command: Command = Command.RELAY) -> None:
        relay_open(self.relays[hop], body, hop + 1, SMALL, command, os.urandom)

    def answer(self, data: bytes) -> memoryview:
        body = memoryview(bytearray(SMALL.body))
        put_message(body[: SMALL.plain(len(self.relays))], RelayCommand.DATA, data, stream_id=1)
        return body

    def back(self, hop: int, body: memoryview) -> None:
        relay_seal(self.relays[hop], body, hop + 1, SMALL, os.urandom)

    def read(self, body: memoryview) -> bytes:
        client_open(self.client, body, SMALL)
        return bytes(parse_message(body[: SMALL.plain(len(self.client))]).data)


hops = st.integers(1, 8)
data = st.binary(max_size=SMALL.data_max)


@given(hops, st.lists(data, min_size=1, max_size=3))
def test_what_the_client_says_comes_out_at_the_last_hop_and_back(count, messages):
    path = Path(count)
    for message in messages:
        body = path.write(message)
        for hop in range(count):
            path.forward(hop, body)
        assert bytes(parse_message(body[: SMALL.plain(count)]).data) == message
        body = path.answer(message)
        for hop in reversed(range(count)):
            path.back(hop, body)
        assert path.read(body) == message


# One position per byte class that the next hop opens: ciphertext at both ends, its own tag, the layers' inner tags.
places = st.one_of(st.integers(0, 15), st.integers(16, SMALL.body - 1 - 8 * TAG), st.integers(SMALL.body - 8 * TAG, SMALL.body - 1))


@given(hops, st.data(), places, st.integers(1, 255))
def test_an_altered_forward_cell_is_noticed_by_the_next_hop(count, choose, place, flip):
    at = choose.draw(st.integers(0, count - 1))
    path = Path(count)
    body = path.write(b"hello")
    for hop in range(at):
        path.forward(hop, body)
    body[place] ^= flip
    if place >= SMALL.sealed(at + 1):  # the fill behind the layers means nothing and is replaced
        path.forward(at, body)
    else:
        with pytest.raises(TamperedError):
            path.forward(at, body)


@given(hops, st.data(), places, st.integers(1, 255))
def test_an_altered_backward_cell_blames_the_link_where_it_was_altered(count, choose, place, flip):
    at = choose.draw(st.integers(0, count - 1))  # altered on its way from hop `at` towards the client
    path = Path(count)
    body = path.answer(b"hello")
    for hop in reversed(range(count)):
        path.back(hop, body)
        if hop == at:
            body[place] ^= flip
    if place >= SMALL.sealed(at + 1):
        assert path.read(body) == b"hello"
    else:
        with pytest.raises(TamperedError) as caught:
            path.read(body)
        assert caught.value.layer == at


@given(hops, st.sampled_from(["replayed", "dropped", "reordered", "command"]))
def test_a_cell_out_of_turn_is_noticed_by_the_first_hop(count, trick):
    path = Path(count)
    first, second = path.write(b"one"), path.write(b"two")
    again = memoryview(bytearray(first))
    command = Command.RELAY
    if trick == "replayed":
        path.forward(0, first)
        victim = again
    elif trick == "command":
        victim, command = first, Command.RELAY_EARLY
    else:
        victim = second
    with pytest.raises(TamperedError):
        path.forward(0, victim, command=command)


@given(hops)
def test_a_backward_cell_cannot_be_turned_round(count):
    path = Path(count)
    body = path.answer(b"x")
    for hop in reversed(range(count)):
        path.back(hop, body)
    with pytest.raises(TamperedError):
        path.forward(0, body)


def test_keys_of_another_class_do_not_open():
    seed = os.urandom(32)
    body = memoryview(bytearray(SMALL.body))
    HopKeys(seed).forward.seal(body, SMALL.plain(1), CellClass.SMALL)
    with pytest.raises(TamperedError):
        HopKeys(seed).forward.open(body, SMALL.plain(1), CellClass.BULK)


def blocks(body: memoryview) -> set[bytes]:
    raw = bytes(body)
    return {raw[i : i + 16] for i in range(len(raw) - 15)}


@settings(max_examples=10)
@given(st.integers(2, 8), st.booleans())
def test_no_two_links_carry_an_equal_block_of_sixteen_bytes(count, forward):
    path = Path(count)
    seen: list[set[bytes]] = []
    if forward:
        body = path.write(b"")
        seen.append(blocks(body))
        for hop in range(count - 1):
            path.forward(hop, body)
            seen.append(blocks(body))
    else:
        body = path.answer(b"")
        for hop in reversed(range(count)):
            path.back(hop, body)
            seen.append(blocks(body))
    for i, one in enumerate(seen):
        for other in seen[i + 1 :]:
            assert not one & other


def test_freed_bytes_are_fresh_and_the_rest_of_a_short_message_is_zero():
    path = Path(3)
    body = path.write(b"short")
    for hop in range(3):
        path.forward(hop, body)
    area, fill = body[: SMALL.plain(3)], body[SMALL.plain(3) :]
    assert bytes(area[MESSAGE_HEADER + 5 :]) == bytes(len(area) - MESSAGE_HEADER - 5)
    assert len(fill) == 3 * TAG
    assert len(set(bytes(fill))) > 16  # random, not zero


def test_keys_are_ratcheted_and_both_ends_keep_step():
    path = Path(2, ratchet=3)
    wire = []
    for number in range(10):
        body = path.write(bytes((number,)))
        wire.append(bytes(body))
        for hop in range(2):
            path.forward(hop, body)
        assert bytes(parse_message(body[: SMALL.plain(2)]).data) == bytes((number,))
    assert len(set(wire)) == 10


def test_the_key_after_a_ratchet_is_another_one():
    seed = os.urandom(32)
    sealing = HopKeys(seed, ratchet=2).forward
    secret = ntor.expand(seed, "forward", 32)
    for counter in range(6):
        if counter in (2, 4):
            secret = ntor.expand(secret, "ratchet", 32)
        body = memoryview(bytearray(SMALL.body))
        sealing.seal(body, 100, CellClass.SMALL)
        nonce = ntor.expand(secret, "salt", 4) + counter.to_bytes(8, "big")
        aad = bytes((Command.RELAY, 0, CellClass.SMALL, 0))
        assert AESGCM(ntor.expand(secret, "key", 16)).decrypt(nonce, bytes(body[:116]), aad) == bytes(100)


def test_old_cells_do_not_open_after_a_ratchet():
    path = Path(1, ratchet=2)
    first = memoryview(bytearray(path.write(b"1")))
    for cell in (memoryview(bytearray(first)), path.write(b"2"), path.write(b"3")):
        path.forward(0, cell)
    with pytest.raises(TamperedError):
        path.forward(0, first)


@given(st.binary(max_size=SMALL.inner_data_max), st.integers(0, 8), st.integers(0, SMALL.data_max - 1), st.integers(1, 255))
def test_an_end_to_end_message_fills_its_forward_message_and_cannot_be_altered(payload, position, place, flip):
    seed = os.urandom(32)
    guest, host = HopKeys(seed), HopKeys(seed)
    area = memoryview(bytearray(b"\xaa" * SMALL.plain(max(position, 1))))
    numbers = Numbers(number=7, newest=5, arrived=3)
    put_end_to_end(guest.forward, area, SMALL, numbers, RelayCommand.DATA, payload, flags=1, stream_id=9)
    outer = parse_message(area)
    assert outer.command is RelayCommand.FORWARD
    assert len(outer.data) == SMALL.data_max
    assert not any(area[MESSAGE_HEADER + SMALL.data_max :])
    altered = memoryview(bytearray(outer.data))
    told, inner = open_end_to_end(host.forward, outer.data, CellClass.SMALL)
    assert told == numbers
    assert (bytes(inner.data), inner.flags, inner.stream_id) == (payload, 1, 9)
    altered[place] ^= flip
    with pytest.raises(TamperedError):
        open_end_to_end(HopKeys(seed).forward, altered, CellClass.SMALL)
