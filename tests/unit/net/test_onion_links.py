"""What links do by themselves: bounds, keep-alive, giving up."""

import asyncio
import os
import socket

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from tests.support.onion import network, service, until

from veilpod.core.onion.cells import Command, Header
from veilpod.core.onion.geometry import GEOMETRY, WINDOW, CellClass
from veilpod.core.onion.link import Initiator, Responder
from veilpod.net.budget import Budget
from veilpod.net.link import Link, Timing

IDENTITY = Ed25519PrivateKey.generate()
BULK = GEOMETRY[CellClass.BULK].cell


class Owner:
    """Keeps what a link delivers."""

    def __init__(self) -> None:
        self.cells: list[tuple[int, bytes]] = []
        self.closed = 0
        self.lost = 0

    def on_layered(self, header, cell):
        self.cells.append((header.circ_id, bytes(cell[16:32])))

    def on_control(self, command, payload):
        self.cells.append((command, payload[:16]))

    def on_link_lost(self):
        self.lost += 1

    def on_create(self, link, circ_id, payload): ...
    def on_link_open(self, link): ...
    def on_link_closed(self, link):
        self.closed += 1


async def pair(*, timing: Timing | None = None, budgets: tuple[Budget, Budget] | None = None):
    """Two ends of a link: (owner, link) of the dialling and of the dialled side."""
    loop, owners, answered = asyncio.get_running_loop(), (Owner(), Owner()), asyncio.get_running_loop().create_future()
    one, other = budgets or (Budget(), Budget())

    def accept():
        link = Link(owners[1], Responder(ephemeral=X25519PrivateKey.generate(), identity=IDENTITY), budget=other, timing=timing)
        answered.set_result(link)
        return link

    server = await loop.create_server(accept, "127.0.0.1", 0)
    shake = Initiator(
        ephemeral=X25519PrivateKey.generate(), expected=IDENTITY.public_key().public_bytes_raw(), identity=None, filler=bytes(96)
    )
    address = server.sockets[0].getsockname()
    _, link = await loop.create_connection(lambda: Link(owners[0], shake, budget=one, timing=timing), *address)
    await link.opened
    await (await answered).opened
    server.close()
    return (owners[0], link), (owners[1], answered.result())


def cell(mark: int) -> memoryview:
    body = memoryview(bytearray(BULK))
    body[16:32] = mark.to_bytes(16, "big")
    return body


def send(link: Link, circ_id: int, mark: int) -> bool:
    return link.send_layered(Header(circ_id=circ_id, command=Command.RELAY, cell_class=CellClass.BULK), cell(mark))


async def test_cells_of_a_circuit_keep_their_order_and_circuits_share_a_blocked_link():
    (_, link), (theirs, far) = await pair()
    far.routes |= {1: theirs, 2: theirs}
    far.pause_reading()
    while not link._blocked:
        send(link, 1, 0)
    for mark in range(1, 31):
        assert send(link, 1, mark)
    for mark in range(1, 6):
        assert send(link, 2, mark)
    link.send_destroy(1, 0)
    before = len(theirs.cells)
    far.resume_reading()
    await until(lambda: (Command.DESTROY, bytes(16)) in theirs.cells)
    queued = theirs.cells[before:]
    for circuit, count in ((1, 30), (2, 5)):
        marks = [int.from_bytes(sample, "big") for circ_id, sample in queued if circ_id == circuit]
        assert [mark for mark in marks if mark] == list(range(1, count + 1))
    places = [index for index, (circ_id, _) in enumerate(queued) if circ_id == 2]
    assert len(queued) - places[-1] > 20  # the short circuit did not wait for the long one
    assert queued[-1] == (Command.DESTROY, bytes(16))  # and the end of a circuit comes behind its cells
    link.abort()
    await far.closed


async def test_a_circuits_queue_is_bounded_and_a_sender_waits_before_that():
    (_, link), (_, far) = await pair()
    far.pause_reading()
    while not link._blocked:
        send(link, 1, 0)
    for _ in range(2 * WINDOW[CellClass.BULK].circuit):
        assert send(link, 1, 0)
    assert not send(link, 1, 0)
    waiting = asyncio.create_task(link.ready(1))
    await asyncio.sleep(0)
    assert not waiting.done()
    far.resume_reading()
    await asyncio.wait_for(waiting, 10)
    link.abort()
    await far.closed


async def test_a_lost_link_frees_its_memory_its_circuits_and_who_waits():
    budget = Budget()
    (ours, link), (_, far) = await pair(budgets=(budget, Budget()))
    link.routes[1] = ours
    far.pause_reading()
    while not link._blocked:
        send(link, 1, 0)
    for _ in range(10):
        send(link, 1, 0)
    assert budget.used == 10 * BULK
    waiting = asyncio.create_task(link.ready(1))
    await asyncio.sleep(0)
    link.abort()
    await asyncio.wait_for(waiting, 10)
    await link.closed
    far.abort()
    await far.closed
    assert send(link, 1, 0)  # nobody minds, and nothing is kept
    assert (budget.used, ours.lost, ours.closed) == (0, 1, 1)


async def test_closing_a_link_first_sends_what_is_queued():
    (_, link), (theirs, far) = await pair()
    far.routes[1] = theirs
    far.pause_reading()
    while not link._blocked:
        send(link, 1, 0)
    for mark in range(1, 11):
        send(link, 1, mark)
    link.close()
    assert not link.usable
    far.resume_reading()
    await asyncio.wait_for(asyncio.shield(link.closed), 10)
    await asyncio.wait_for(asyncio.shield(far.closed), 10)
    assert theirs.cells[-1] == (1, (10).to_bytes(16, "big"))


