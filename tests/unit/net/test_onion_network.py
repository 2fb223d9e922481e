"""Circuits, exits and meetings over real relays and real sockets on loopback."""

import asyncio
import contextlib
import hashlib
import os
import struct

import pytest
from tests.support.onion import entry, meet, network, owner, service, until

from veilpod.core.onion.geometry import GEOMETRY, WINDOW, CellClass
from veilpod.core.onion.messages import RelayCommand
from veilpod.errors import CircuitFailed, PeerUnavailable, Refused
from veilpod.net.circuit import CircuitSummary
from veilpod.net.host import HostPoint
from veilpod.net.streams import Hold, MuxStream
from veilpod.relay.keys import RelayKeys
from veilpod.relay.router import Relay

BIG = os.urandom(8 << 20)


async def read_all(stream: MuxStream) -> bytes:
    parts = []
    while part := await stream.read(1 << 20):
        parts.append(part)
    return b"".join(parts)


async def both(*work):
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        tasks = [group.create_task(each) for each in work]
    return [task.result() for task in tasks]


async def test_a_stream_leaves_at_a_registered_service_and_comes_back():
    async with network() as net, service() as port:
        net.allow(port)
        stream = await net.proxy().open("127.0.0.1", port)

        async def send():
            await stream.write(BIG)
            await stream.write_eof()

        _, back = await both(send(), read_all(stream))
        assert len(back) == len(BIG)
        assert hashlib.sha256(back).digest() == hashlib.sha256(BIG).digest()
        await stream.close()
        await until(lambda: not any(relay.circuits for relay in net.relays.values()))


async def test_taking_much_costs_little_in_the_other_direction():
    async def giver(reader, writer):
        writer.write(BIG)
        writer.close()
        await writer.wait_closed()

    async with network() as net, service(giver) as port:
        net.allow(port)
        seen: list[CircuitSummary] = []
        stream = await net.proxy(trace=seen.append).open("127.0.0.1", port)
        assert await read_all(stream) == BIG
        await stream.close()
        await until(lambda: seen[-1].state == "closed")
        assert seen[-1].bytes_sent < 0.1 * seen[-1].bytes_received


@pytest.mark.parametrize("way", ["guest", "host"])
async def test_so_it_does_in_a_meeting(way):
    async with network() as net:
        seen: list[CircuitSummary] = []
        watched, other = net.proxy(trace=seen.append), net.proxy()
        taker, giver = await (meet(net, guest=watched, host=other) if way == "guest" else _turned(meet(net, guest=other, host=watched)))
        stream = await taker.open_stream("s")
        _, far = await giver.accept_stream()

        async def give():
            await far.write(BIG)
            await far.write_eof()

        _, got = await both(give(), read_all(stream))
        assert got == BIG
        await taker.close()
        await until(lambda: seen[-1].state == "closed")
        assert seen[-1].bytes_sent < 0.1 * seen[-1].bytes_received


async def _turned(meeting):
    guest, host = await meeting
    return host, guest


async def test_what_was_written_before_a_close_arrives_whole():
    received = asyncio.get_running_loop().create_future()

    async def sink(reader, writer):
        received.set_result(await reader.read())

    async with network() as net, service(sink) as port:
        net.allow(port)
        stream = await net.proxy().open("127.0.0.1", port)
        await stream.write(BIG[: 3 << 20])
        await stream.close()
        assert await asyncio.wait_for(received, 10) == BIG[: 3 << 20]


async def test_a_service_that_is_still_talking_loses_nothing_when_its_client_goes():
    received = asyncio.get_running_loop().create_future()

    async def talker(reader, writer):
        talking = asyncio.create_task(talk(writer))
        received.set_result(await reader.read())
        talking.cancel()

    async def talk(writer):
        while True:
            writer.write(bytes(1 << 16))
            await writer.drain()

    async with network() as net, service(talker) as port:
        net.allow(port)
        stream = await net.proxy().open("127.0.0.1", port)
        await stream.read(1)
        await stream.write(BIG[: 1 << 20])
        await stream.close()
        assert await asyncio.wait_for(received, 10) == BIG[: 1 << 20]


