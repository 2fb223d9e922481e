"""Relays as processes, run and told what to do as an operator does."""

import asyncio
import os
import pathlib
import subprocess
import sys
import urllib.error
import urllib.request

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.support.onion import service, until
from tests.support.relay_processes import processes

from veilpod.core.canonical import from_hex, to_hex
from veilpod.core.onion import relay_identity
from veilpod.errors import CircuitFailed, ProtocolViolation, Refused
from veilpod.net.onion import OnionProxy
from veilpod.net.streams import MuxStream


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


async def test_a_relay_that_is_told_to_end_lets_its_circuits_end_first():
    async with processes(3, "--drain-seconds=30") as relays, service() as port:
        entries = [await relay.entry() for relay in relays]
        for relay in relays:
            await relay.link.call("directory", directory=[entry.to_json() for entry in entries])
            await relay.link.call("endpoints", endpoints=[f"127.0.0.1:{port}"])
        proxy = OnionProxy(directory=lambda: entries, hops=3, in_cluster=False)
        stream = await proxy.open("127.0.0.1", port)
        ended = asyncio.create_task(relays[0].process.wait())
        relays[0].process.terminate()
        with pytest.raises(CircuitFailed):
            await build_for_ever(proxy)
        await stream.write(b"still here")
        assert await stream.readexactly(10) == b"still here"
        assert not ended.done()
        await stream.close()
        assert await asyncio.wait_for(ended, 10) == 0
        await proxy.close()


async def build_for_ever(proxy: OnionProxy) -> None:
    async with asyncio.timeout(30):
        while True:
            await (await proxy.rendezvous()).close()


async def write_for_ever(stream: MuxStream, data: bytes) -> None:
    async with asyncio.timeout(60):
        while True:
            await stream.write(data)


async def test_a_relay_is_ready_once_its_operator_has_informed_it():
    def probe(port: int) -> int:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as response:
                return response.status
        except urllib.error.HTTPError as error:
            return error.code

    async with processes(1) as (relay,):
        assert await asyncio.to_thread(probe, relay.metrics) == 503
        await relay.link.call("directory", directory=[])
        assert await asyncio.to_thread(probe, relay.metrics) == 200


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
        assert await relay.link.call("carry", bandwidth=1000, burst=5000) == {"bandwidth": 1000, "burst": 5000}
        for command, args in (
            ("carry", {"bandwidth": 0, "burst": 1}),
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


# -- an identity that its owner keeps


async def test_a_restarted_relay_with_a_kept_identity_is_the_same_one_with_another_onion_key(tmp_path: pathlib.Path):
    key, path = Ed25519PrivateKey.generate(), tmp_path / "key"
    path.write_text(relay_identity.spell(key))
    lives = []
    for _ in range(2):
        async with processes(1, f"--identity-file={path}") as (relay,):
            lives.append(await relay.link.call("identity"))
    assert {life["identityKey"] for life in lives} == {to_hex(key.public_key().public_bytes_raw())}
    assert lives[0]["onionKey"] != lives[1]["onionKey"]


@pytest.mark.parametrize(("text", "code"), [(None, 66), ("", 65), ("-----BEGIN PRIVATE KEY-----\nsecret words\n", 65)])
async def test_a_relay_that_was_promised_an_identity_never_takes_another(tmp_path: pathlib.Path, text, code):
    path = tmp_path / "key"
    if text is not None:
        path.write_text(text)
    command = [sys.executable, "-m", "veilpod.relay", f"--identity-file={path}", "--operator-cert="]
    environment = os.environ | {"PYTHONPATH": "operator"}
    ended = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, env=environment, timeout=30, check=False)
    assert ended.returncode == code
    said = ended.stdout + ended.stderr
    assert "relay.identity_refused" in said
    assert "secret words" not in said
    assert str(path) not in said
