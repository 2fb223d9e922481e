"""A real store on loopback with its operator's link, and the few lines that a client of it needs."""

import asyncio
import contextlib
import pathlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from veilpod.control.store_link import StoreLink
from veilpod.core.keys import NodeKeys, SigningKey, node_keys
from veilpod.core.onion.directory import RelayEntry
from veilpod.net.control import connect, control_certificate
from veilpod.net.process import Listen
from veilpod.ports import ControlLink, Onion
from veilpod.store.listener import TcpStream
from veilpod.store.service import OnionFactory, Service

LOOPBACK = Listen(host="127.0.0.1", port=0)
KEYS: NodeKeys = node_keys(SigningKey(secret=b"\x31" * 32))
SEAL_PUBLIC = KEYS.seal.public_key().public_bytes_raw()


def no_onion(*, directory: Callable[[], Sequence[RelayEntry]], hops: int, in_cluster: bool, constant_rate: int) -> Onion:
    raise AssertionError("this test builds no circuit")


@contextlib.asynccontextmanager
async def running(data: pathlib.Path, *, onion: OnionFactory = no_onion, quota: int = 1 << 30) -> AsyncIterator[Service]:
    service = Service(data=data, quota=quota, operator_cert=control_certificate(KEYS.control), onion=onion)
    task = asyncio.create_task(service.run(listen=LOOPBACK, control=LOOPBACK, upload=LOOPBACK, metrics_at=None))
    try:
        async with asyncio.timeout(30):
            for part in (service.control, service.listener, service.upload):
                await part.listening.wait()
        yield service
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


class Linked:
    """An operator's link to whatever store `service` is now; `events` is what it was told."""

    def __init__(self, service: Service, directory: Sequence[RelayEntry] = ()) -> None:
        self.service = service
        self.directory = directory
        self.events: asyncio.Queue[tuple[str, dict[str, Any]]] = asyncio.Queue()
        self.ready = asyncio.Event()
        self.link = StoreLink(
            locate=self._locate,
            connect=self._connect,
            seal_key=KEYS.seal.private_bytes_raw(),
            directory=self._directory,
            on_event=self._on_event,
            on_ready=self.ready.set,
        )

    async def event(self, name: str) -> dict[str, Any]:
        async with asyncio.timeout(30):
            while True:
                event, data = await self.events.get()
                if event == name:
                    return data

    async def _locate(self) -> tuple[str, int]:
        return "127.0.0.1", self.service.control.port

    async def _connect(self, host: str, port: int) -> ControlLink:
        return await connect(host, port, key=KEYS.control)

    async def _directory(self) -> Sequence[RelayEntry]:
        return self.directory

    async def _on_event(self, event: str, data: dict[str, Any]) -> None:
        self.events.put_nowait((event, data))


@contextlib.asynccontextmanager
async def linked(service: Service, directory: Sequence[RelayEntry] = ()) -> AsyncIterator[Linked]:
    operator = Linked(service, directory)
    task = asyncio.create_task(operator.link.run())
    try:
        async with asyncio.timeout(30):
            await operator.ready.wait()
        yield operator
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@contextlib.asynccontextmanager
async def stream_to(port: int) -> AsyncIterator[TcpStream]:
    stream = TcpStream(*await asyncio.open_connection("127.0.0.1", port))
    try:
        yield stream
    finally:
        await stream.close()