async def test_a_broken_circuit_is_no_clean_end_for_the_service():
    outcome = asyncio.get_running_loop().create_future()

    async def upload(reader, writer):
        try:
            outcome.set_result(await reader.read())
        except ConnectionResetError as error:
            outcome.set_result(error)

    async with network() as net, service(upload) as port:
        net.allow(port)
        paths: list[CircuitSummary] = []
        stream = await net.proxy(trace=paths.append).open("127.0.0.1", port)
        await stream.write(BIG[: 1 << 20])
        await net.relays.pop(int(paths[0].relays[0])).close()
        assert isinstance(await asyncio.wait_for(outcome, 10), ConnectionResetError)


async def test_an_exit_that_ends_is_no_clean_end_for_its_client_nor_for_the_service():
    heard = asyncio.get_running_loop().create_future()

    async def half(reader, writer):
        writer.write(b"half of it")
        try:
            heard.set_result(await reader.read())
        except ConnectionError as error:
            heard.set_result(error)

    async with network(3) as net, service(half) as port:
        net.allow(port)
        seen: list[CircuitSummary] = []
        stream = await net.proxy(trace=seen.append).open("127.0.0.1", port)
        assert await stream.readexactly(10) == b"half of it"
        await net.relays.pop(int(seen[0].relays[-1])).close()
        with pytest.raises((PeerUnavailable, CircuitFailed)):
            await stream.read()
        assert isinstance(await asyncio.wait_for(heard, 10), ConnectionError)


async def test_each_side_may_finish_before_the_other():
    async def counter(reader, writer):
        data = await reader.read()
        writer.write(struct.pack(">I", len(data)))

    async with network() as net, service(counter) as port:
        net.allow(port)
        stream = await net.proxy().open("127.0.0.1", port)
        await stream.write(b"x" * 100_000)
        await stream.write_eof()
        assert await stream.readexactly(4) == struct.pack(">I", 100_000)
        assert await stream.read() == b""


async def test_an_unlisted_endpoint_is_refused_and_a_withdrawn_one_too():
    async with network() as net, service() as port, service() as other:
        net.allow(port)
        proxy = net.proxy()
        with pytest.raises(Refused) as caught:
            await proxy.open("127.0.0.1", other)
        assert caught.value.reason == "ExitRefused"
        (await proxy.open("127.0.0.1", port)).end(0)
        net.allow()
        with pytest.raises(Refused):
            await proxy.open("127.0.0.1", port)


async def test_an_exit_whose_owner_allows_it_is_found_among_those_that_do_not():
    async with network() as net, service() as port:
        net.relays[3].policy.replace([f"127.0.0.1:{port}"])
        for _ in range(5):
            stream = await net.proxy().open("127.0.0.1", port)
            await stream.write(b"x")
            assert await stream.read() == b"x"


async def test_three_relays_that_all_refuse_an_exit_say_so():
    async with network(3) as net:
        with pytest.raises(Refused) as caught:
            await net.proxy().open("127.0.0.1", 9)
        assert caught.value.reason == "ExitRefused"
        await until(lambda: not any(relay.circuits for relay in net.relays.values()))


async def test_a_service_that_is_down_is_unavailable():
    async with network() as net:
        async with service() as port:
            pass
        net.allow(port)
        with pytest.raises(PeerUnavailable):
            await net.proxy().open("127.0.0.1", port)


@pytest.mark.parametrize("cell_class", list(CellClass))
async def test_a_meeting_carries_labelled_streams_both_ways(cell_class):
    data = BIG if cell_class is CellClass.BULK else BIG[: 1 << 20]
    async with network() as net:
        proxies = [net.proxy(cell_class=cell_class) for _ in range(2)]
        guest, host = await meet(net, *proxies)
        assert guest.id == host.id
        assert len(host.id) == 32
        out, (label, into) = await guest.open_stream("input"), await host.accept_stream()
        assert label == "input"
        out2, (label, into2) = await host.open_stream("tcp/9092"), await guest.accept_stream()
        assert label == "tcp/9092"

        async def send(stream):
            await stream.write(data)
            await stream.write_eof()

        _, _, one, two = await both(send(out), send(out2), read_all(into), read_all(into2))
        assert one == two == data


