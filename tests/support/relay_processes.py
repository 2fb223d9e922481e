"""Relays as processes, each with its operator's link."""

import asyncio
import base64
import contextlib
import os
import socket
import sys
import time
from collections.abc import AsyncIterator

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.support.onion import CHAIN_ID, REGISTRY, owner

from veilpod.core.canonical import from_hex
from veilpod.core.ids import NodeId
from veilpod.core.onion.directory import RelayEntry
from veilpod.net.control import connect
from veilpod.net.control_client import Link
from veilpod.net.control_tls import control_certificate

OPERATOR = Ed25519PrivateKey.generate()


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]


class RelayProcess:
    """One `python -m veilpod.relay` with its operator's link."""

    process: asyncio.subprocess.Process
    link: Link
    port: int
    control: int
    metrics: int

    def __init__(self, number: int, *options: str) -> None:
        self.number, self._options = number, options

    async def start(self) -> None:
        """Start on ports that nobody else takes in between."""
        for _ in range(3):
            self.port, self.control, self.metrics = free_ports(3)
            self.process = await self._spawn()
            ended = asyncio.get_running_loop().create_task(self.process.wait())
            connecting = asyncio.get_running_loop().create_task(connect("127.0.0.1", self.control, key=OPERATOR, timeout=30))
            await asyncio.wait({ended, connecting}, return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                ended.cancel()
                self.link = await connecting
                return
            connecting.cancel()
            await asyncio.gather(connecting, return_exceptions=True)
        raise AssertionError("the relay does not start")

    async def _spawn(self) -> asyncio.subprocess.Process:
        certificate = base64.b64encode(control_certificate(OPERATOR)).decode()
        ports = {"listen": self.port, "control": self.control, "metrics": self.metrics}
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "veilpod.relay", f"--operator-cert={certificate}",
            *(f"--{name}=127.0.0.1:{port}" for name, port in ports.items()), *self._options,
            stdout=asyncio.subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": "operator"},
        )  # fmt: skip

    async def entry(self, key_epoch: int = 1) -> RelayEntry:
        """Register it, as its operator would, with a directory that is only in this test."""
        identity = await self.link.call("identity")
        of = owner(self.number)
        answer = await self.link.call("prove", owner=of.lower(), keyEpoch=key_epoch, registry=REGISTRY.lower(), chainId=CHAIN_ID)
        return RelayEntry(
            node_id=NodeId(self.number), owner=of, identity_key=from_hex(identity["identityKey"]), onion_key=from_hex(answer["onionKey"]),
            key_epoch=key_epoch, host="127.0.0.1", port=self.port, proof=from_hex(answer["proof"]), updated_at=int(time.time()),
            registry=REGISTRY, chain_id=CHAIN_ID,
        )  # fmt: skip

    async def stop(self) -> int:
        if self.process.returncode is None:
            self.process.terminate()
        await self.link.close()
        async with asyncio.timeout(10):
            return await self.process.wait()


@contextlib.asynccontextmanager
async def processes(count: int, *options: str) -> AsyncIterator[list[RelayProcess]]:
    """Run relays 1 to `count`."""
    relays = [RelayProcess(number, *options) for number in range(1, count + 1)]
    try:
        await asyncio.gather(*(relay.start() for relay in relays))
        yield relays
    finally:
        await asyncio.gather(*(relay.stop() for relay in relays))
