"""A client that speaks the protocol by hand: it can say what no honest client says."""

import asyncio
import dataclasses
import os
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from veilpod.core.onion import ntor
from veilpod.core.onion.cells import Command, Header, put_header
from veilpod.core.onion.directory import RelayEntry
from veilpod.core.onion.geometry import GEOMETRY, HEADER, CellClass
from veilpod.core.onion.layers import HopKeys, client_seal
from veilpod.core.onion.link import Initiator
from veilpod.core.onion.messages import Create, RelayCommand, parse_created, put_message
from veilpod.core.onion.reports import Report, open_report, parse_destroy
from veilpod.net.budget import Budget
from veilpod.net.link import Link

SMALL = GEOMETRY[CellClass.SMALL]


class Stranger:
    """A client that says exactly what a test wants: owner of its link and sink of its one circuit."""

    def __init__(self) -> None:
        self.answers: asyncio.Queue[tuple[Command, bytes]] = asyncio.Queue()
        self.keys: HopKeys | None = None

    async def dial(self, entry: RelayEntry) -> None:
        shake = Initiator(ephemeral=X25519PrivateKey.generate(), expected=entry.identity_key, identity=None, filler=os.urandom(96))
        loop = asyncio.get_running_loop()
        _, self.link = await loop.create_connection(lambda: Link(self, shake, budget=Budget()), entry.host, entry.port)
        await self.link.opened
        self.entry = entry

    def create(self, **changes: Any) -> tuple[Create, ntor.Target, ntor.Ephemeral]:
        ephemeral = changes.pop("ephemeral", None) or ntor.Ephemeral.generate()
        identity, onion = changes.pop("identity_key", self.entry.identity_key), changes.pop("onion_key", self.entry.onion_key)
        create = Create(cell_class=CellClass.SMALL, position=1, key_epoch=1, onionskin=b"")
        create = dataclasses.replace(create, **changes)
        target = ntor.Target(identity_key=identity, onion_key=onion, context=create.context)
        return dataclasses.replace(create, onionskin=ntor.onionskin(target, ephemeral)), target, ephemeral

    async def send_create(self, payload: bytes) -> tuple[Command, bytes]:
        self.id = self.link.new_circuit_id()
        self.link.routes[self.id] = self
        self.link.send_control(self.id, Command.CREATE, payload)
        return await self.answer()

    async def circuit(self) -> None:
        create, target, ephemeral = self.create()
        command, payload = await self.send_create(create.pack())
        assert command is Command.CREATED
        self.keys = HopKeys(ntor.finish(target, parse_created(payload).reply, ephemeral=ephemeral))

    def cell(self, relay_command: RelayCommand, data: bytes, *, command: Command = Command.RELAY, stream_id: int = 0) -> memoryview:
        cell = memoryview(bytearray(SMALL.cell))
        put_message(cell[HEADER : HEADER + SMALL.plain(1)], relay_command, data, stream_id=stream_id)
        assert self.keys is not None
        client_seal([self.keys], cell[HEADER:], SMALL, command)
        put_header(cell, Header(circ_id=self.id, command=command, cell_class=CellClass.SMALL))
        return cell

    def send(self, cell: memoryview, *, command: Command = Command.RELAY) -> None:
        self.link.send_layered(Header(circ_id=self.id, command=command, cell_class=CellClass.SMALL), memoryview(bytearray(cell)))

    async def answer(self) -> tuple[Command, bytes]:
        async with asyncio.timeout(10):
            return await self.answers.get()

    async def report(self) -> Report:
        command, payload = await self.answer()
        assert command is Command.DESTROY
        _, report = parse_destroy(payload)
        assert self.keys is not None
        assert report is not None
        return open_report([self.keys], report)

    # the link's calls
    def on_layered(self, header: Header, cell: memoryview) -> None: ...
    def on_control(self, command: Command, payload: bytes) -> None:
        self.answers.put_nowait((command, payload))

    def on_link_lost(self) -> None: ...
    def on_create(self, link: Link, circ_id: int, payload: bytes) -> None: ...
    def on_link_open(self, link: Link) -> None: ...
    def on_link_closed(self, link: Link) -> None: ...