async def test_the_host_may_speak_first(monkeypatch):
    def eager(self, *args, original=HostPoint._begin):
        original(self, *args)
        self._session.result().send_message(RelayCommand.BEGIN, b"early", stream_id=2)

    monkeypatch.setattr(HostPoint, "_begin", eager)
    async with network() as net:
        for _ in range(5):
            guest, _ = await meet(net)
            async with asyncio.timeout(5):
                label, _ = await guest.accept_stream()
            assert label == "early"


async def test_a_peer_that_opens_streams_that_nobody_takes_is_refused_more_and_not_believed():
    async with network() as net:
        guest, host = await meet(net)
        opened = [await guest.open_stream(f"s{number}") for number in range(64)]
        with pytest.raises(PeerUnavailable):
            await guest.open_stream("one too many")
        await host.accept_stream()
        await guest.open_stream("there is room again")
        assert len(opened) == 64


async def test_what_nobody_reads_is_held_up_to_a_bound_and_then_the_stream_ends():
    async with network() as net:
        guest, host = await meet(net)
        host._mux.hold = Hold(3 << 20)
        full, (_, unread) = await guest.open_stream("full"), await host.accept_stream()
        over, (_, ended) = await guest.open_stream("over"), await host.accept_stream()
        stuck = asyncio.create_task(full.write(BIG))
        await until(lambda: host._mux.hold.used > 2 << 20 or unread._room == 0)
        with pytest.raises(PeerUnavailable):
            await over.write(BIG)
        with pytest.raises(PeerUnavailable):
            await read_all(ended)
        assert await unread.readexactly(len(BIG)) == BIG
        await asyncio.wait_for(stuck, 10)
        assert host._mux.hold.used == 0


async def test_ends_of_a_session_see_its_end():
    async with network() as net:
        guest, host = await meet(net)
        stream = await guest.open_stream("s")
        _, far = await host.accept_stream()
        await stream.write(b"last words")
        waiting = asyncio.create_task(host.accept_stream())
        await guest.close()
        assert await far.read() == b"last words"
        with pytest.raises(PeerUnavailable, match="reset"):
            await far.read()
        for _ in range(2):
            with pytest.raises(CircuitFailed):
                await host.accept_stream()
        with pytest.raises(CircuitFailed):
            await waiting
        with pytest.raises(CircuitFailed):
            await host.open_stream("t")


async def test_a_wrong_cookie_finds_nobody_and_a_cookie_is_good_once():
    async with network() as net:
        proxy, guest = net.proxy(), net.proxy()
        point = await proxy.rendezvous()
        with pytest.raises(PeerUnavailable):
            await guest.connect(relay=point.relay, cookie=os.urandom(20), service_key=point.service_key)
        await guest.connect(relay=point.relay, cookie=point.cookie, service_key=point.service_key)
        await point.accept()
        with pytest.raises(PeerUnavailable):
            await net.proxy().connect(relay=point.relay, cookie=point.cookie, service_key=point.service_key)


async def test_a_cookie_leaves_with_its_circuit():
    async with network() as net:
        point = await net.proxy().rendezvous()
        relay = net.relays[point.relay]
        await point.close()
        await until(lambda: not relay.circuits)
        with pytest.raises(PeerUnavailable):
            await net.proxy().connect(relay=point.relay, cookie=point.cookie, service_key=point.service_key)
        with pytest.raises(CircuitFailed):
            await point.accept()


async def test_a_guest_with_another_service_key_meets_nobody_and_spoils_nothing():
    async with network() as net:
        point = await net.proxy().rendezvous()
        accepting = asyncio.create_task(point.accept())
        with pytest.raises(CircuitFailed):
            await net.proxy().connect(relay=point.relay, cookie=point.cookie, service_key=RelayKeys().newest.public)
        assert not accepting.done()
        async with asyncio.timeout(30):
            while not accepting.done():  # the host is on its way to where both would look next
                with contextlib.suppress(PeerUnavailable, CircuitFailed):
                    await net.proxy().connect(relay=point.relay, cookie=point.cookie, service_key=point.service_key)
                await asyncio.sleep(0.05)
        await accepting