FAST = {"pad_least": 0.02, "pad_most": 0.03}


async def test_an_idle_link_is_kept_alive_by_padding():
    (ours, link), (_, far) = await pair(timing=Timing(quiet=0.3, **FAST))
    link.routes[1] = ours
    before = far.bytes_in
    await until(lambda: far.bytes_in - before > 20 * GEOMETRY[CellClass.SMALL].cell)
    assert link.alive
    assert far.alive
    link.abort()
    await far.closed


async def test_a_silent_peer_is_given_up():
    (_, link), (_, far) = await pair(timing=Timing(quiet=0.2, **FAST))
    far._timer.cancel()  # its keep-alive
    await asyncio.wait_for(asyncio.shield(link.closed), 10)
    await far.closed


async def test_a_peer_that_takes_nothing_is_given_up():
    (_, link), (_, far) = await pair(timing=Timing(quiet=0.2, **FAST))
    far.pause_reading()
    while not link._blocked:
        send(link, 1, 0)
    await asyncio.wait_for(asyncio.shield(link.closed), 10)
    far.abort()
    await far.closed


async def test_the_dialling_side_closes_a_link_without_circuits():
    (_, link), (_, far) = await pair(timing=Timing(idle=0.1, **FAST))
    await asyncio.wait_for(asyncio.shield(far.closed), 10)
    await link.closed


async def test_random_bytes_on_an_open_link_close_it():
    (_, link), (_, far) = await pair()
    link._transport.write(os.urandom(4096))
    await asyncio.wait_for(asyncio.shield(far.closed), 10)
    await link.closed


class Paused:
    paused = False

    def pause_reading(self):
        self.paused = True

    def resume_reading(self):
        self.paused = False


async def test_over_the_budget_nobody_is_read_until_half_of_it_has_gone():
    budget, link, late = Budget(100), Paused(), Paused()
    budget.join(link)
    budget.take(101)
    assert link.paused
    budget.join(late)
    assert late.paused
    budget.give(50)
    assert link.paused
    budget.give(1)
    assert not link.paused
    assert not late.paused


async def test_over_the_rate_everybody_waits_for_a_moment():
    budget, link = Budget(rate=1000), Paused()
    budget.join(link)
    budget.received(900)
    assert not link.paused
    budget.received(200)
    assert link.paused
    await until(lambda: not link.paused)
    budget.take(0)


async def test_after_a_pause_a_burst_of_more_than_a_second_is_carried_at_once():
    budget, link = Budget(rate=1000, burst=5000), Paused()
    budget.join(link)
    budget.received(4900)
    assert not link.paused
    budget.received(200)
    assert link.paused
    await until(lambda: not link.paused)


async def test_a_burst_of_little_costs_no_rate():
    budget, link = Budget(rate=100_000, burst=100), Paused()
    budget.join(link)
    start = asyncio.get_running_loop().time()
    for _ in range(100):
        budget.received(200)
        await until(lambda: not link.paused)
    assert asyncio.get_running_loop().time() - start < 5  # a fifth of a second's worth of bytes, not a tenth for each


async def test_a_rate_that_is_raised_ends_a_long_wait():
    budget, link = Budget(rate=10), Paused()
    budget.join(link)
    budget.received(100_000)  # hours
    budget.bound(rate=1_000_000)
    assert not link.paused
    budget.received(1)
    assert link.paused  # for a tenth of a second: what came in is made up for at the new rate
    await until(lambda: not link.paused)


async def test_a_rate_that_is_told_again_ends_no_wait():
    budget, link = Budget(rate=1000), Paused()
    budget.join(link)
    budget.received(2000)
    budget.bound(rate=1000)
    assert link.paused


async def test_a_bound_may_come_later():
    budget, link = Budget(), Paused()
    budget.join(link)
    budget.received(100_000)
    budget.bound(rate=1000)
    budget.received(1001)
    assert link.paused


@pytest.mark.parametrize("cell_class", list(CellClass))
async def test_a_client_that_takes_nothing_holds_one_window_at_its_guard(cell_class):
    async def flood(reader, writer):
        while True:
            writer.write(bytes(1 << 16))
            await writer.drain()

    async with network() as net, service(flood) as port, service() as echo:
        net.allow(port, echo)
        stuck, lively = net.proxy(cell_class=cell_class), net.proxy()
        stream = await stuck.open("127.0.0.1", port)
        for link in [*stuck._links.links, *(link for relay in net.relays.values() for link in relay.links)]:
            # The kernel would take a whole window in silence.
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                link._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, option, 1 << 16)
        await stream.read(1)
        for link in stuck._links.links:
            link.pause_reading()

        # In the circuits' queues, or in what the links have given the kernel and it has not taken.
        def held() -> int:
            links = [link for relay in net.relays.values() for link in relay.links]
            return sum(relay.queued for relay in net.relays.values()) + sum(link._transport.get_write_buffer_size() for link in links)

        await until(held)
        window = WINDOW[cell_class].circuit * GEOMETRY[cell_class].cell
        for _ in range(5):
            await asyncio.sleep(0.05)
            assert held() <= window + 16 * GEOMETRY[cell_class].cell
            other = await lively.open("127.0.0.1", echo)  # nobody else notices
            await other.write(b"still here")
            assert await other.readexactly(10) == b"still here"
            await other.close()
        for link in stuck._links.links:
            link.resume_reading()
        await stream.readexactly(1 << 20)
