"""What a relay refuses to strangers, over real links spoken by hand."""

import asyncio
import os
from collections.abc import Callable

import pytest
from tests.support.onion import network, service, until
from tests.support.stranger import SMALL, Stranger

from veilpod.core.onion import ntor
from veilpod.core.onion.cells import Command
from veilpod.core.onion.geometry import HEADER
from veilpod.core.onion.messages import DestroyReason, Extend, RelayCommand
from veilpod.core.onion.reports import Report, parse_destroy
from veilpod.errors import CircuitFailed, InvalidInput, ProtocolViolation
from veilpod.net.circuit import CircuitSummary
from veilpod.relay.circuit import NextHop, RelayCircuit
from veilpod.relay.limits import Bucket, Limits


async def stranger(net) -> Stranger:
    one = Stranger()
    await one.dial(net.entries[1])
    return one


def refused(answer: tuple[Command, bytes]) -> DestroyReason:
    command, payload = answer
    assert command is Command.DESTROY
    return parse_destroy(payload)[0]


async def test_a_replayed_create_is_refused_on_any_link():
    async with network(1) as net:
        one, other = await stranger(net), await stranger(net)
        create, _, _ = one.create()
        assert (await one.send_create(create.pack()))[0] is Command.CREATED
        for each in (one, other):
            assert refused(await each.send_create(create.pack())) is DestroyReason.REPLAYED
        assert net.relays[1].counters["creates_replayed"] == 2


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"onion_key": b"k" * 32}, DestroyReason.UNKNOWN_KEY),
        ({"identity_key": b"i" * 32}, DestroyReason.UNKNOWN_KEY),
        ({"position": 0}, DestroyReason.PROTOCOL),
        ({"position": 9}, DestroyReason.PROTOCOL),
        ({"handshake": 1}, DestroyReason.PROTOCOL),
        ({"onward": bytes(100)}, DestroyReason.PROTOCOL),
    ],
)
async def test_a_create_that_is_not_for_this_relay_is_refused(changes, reason):
    async with network(1) as net:
        one = await stranger(net)
        create, _, _ = one.create(**changes)
        assert refused(await one.send_create(create.pack())) is reason


@pytest.mark.parametrize("payload", [b"", b"\xff" * 200, b"\x01\x01\x01\x01" + bytes(4) + b"\xff\xff"])
async def test_rubbish_in_a_create_is_refused(payload):
    async with network(1) as net:
        assert refused(await (await stranger(net)).send_create(payload)) is DestroyReason.PROTOCOL
        assert not net.relays[1].circuits


async def test_a_flood_of_creates_is_refused_and_not_served():
    async with network(1, limits=Limits(creates_per_second=0.001, create_burst=5)) as net:
        one = await stranger(net)
        answers = [await one.send_create(one.create()[0].pack()) for _ in range(8)]
        assert [command for command, _ in answers] == [Command.CREATED] * 5 + [Command.DESTROY] * 3
        assert refused(answers[-1]) is DestroyReason.RESOURCE


async def test_a_link_holds_no_more_circuits_than_the_limit():
    async with network(1, limits=Limits(circuits_per_link=3)) as net:
        one = await stranger(net)
        answers = [await one.send_create(one.create()[0].pack()) for _ in range(5)]
        assert [command for command, _ in answers] == [Command.CREATED] * 3 + [Command.DESTROY] * 2


async def test_a_draining_relay_keeps_its_circuits_and_takes_no_new_one():
    async with network(1) as net:
        one = await stranger(net)
        await one.circuit()
        net.relays[1].draining = True
        assert refused(await one.send_create(one.create()[0].pack())) is DestroyReason.DRAINING
        assert len(net.relays[1].circuits) == 1


async def test_the_previous_onion_key_is_accepted_until_the_next_rotation():
    async with network(1) as net:
        one, keys = await stranger(net), net.relays[1].keys
        first = keys.newest.public
        keys.rotate(first)
        keys.rotate(first)  # repeated: nothing happens
        second = keys.newest.public
        assert second != first
        for key in (first, second):
            assert (await one.send_create(one.create(onion_key=key)[0].pack()))[0] is Command.CREATED
        keys.rotate(second)
        assert refused(await one.send_create(one.create(onion_key=first)[0].pack())) is DestroyReason.UNKNOWN_KEY
        assert (await one.send_create(one.create(onion_key=second)[0].pack()))[0] is Command.CREATED


Trick = Callable[[Stranger], None]


def altered(one: Stranger) -> None:
    cell = one.cell(RelayCommand.DROP, b"")
    cell[100] ^= 1
    one.send(cell)


def replayed(one: Stranger) -> None:
    cell = one.cell(RelayCommand.DROP, b"")
    one.send(cell)
    one.send(cell)


def reordered(one: Stranger) -> None:
    one.cell(RelayCommand.DROP, b"")
    one.send(one.cell(RelayCommand.DROP, b""))


def relabelled(one: Stranger) -> None:
    one.send(one.cell(RelayCommand.DROP, b""), command=Command.RELAY_EARLY)


