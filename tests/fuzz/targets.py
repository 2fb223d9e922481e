"""What is fuzzed. Each target takes bytes and raises only when something is wrong with the product."""

import asyncio
import contextlib
import json
import os
from typing import Any, cast
from unittest import mock

from atheris import FuzzedDataProvider
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from tests.support import virtual
from tests.support.onion import entry
from tests.support.stranger import SMALL, Stranger
from veilpod.core.endpoint import parse_endpoint
from veilpod.core.onion import ntor
from veilpod.core.onion.cells import Command, Header, parse_header
from veilpod.core.onion.directory import RelayEntry
from veilpod.core.onion.geometry import HEADER, CellClass
from veilpod.core.onion.layers import HopKeys, put_end_to_end, relay_seal
from veilpod.core.onion.legs import Numbers
from veilpod.core.onion.messages import (
    Created,
    RelayCommand,
    parse_create,
    parse_created,
    parse_extend,
    parse_join,
    parse_message,
    put_message,
)
from veilpod.core.onion.reports import open_report, parse_destroy
from veilpod.errors import CircuitFailed, VeilpodError
from veilpod.net.circuit import Circuit
from veilpod.net.guest import Guest
from veilpod.net.leg import Leg
from veilpod.net.link import Link
from veilpod.net.meeting import Paths
from veilpod.net.mux import Mux
from veilpod.net.onion import OnionProxy
from veilpod.net.session import OnionSession
from veilpod.net.streams import Hold
from veilpod.relay.keys import RelayKeys
from veilpod.relay.limits import Limits
from veilpod.relay.router import Relay

PARSERS = (parse_create, parse_created, parse_extend, parse_join, parse_destroy, ntor.parse_onionskin)
KEYS = RelayKeys()
ENTRY = entry(1, keys=KEYS, host="10.1.0.1")
SEED = bytes(32)


def parsers(data: bytes) -> None:
    """Every parser of what comes in a cell reads or refuses."""
    for parse in PARSERS:
        with contextlib.suppress(VeilpodError):
            parse(data)
    with contextlib.suppress(VeilpodError):
        parse_header(memoryview(bytearray(data[:HEADER].ljust(HEADER, b"\0"))))
    with contextlib.suppress(VeilpodError):
        parse_message(memoryview(bytearray(data.ljust(8, b"\0"))))
    with contextlib.suppress(VeilpodError):
        ntor.parse_onionskin(data.ljust(ntor.ONIONSKIN, b"\0")[: ntor.ONIONSKIN]).encapsulate()
    open_report([HopKeys(SEED)], data.ljust(256, b"\0")[:256])


def directory(data: bytes) -> None:
    """A directory's entry is read or refused, whatever is wrong with it."""
    provider = FuzzedDataProvider(data)
    with contextlib.suppress(VeilpodError):
        parse_endpoint(provider.ConsumeUnicode(40))
    value: Any = ENTRY.to_json()
    for _ in range(provider.ConsumeIntInRange(1, 3)):
        name = provider.PickValueInList(sorted(value))
        choices = [provider.ConsumeUnicode(80), provider.ConsumeInt(8), None, [], {}, True, provider.ConsumeRegularFloat(), ENTRY.host]
        value[name] = provider.PickValueInList(choices)
        if provider.ConsumeBool():
            del value[name]
            break
    with contextlib.suppress(VeilpodError):
        RelayEntry.from_json(value)
    with contextlib.suppress(VeilpodError, ValueError):
        RelayEntry.from_json(json.loads(provider.ConsumeUnicode(200)))


def relay(data: bytes) -> None:
    """Whatever a stranger sends, a relay stays within its bounds and serves the next one."""
    with virtual.network(lambda a, b: 0.001) as net, mock.patch("time.time", net.loop.time):
        trouble: list[Any] = []
        net.loop.set_exception_handler(lambda loop, context: trouble.append(context))
        net.run(net.host("10.1.0.1").start(_relay(net, FuzzedDataProvider(data))))
        if trouble:
            raise RuntimeError(trouble)


