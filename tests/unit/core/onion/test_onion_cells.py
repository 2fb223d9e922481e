import contextlib
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from veilpod.core.onion.cells import LAYERED, Command, Header, HeaderMask, parse_header, put_header
from veilpod.core.onion.geometry import GEOMETRY, HEADER, MAX_HOPS, MESSAGE_HEADER, SESSION_HEADER, TAG, CellClass
from veilpod.core.onion.messages import (
    Create,
    Extend,
    RelayCommand,
    check_kind,
    parse_create,
    parse_created,
    parse_credit,
    parse_extend,
    parse_join,
    parse_message,
    put_message,
)
from veilpod.core.onion.reports import parse_destroy
from veilpod.errors import ProtocolViolation

headers = st.builds(
    Header,
    circ_id=st.integers(0, 2**32 - 1),
    command=st.sampled_from(sorted(LAYERED)),
    cell_class=st.sampled_from(list(CellClass)),
)


@given(headers, st.binary(min_size=16, max_size=16), st.binary(min_size=16, max_size=16))
def test_a_masked_header_is_read_back_and_shows_nothing_of_itself(header, key, sample):
    cell = memoryview(bytearray(GEOMETRY[CellClass.SMALL].cell))
    cell[HEADER : HEADER + 16] = sample
    put_header(cell, header)
    plain = bytes(cell[:HEADER])
    HeaderMask(key).apply(cell)
    assert bytes(cell[:HEADER]) != plain
    assert bytes(cell[HEADER : HEADER + 16]) == sample
    HeaderMask(key).apply(cell)
    assert parse_header(cell) == header


def test_two_cells_of_one_circuit_have_different_headers_on_the_wire():
    mask = HeaderMask(os.urandom(16))
    seen = set()
    for _ in range(100):
        cell = memoryview(bytearray(32))
        cell[16:] = os.urandom(16)
        put_header(cell, Header(circ_id=7, command=Command.RELAY, cell_class=CellClass.BULK))
        mask.apply(cell)
        seen.add(bytes(cell[:16]))
    assert len(seen) == 100


@given(headers, st.integers(5, 15), st.integers(1, 255))
def test_a_header_whose_constant_bytes_differ_is_refused(header, index, flip):
    cell = bytearray(16)
    put_header(cell, header)
    cell[index] ^= flip
    if index == 5 and cell[5] in (0x11, 0x12):
        assert parse_header(cell).cell_class is not header.cell_class  # another class that exists: the layers' AAD refuses it
    else:
        with pytest.raises(ProtocolViolation):
            parse_header(cell)


@pytest.mark.parametrize("command", sorted(set(Command) - LAYERED))
def test_a_link_cell_is_always_small(command):
    cell = bytearray(16)
    put_header(cell, Header(circ_id=1, command=command, cell_class=CellClass.BULK))
    with pytest.raises(ProtocolViolation):
        parse_header(cell)


@given(st.sampled_from(list(CellClass)), st.integers(1, MAX_HOPS))
def test_one_message_fits_at_every_position_and_through_a_splice(cell_class, position):
    geometry = GEOMETRY[cell_class]
    assert geometry.sealed(1) == geometry.body
    assert geometry.plain(position) + TAG == geometry.sealed(position)
    assert MESSAGE_HEADER + geometry.data_max <= geometry.plain(position)
    assert SESSION_HEADER + MESSAGE_HEADER + geometry.inner_data_max + TAG == geometry.data_max


@given(st.sampled_from(list(RelayCommand)), st.binary(max_size=500), st.integers(0, 255), st.integers(0, 65535))
def test_a_message_is_read_back_and_leaves_no_stale_byte(command, data, flags, stream_id):
    area = memoryview(bytearray(b"\xaa" * 600))
    put_message(area, command, data, flags=flags, stream_id=stream_id)
    message = parse_message(area)
    assert (message.command, bytes(message.data), message.flags, message.stream_id) == (command, data, flags, stream_id)
    assert bytes(area[MESSAGE_HEADER + len(data) :]) == bytes(600 - MESSAGE_HEADER - len(data))


@given(st.binary(min_size=8, max_size=64))
def test_any_message_bytes_are_read_or_refused(data):
    with contextlib.suppress(ProtocolViolation):
        assert len(parse_message(memoryview(data)).data) <= len(data) - MESSAGE_HEADER


def test_a_message_that_claims_more_than_its_cell_is_refused():
    with pytest.raises(ProtocolViolation):
        parse_message(memoryview(bytes((RelayCommand.DATA, 0, 0, 1)) + (57).to_bytes(4, "big") + bytes(56)))


creates = st.builds(
    Create,
    cell_class=st.sampled_from(list(CellClass)),
    position=st.integers(0, 255),
    key_epoch=st.integers(0, 2**32 - 1),
    onionskin=st.binary(max_size=1500),
    onward=st.binary(max_size=1500),
)


@given(creates, st.integers(0, 64))
def test_a_create_is_read_back_from_its_zero_filled_cell(create, fill):
    assert parse_create(create.pack() + bytes(fill)) == create
    extend = Extend(node_id=7, identity_key=b"i" * 32, create=create.pack())
    assert parse_extend(extend.pack()) == extend


@given(st.binary(max_size=80))
def test_any_payload_is_read_or_refused_as_a_violation(payload):
    for parse in (parse_create, parse_extend, parse_created, parse_join, parse_destroy):
        with contextlib.suppress(ProtocolViolation):
            parse(payload)
    with contextlib.suppress(ProtocolViolation):
        parse_credit(memoryview(payload))


@pytest.mark.parametrize("command", list(RelayCommand))
def test_only_what_acknowledges_may_come_in_a_smaller_cell_than_its_circuits(command):
    check_kind(command, CellClass.BULK, CellClass.BULK)
    check_kind(command, CellClass.SMALL, CellClass.SMALL)
    if command in (RelayCommand.SENDME, RelayCommand.ACK, RelayCommand.FORWARD):
        check_kind(command, CellClass.SMALL, CellClass.BULK)
    else:
        with pytest.raises(ProtocolViolation):
            check_kind(command, CellClass.SMALL, CellClass.BULK)