async def test_a_slow_reader_stops_its_sender_and_nobody_else():
    async with network() as net:
        guest, host = await meet(net)
        slow, (_, unread) = await guest.open_stream("slow"), await host.accept_stream()
        fast, (_, read) = await guest.open_stream("fast"), await host.accept_stream()
        stuck = asyncio.create_task(slow.write(BIG))
        _, echoed = await both(fast.write(BIG), read.readexactly(len(BIG)))
        assert echoed == BIG
        assert not stuck.done()
        held = sum(len(chunk) for chunk in unread._chunks)
        assert held <= WINDOW[CellClass.BULK].stream * GEOMETRY[CellClass.BULK].inner_data_max
        assert all(relay.queued == 0 for relay in net.relays.values())
        assert await unread.readexactly(len(BIG)) == BIG
        await asyncio.wait_for(stuck, 10)


async def test_a_service_that_does_not_read_holds_one_window_in_the_network():
    release = asyncio.Event()
    taken = 0

    async def late(reader, writer):
        nonlocal taken
        await release.wait()
        while data := await reader.read(1 << 20):
            taken += len(data)

    async with network() as net, service(late) as port:
        net.allow(port)
        stream = await net.proxy().open("127.0.0.1", port)
        sent = 0

        async def flood():
            nonlocal sent
            while sent < 64 << 20:
                await stream.write(BIG[: 1 << 20])
                sent += 1 << 20

        flooding = asyncio.create_task(flood())
        last = -1
        while last != sent:  # until it stands still
            last = sent
            await asyncio.sleep(0.2)
        assert not flooding.done()
        assert sent <= 40 << 20  # windows, and the kernel's own buffers towards the service
        release.set()
        await asyncio.wait_for(flooding, 30)
        await stream.write_eof()
        await until(lambda: taken == 64 << 20)


async def test_a_relays_death_is_told_with_the_link_that_failed():
    async with network() as net, service() as port:
        net.allow(port)
        summaries: list[CircuitSummary] = []
        stream = await net.proxy(trace=summaries.append).open("127.0.0.1", port)
        one, middle, _ = summaries[0].relays
        await net.relays.pop(int(middle)).close()
        with pytest.raises(CircuitFailed) as caught:
            await stream.read()
        assert caught.value.blamed == (one, middle)
        assert summaries[-1].state == "closed"


async def test_a_relays_death_is_nothing_to_a_session():
    async with network() as net:
        summaries: list[CircuitSummary] = []
        guest, host = await meet(net, guest=net.proxy(trace=summaries.append))
        stream, (_, far) = await guest.open_stream("s"), await host.accept_stream()
        await net.relays.pop(int(summaries[0].relays[1])).close()
        await both(stream.write(BIG), far.readexactly(len(BIG)))


async def test_a_dead_guard_is_blamed_and_another_path_is_taken():
    async with network() as net, service() as port:
        net.allow(port)
        dead = net.relays.pop(2)
        await dead.close()
        for _ in range(5):
            stream = await net.proxy().open("127.0.0.1", port)
            await stream.write(b"x")
            assert await stream.read() == b"x"


async def test_a_directory_without_enough_living_relays_fails_with_blame():
    async with network(3) as net:
        await net.relays.pop(2).close()
        with pytest.raises(CircuitFailed) as caught:
            await net.proxy().rendezvous()
        assert caught.value.blamed is not None
        assert 2 in caught.value.blamed


async def test_a_relay_that_holds_other_keys_than_the_directory_says_is_not_used():
    async with network(3) as net:
        good = net.entries[2]
        net.entries[2] = entry(2, host=good.host, port=good.port)  # a valid proof, but nobody there has these keys
        with pytest.raises(CircuitFailed):
            await net.proxy().rendezvous()


async def test_a_relay_dials_only_what_its_own_directory_lists():
    async with network(3) as net:
        stranger = await net.add(4, listed=False)
        port = stranger._server.sockets[0].getsockname()[1]
        listed = entry(4, keys=stranger.keys, host="127.0.0.1", port=port)
        paths: list[CircuitSummary] = []
        proxy = net.proxy(directory=lambda: [*list(net.entries.values())[:2], listed], trace=paths.append)
        for _ in range(10):
            with contextlib.suppress(CircuitFailed):
                await proxy.rendezvous()
        assert all(summary.relays[0] == 4 for summary in paths)  # only we ourselves may dial it, as a guard