async def _relay(net: virtual.Network, provider: FuzzedDataProvider) -> None:
    keys = RelayKeys()  # of this run only: they remember whom they have seen
    served = Relay(keys, Limits(circuits_per_link=20))
    await served.listen("10.1.0.1", 9001)
    listed = entry(1, keys=keys, host="10.1.0.1")
    served.use_directory([entry(2)])
    stranger = net.host("10.3.0.1").start(_stranger(listed, provider))
    await asyncio.wait([stranger], timeout=300)
    if stranger.done() and (error := stranger.exception()) is not None and not isinstance(error, ConnectionError | TimeoutError):
        raise error
    if served.queued > 64 << 20 or len(served.circuits) > 20:
        raise RuntimeError(f"{served.queued} bytes and {len(served.circuits)} circuits for one stranger")
    async with asyncio.timeout(60):
        await net.host("10.4.0.1").start(_bystander(listed))
    await served.close()


async def _bystander(listed: RelayEntry) -> None:
    loop = asyncio.get_running_loop()
    proxy = OnionProxy(directory=lambda: [listed], hops=1, in_cluster=True, clock=loop.time)
    await proxy.rendezvous()
    await proxy.close()


async def _stranger(listed: RelayEntry, provider: FuzzedDataProvider) -> None:
    one = Stranger()
    await one.dial(listed)
    one.id = one.link.new_circuit_id()
    for _ in range(12):
        if not provider.remaining_bytes() or not one.link.alive:
            break
        match provider.ConsumeIntInRange(0, 4):
            case 0:
                await asyncio.wait_for(one.circuit(), 5)
            case 1:
                create = one.create(position=provider.ConsumeIntInRange(0, 9), onward=provider.ConsumeBytes(60))[0]
                one.link.send_control(one.link.new_circuit_id(), Command.CREATE, create.pack()[:4064])
            case 2:
                command = provider.PickValueInList([Command.PADDING, Command.CREATE, Command.CREATED, Command.DESTROY])
                one.link.send_control(one.id, command, provider.ConsumeBytes(300))
            case 3 if one.keys is not None:
                command, early = (
                    provider.PickValueInList(list(RelayCommand)),
                    provider.PickValueInList([Command.RELAY, Command.RELAY_EARLY]),
                )
                area = one.cell(command, provider.ConsumeBytes(400), command=early, stream_id=provider.ConsumeIntInRange(0, 65535))
                one.send(area, command=early)
            case _:
                one.link._transport.write(provider.ConsumeBytes(4096))
        await asyncio.sleep(0.01)
    one.link.abort()


class _Guard:
    """The link to a relay that says what the fuzzer wants."""

    alive = True

    def __init__(self) -> None:
        self.routes: dict[int, Any] = {}
        self.created: bytes | None = None
        self.keys: HopKeys | None = None

    def new_circuit_id(self) -> int:
        return 1

    def send_control(self, circ_id: int, command: Command, payload: bytes) -> None:
        create = parse_create(payload)
        skin = ntor.parse_onionskin(create.onionskin)
        target = ntor.Target(identity_key=skin.identity_key, onion_key=skin.onion_key, context=create.context)
        ephemeral, static = X25519PrivateKey.generate(), KEYS.newest.private
        answer = ntor.respond(target, static=static, client=skin, ephemeral=ephemeral, encapsulated=skin.encapsulate())
        self.created, self.keys = Created(reply=answer.reply).pack(), HopKeys(answer.seed)

    def send_layered(self, header: Header, cell: memoryview) -> bool:
        return True

    def send_destroy(self, *_: Any) -> None: ...
    async def ready(self, circ_id: int) -> None: ...


