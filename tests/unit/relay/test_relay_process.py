"""Relays as processes, run and told what to do as an operator does."""

import asyncio
import base64
import contextlib
import os
import socket
import sys
import time
import urllib.request

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.support.onion import CHAIN_ID, REGISTRY, owner, service, until

from veilpod.core.canonical import from_hex, to_hex
from veilpod.core.ids import NodeId
from veilpod.core.onion.directory import RelayEntry
from veilpod.errors import CircuitFailed, ProtocolViolation, Refused
from veilpod.net.control import connect
from veilpod.net.control_client import Link
from veilpod.net.control_tls import control_certificate
from veilpod.net.onion import OnionProxy
from veilpod.net.streams import MuxStream

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

    def __init__(self, number: int) -> None:
        self.number = number

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
            *(f"--{name}=127.0.0.1:{port}" for name, port in ports.items()),
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
async def processes(count: int):
    relays = [RelayProcess(number) for number in range(1, count + 1)]
    try:
        await asyncio.gather(*(relay.start() for relay in relays))
        yield relays
    finally:
        await asyncio.gather(*(relay.stop() for relay in relays))


async def test_relay_processes_carry_streams_and_meetings_and_say_which_of_them_died():
    async with processes(3) as relays, service() as port:
        entries = [await relay.entry() for relay in relays]
        for relay in relays:
            assert await relay.link.call("directory", directory=[entry.to_json() for entry in entries]) == {"relays": 3}
            assert await relay.link.call("endpoints", endpoints=[f"127.0.0.1:{port}"]) == {"endpoints": 1}
        one, other = (OnionProxy(directory=lambda: entries, hops=3, in_cluster=False) for _ in range(2))
        data = os.urandom(8 << 20)

        stream = await one.open("127.0.0.1", port)
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            group.create_task(stream.write(data))
            echoed = group.create_task(stream.readexactly(len(data)))
        assert echoed.result() == data

        point = await one.rendezvous()
        guest = await other.connect(relay=point.relay, cookie=point.cookie, service_key=point.service_key)
        host = await point.accept()
        out, (_, into) = await guest.open_stream("out"), await host.accept_stream()
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            for writer in (out, into):
                group.create_task(writer.write(data))
            results = [group.create_task(reader.readexactly(len(data))) for reader in (out, into)]
        assert all(result.result() == data for result in results)

        metrics = await asyncio.to_thread(scrape, relays[0].metrics)
        assert "veilpod_relay_creates_total" in metrics
        assert "127.0.0.1" not in metrics

        killed = next(relay for relay in relays if relay.number != point.relay)
        killed.process.kill()
        with pytest.raises(CircuitFailed) as caught:
            await write_for_ever(out, data)
        assert caught.value.blamed is None or killed.number in caught.value.blamed
        await one.close()
        await other.close()


async def write_for_ever(stream: MuxStream, data: bytes) -> None:
    async with asyncio.timeout(60):
        while True:
            await stream.write(data)


def scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as response:
        return response.read().decode()


async def test_a_relay_process_obeys_its_operator_and_ends_on_sigterm():
    async with processes(1) as (relay,):
        before = await relay.link.call("identity")
        rotated = await relay.link.call("rotate", replaces=before["onionKey"])
        assert rotated["onionKey"] != before["onionKey"]
        assert await relay.link.call("rotate", replaces=before["onionKey"]) == rotated  # repeated: nothing happens
        assert (await relay.entry(2)).onion_key == from_hex(rotated["onionKey"])
        await relay.link.call("drain", draining=True)
        assert (await relay.link.call("identity"))["draining"] is True
        for command, args in (
            ("prove", {"owner": "0x"}),
            ("rotate", {"replaces": to_hex(b"short")}),
            ("endpoints", {"endpoints": ["store.example:80"]}),
            ("directory", {"directory": [{}]}),
            ("drain", {"draining": "yes"}),
            ("identity", {"what": 1}),
        ):
            with pytest.raises((Refused, ProtocolViolation)):
                await relay.link.call(command, **args)
        assert await relay.stop() == 0
        await until(lambda: relay.process.returncode == 0)