async def test_relays_of_one_owner_are_used_only_within_a_cluster():
    async with network(3) as net:
        for number, relay in net.relays.items():
            net.entries[number] = entry(number, keys=relay.keys, owner=owner(1), host="127.0.0.1", port=net.entries[number].port)
        with pytest.raises(Refused) as caught:
            await net.proxy().rendezvous()
        assert caught.value.reason == "NoDiversePath"
        await net.proxy(in_cluster=True).rendezvous()


async def test_many_circuits_share_a_guard_and_one_link_to_it():
    async with network(6) as net:
        paths: list[CircuitSummary] = []
        proxy = net.proxy(trace=paths.append)
        await both(*(proxy.rendezvous() for _ in range(3)))
        for _ in range(12):
            await proxy.rendezvous()
        guards = [summary.relays[0] for summary in paths if summary.state == "built"][3:]
        assert len(set(guards)) <= 2
        clients = [link for relay in net.relays.values() for link in relay.links if link.peer is None]
        assert len(clients) <= 3


async def test_a_trace_counts_bytes_and_production_makes_none():
    async with network() as net, service() as port:
        net.allow(port)
        seen: list[CircuitSummary] = []
        stream = await net.proxy(trace=seen.append).open("127.0.0.1", port)
        await both(stream.write(BIG), stream.readexactly(len(BIG)))
        await stream.close()
        await until(lambda: seen[-1].state == "closed")
        assert seen[0].purpose == "exit"
        assert len(seen[0].relays) == 3
        assert min(seen[-1].bytes_sent, seen[-1].bytes_received) > len(BIG)


async def test_a_proxy_is_closed_when_everything_has_left():
    received = asyncio.get_running_loop().create_future()

    async def sink(reader, writer):
        received.set_result(await reader.read())

    async with network() as net, service(sink) as port:
        net.allow(port)
        proxy = net.proxy()
        stream = await proxy.open("127.0.0.1", port)
        await stream.write(BIG[: 2 << 20])
        await stream.close()
        links = proxy._links.links
        await proxy.close()
        assert all(link.closed.done() for link in links)
        assert await asyncio.wait_for(received, 10) == BIG[: 2 << 20]


async def test_a_closed_proxy_builds_nothing_and_ends_what_it_built():
    async with network() as net:
        proxy = net.proxy()
        point = await proxy.rendezvous()
        await proxy.close()
        with pytest.raises(CircuitFailed):
            await point.accept()
        with pytest.raises(CircuitFailed):
            await proxy.rendezvous()
        await until(lambda: not any(relay.circuits for relay in net.relays.values()))


async def test_a_cancelled_wait_leaves_nothing_behind():
    async with network() as net:
        proxy = net.proxy()
        for delay in (0, 0.001, 0.003, 0.01):
            task = asyncio.create_task(proxy.rendezvous())
            await asyncio.sleep(delay)
            task.cancel()
            point = (await asyncio.gather(task, return_exceptions=True))[0]
            if not isinstance(point, BaseException):
                await point.close()
        await until(lambda: not any(relay.circuits for relay in net.relays.values()))


async def test_a_relay_that_comes_back_with_its_identity_is_used_while_the_old_one_still_drains():
    async with network(1) as net, service() as port:
        net.allow(port)
        proxy = net.proxy(hops=1, in_cluster=True)  # there is no way around it
        stream = await proxy.open("127.0.0.1", port)
        old = net.relays[1]
        old.draining = True
        net.relays[2] = fresh = Relay(RelayKeys(old.keys.identity))
        net.entries[1] = entry(1, keys=fresh.keys, host="127.0.0.1", port=await fresh.listen("127.0.0.1", 0))
        net.allow(port)
        another = await proxy.open("127.0.0.1", port)  # first over the link that is there, which says that it drains
        for each in (stream, another):
            await each.write(b"both")
            assert await each.readexactly(4) == b"both"
        assert (len(old.circuits), len(fresh.circuits)) == (1, 1)
        await proxy.close()
        await until(lambda: not old.links and not fresh.links)