class _Paths:
    """Gives one circuit, and no other."""

    def __init__(self, circuit: Circuit) -> None:
        self.build = mock.AsyncMock(side_effect=[circuit, CircuitFailed("no other")])
        self.places = mock.Mock(return_value=[])
        self.watch = mock.Mock()
        self.constant_rate = 0


async def _never(_: Any) -> Leg:
    raise CircuitFailed("no other leg")


class _Streams:
    """Takes what comes as an exit's client does."""

    def __init__(self, circuit: Circuit) -> None:
        self.mux = Mux(circuit, circuit.cell_class, first_id=1, on_begin=None, hold=Hold(1 << 20))
        self.on_message, self.on_failed = self.mux.handle, self.mux.fail


def client(data: bytes) -> None:
    """Whatever a relay answers, a client's circuit works or fails, and says no more than that."""
    loop = virtual.VirtualLoop()
    trouble: list[Any] = []
    loop.set_exception_handler(lambda loop, context: trouble.append(context))
    try:
        loop.run_until_complete(asyncio.wait_for(_client(FuzzedDataProvider(data)), 300))
    finally:
        loop.end_tasks()
        loop.close()
    if trouble:
        raise RuntimeError(trouble)


async def _client(provider: FuzzedDataProvider) -> None:
    guard = _Guard()
    circuit = Circuit(cast(Link, guard), [ENTRY], CellClass.SMALL)
    building = asyncio.ensure_future(circuit.build())
    await asyncio.sleep(0)
    assert guard.created is not None
    assert guard.keys is not None
    if provider.ConsumeBool():
        circuit.on_control(Command.CREATED, guard.created)
    work: list[asyncio.Future[Any]] = [building]
    await asyncio.sleep(0.1)
    peer: HopKeys | None = None
    match provider.ConsumeIntInRange(0, 3):
        case 0:
            work.append(asyncio.ensure_future(_Streams(circuit).mux.open(b"10.0.0.1:1")))
        case 1:
            paths = cast(Paths, _Paths(circuit))
            guest = Guest(paths, relay=ENTRY.node_id, cookie=bytes(20), service_key=KEYS.newest.public)
            work.append(asyncio.ensure_future(guest.join()))
        case 2:
            leg = Leg(circuit, HopKeys(bytes(32)), guest=True, rate=0)
            peer = HopKeys(bytes(32))
            session = OnionSession(leg, session_id=bytes(32), guest=True, meet_again=_never)
            work.append(asyncio.ensure_future(session.open_stream("s")))
    await asyncio.sleep(0.1)
    for _ in range(12):
        if not provider.remaining_bytes():
            break
        if provider.ConsumeIntInRange(0, 9) == 0:
            circuit.on_control(provider.PickValueInList([Command.CREATED, Command.DESTROY]), provider.ConsumeBytes(300))
        else:
            cell = memoryview(bytearray(SMALL.cell))
            command = provider.PickValueInList(list(RelayCommand))
            identity = provider.ConsumeIntInRange(0, 3)
            area, said = cell[HEADER : HEADER + SMALL.plain(1)], provider.ConsumeBytes(400)
            if peer is None:
                put_message(area, command, said, flags=identity & 1, stream_id=identity)
            else:
                counts = [provider.ConsumeIntInRange(0, 5) for _ in range(3)]
                numbers = Numbers(number=counts[0], newest=counts[1], arrived=counts[2])
                put_end_to_end(peer.backward, area, SMALL, numbers, command, said, flags=identity & 1, stream_id=identity)
            relay_seal(guard.keys, cell[HEADER:], 1, SMALL, os.urandom)
            circuit.on_layered(Header(circ_id=1, command=Command.RELAY, cell_class=CellClass.SMALL), cell)
        await asyncio.sleep(0.01)
    circuit.close()
    for outcome in await asyncio.gather(*work, return_exceptions=True):
        if isinstance(outcome, BaseException) and not isinstance(outcome, VeilpodError):
            raise outcome