@pytest.mark.parametrize("trick", [altered, replayed, reordered, relabelled])
async def test_a_cell_out_of_turn_ends_the_circuit_and_blames_our_link(trick: Trick):
    async with network(1) as net:
        one = await stranger(net)
        await one.circuit()
        trick(one)
        assert await one.report() == Report(reason=DestroyReason.TAMPERED, hop=1, blamed=(0, 1))
        await until(lambda: not net.relays[1].circuits)


def too_early(one: Stranger) -> None:
    for _ in range(9):
        one.send(one.cell(RelayCommand.DROP, b"", command=Command.RELAY_EARLY), command=Command.RELAY_EARLY)


def extend_in_a_late_cell(one: Stranger) -> None:
    one.send(one.cell(RelayCommand.EXTEND, Extend(node_id=2, identity_key=b"i" * 32, create=one.create(position=2)[0].pack()).pack()))


def extend_out_of_place(one: Stranger) -> None:
    data = Extend(node_id=2, identity_key=b"i" * 32, create=one.create(position=3)[0].pack()).pack()
    one.send(one.cell(RelayCommand.EXTEND, data, command=Command.RELAY_EARLY), command=Command.RELAY_EARLY)


def forward_to_nobody(one: Stranger) -> None:
    one.send(one.cell(RelayCommand.FORWARD, bytes(SMALL.data_max)))


def cookie_of_a_wrong_size(one: Stranger) -> None:
    one.send(one.cell(RelayCommand.ESTABLISH, bytes(19)))


def two_cookies(one: Stranger) -> None:
    one.send(one.cell(RelayCommand.ESTABLISH, b"a" * 20))
    one.send(one.cell(RelayCommand.ESTABLISH, b"b" * 20))


def stream_at_a_cookie(one: Stranger) -> None:
    one.send(one.cell(RelayCommand.ESTABLISH, b"a" * 20))
    one.send(one.cell(RelayCommand.BEGIN, b"127.0.0.1:1", stream_id=1))


def stream_of_the_wrong_half(one: Stranger) -> None:
    one.send(one.cell(RelayCommand.BEGIN, b"127.0.0.1:1", stream_id=2))


def credit_that_was_never_taken(one: Stranger) -> None:
    one.send(one.cell(RelayCommand.SENDME, b"\x00\x01"))


def reserved_command(one: Stranger) -> None:
    one.send(one.cell(RelayCommand.SWITCH, b""))


VIOLATIONS = [
    too_early, extend_in_a_late_cell, extend_out_of_place, forward_to_nobody, cookie_of_a_wrong_size, two_cookies, stream_at_a_cookie,
    stream_of_the_wrong_half, credit_that_was_never_taken, reserved_command,
]  # fmt: skip


@pytest.mark.parametrize("trick", VIOLATIONS)
async def test_a_violation_ends_the_circuit(trick: Trick):
    async with network(1) as net:
        one = await stranger(net)
        await one.circuit()
        trick(one)
        assert (await one.report()).reason is DestroyReason.PROTOCOL
        await until(lambda: not net.relays[1].circuits)


@pytest.mark.parametrize(
    ("command", "data"),
    [
        (RelayCommand.FORWARD, bytes(SMALL.data_max - 1)),
        (RelayCommand.DATA, b"x"),
        (RelayCommand.EXTEND, b"x"),
        (RelayCommand.JOIN, b"x" * 30),
    ],
)
async def test_only_sealed_messages_pass_between_two_circuits(command, data):
    async with network(1) as net:
        host, guest = await stranger(net), await stranger(net)
        for each in (host, guest):
            await each.circuit()
        host.send(host.cell(RelayCommand.ESTABLISH, b"c" * 20))
        await until(lambda: net.relays[1]._cookies)
        guest.send(guest.cell(RelayCommand.JOIN, b"c" * 20 + bytes(96)))
        await until(lambda: net.relays[1].counters["meetings"])
        guest.send(guest.cell(RelayCommand.FORWARD, bytes(SMALL.data_max)))
        guest.send(guest.cell(command, data))
        assert (await guest.report()).reason is DestroyReason.PROTOCOL
        assert (await host.report()).reason is DestroyReason.PEER_CLOSED


async def test_data_beyond_the_window_ends_the_circuit():
    async def never_reads(reader, writer):
        await asyncio.Event().wait()

    async with network(1) as net, service(never_reads) as port:
        net.allow(port)
        one = await stranger(net)
        await one.circuit()
        one.send(one.cell(RelayCommand.BEGIN, f"127.0.0.1:{port}".encode(), stream_id=1))
        await until(lambda: net.relays[1]._exiting)
        while one.answers.empty():
            one.send(one.cell(RelayCommand.DATA, bytes(SMALL.data_max), stream_id=1))
            await asyncio.sleep(0)
        assert (await one.report()).reason is DestroyReason.PROTOCOL


async def test_an_extension_to_a_relay_that_is_not_listed_is_refused_without_dialling():
    async with network(2) as net:
        one = await stranger(net)
        await one.circuit()
        data = Extend(node_id=2, identity_key=b"i" * 32, create=one.create(position=2)[0].pack()).pack()
        one.send(one.cell(RelayCommand.EXTEND, data, command=Command.RELAY_EARLY), command=Command.RELAY_EARLY)
        assert await one.report() == Report(reason=DestroyReason.EXTEND_REFUSED, hop=1, blamed=(1, 2))
        assert not net.relays[1]._pool.links


async def test_a_second_extension_before_the_first_is_done_ends_the_circuit():
    async with network(2) as net:
        one = await stranger(net)
        await one.circuit()
        next_one = net.entries[2]
        for _ in range(2):
            create, _, _ = one.create(position=2, identity_key=next_one.identity_key, onion_key=next_one.onion_key)
            data = Extend(node_id=2, identity_key=next_one.identity_key, create=create.pack()).pack()
            one.send(one.cell(RelayCommand.EXTEND, data, command=Command.RELAY_EARLY), command=Command.RELAY_EARLY)
        assert (await one.report()).reason is DestroyReason.PROTOCOL
        await until(lambda: not net.relays[1].circuits and not net.relays[2].circuits)


async def test_a_path_ends_after_eight_hops():
    async with network(9) as net:
        assert (await net.proxy(hops=8).rendezvous()).relay
        with pytest.raises(InvalidInput, match="3 to 8 hops"):
            await net.proxy(hops=9).rendezvous()


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\n\r\n", b"VEILPOD1" + b"x" * 10])
async def test_who_does_not_finish_the_handshake_in_time_is_closed(said):
    async with network(1, limits=Limits(handshake_seconds=0.2)) as net:
        reader, writer = await asyncio.open_connection("127.0.0.1", net.entries[1].port)
        writer.write(said)
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        writer.close()
        await until(lambda: net.relays[1]._handshaking == 0)
        await (await stranger(net)).circuit()


async def test_forty_bytes_that_are_no_hello_close_the_connection_at_once():
    async with network(1) as net:
        reader, writer = await asyncio.open_connection("127.0.0.1", net.entries[1].port)
        writer.write(os.urandom(40))
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        writer.close()


async def test_connections_beyond_the_limit_are_closed_at_once():
    async with network(1, limits=Limits(handshaking=2)) as net:
        waiting = [await asyncio.open_connection("127.0.0.1", net.entries[1].port) for _ in range(2)]
        await until(lambda: net.relays[1]._handshaking == 2)
        reader, writer = await asyncio.open_connection("127.0.0.1", net.entries[1].port)
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        for _, each in (*waiting, (reader, writer)):
            each.close()
        await until(lambda: net.relays[1]._handshaking == 0)
        assert net.relays[1].counters["links_refused"] == 1


async def test_an_altered_byte_on_the_wire_closes_or_ends_what_it_hit():
    async with network(1) as net:
        one = await stranger(net)
        await one.circuit()
        one.link._transport.write(os.urandom(SMALL.cell))
        await asyncio.wait_for(asyncio.shield(one.link.closed), 5)
        await until(lambda: not net.relays[1].circuits)


@pytest.mark.parametrize("way", ["forward", "backward"])
async def test_a_relay_in_the_middle_that_alters_cells_is_on_the_blamed_link(way, monkeypatch):
    async with network(3) as net, service() as port:
        net.allow(port)
        seen: list[CircuitSummary] = []
        proxy = net.proxy(trace=seen.append)
        stream = await proxy.open("127.0.0.1", port)
        await stream.write(b"x")
        assert await stream.read() == b"x"
        _, middle, _ = seen[0].relays
        circuit = next(iter(net.relays[int(middle)].circuits))

        def forward(self, header, cell, original=NextHop.send):
            cell[HEADER] ^= self._circuit is circuit
            original(self, header, cell)

        def backward(self, cell, original=RelayCircuit.send_back):
            cell[HEADER] ^= self is circuit
            original(self, cell)

        if way == "forward":
            monkeypatch.setattr(NextHop, "send", forward)
        else:
            monkeypatch.setattr(RelayCircuit, "send_back", backward)
        await stream.write(b"y")
        with pytest.raises(CircuitFailed) as caught:
            await stream.read()
        assert caught.value.blamed is not None
        assert middle in caught.value.blamed


def test_a_bucket_gives_its_burst_and_then_its_rate():
    now = 0.0
    bucket = Bucket(rate=2, burst=3, clock=lambda: now)
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]
    now = 0.5
    assert [bucket.take() for _ in range(2)] == [True, False]
    now = 100.0
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]


async def test_a_relay_with_a_full_replay_cache_refuses():
    async with network(1) as net:
        one = await stranger(net)
        cache = net.relays[1].keys.newest.seen
        cache._limit = 1
        assert (await one.send_create(one.create()[0].pack()))[0] is Command.CREATED
        assert refused(await one.send_create(one.create()[0].pack())) is DestroyReason.RESOURCE
        assert cache.full


def test_a_low_order_onionskin_is_a_violation():
    with pytest.raises(ProtocolViolation):
        ntor.parse_onionskin(bytes(95))
