"""netguard against real sockets on loopback, and against networks of its own that lead nowhere."""

import asyncio
import contextlib
import os
import pathlib
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from tests.support.netguards import Fence, fence

from veilpod.agent import first_look, netguard, probe
from veilpod.agent.first_look import FirstLook
from veilpod.core.canary import Canary
from veilpod.errors import Refused

ROOT = pathlib.Path(__file__).parents[3]
NOBODY = Canary(host="127.0.0.1", port=1)


@pytest.fixture
def standing() -> Iterator[Fence]:
    with fence() as built:
        yield built


async def test_isolated_is_a_peer_that_answers_and_a_canary_that_does_not(standing: Fence) -> None:
    seen = await netguard.observe([standing.peer], [standing.canary], probe_seconds=0.2)
    assert (seen.allowed, seen.blocked, seen.leaks, seen.verdict) == (1, 1, 0, "NetworkIsolated")


async def test_a_canary_that_accepts_or_refuses_was_reached(standing: Fence) -> None:
    for canary in (standing.open_canary, NOBODY):
        seen = await netguard.observe([standing.peer], [standing.canary, canary], probe_seconds=0.2)
        assert seen.verdict == "CanaryReachable"


async def test_a_network_in_which_nothing_works_yet_proves_nothing(standing: Fence) -> None:
    silent = (standing.canary.host, standing.canary.port)
    assert (await netguard.observe([silent], [standing.canary], probe_seconds=0.2)).verdict == "PeerUnreachable"


async def test_without_canaries_nothing_is_proved(standing: Fence) -> None:
    assert (await netguard.observe([standing.peer], [], probe_seconds=0.2)).verdict == "CanaryReachable"


async def test_it_waits_for_a_fence_that_comes_up_late() -> None:
    late = Fence(up=False)  # the first probes get through and fill the canary's queue
    try:
        assert (await netguard.observe([late.peer], [late.canary], probe_seconds=0.2)).verdict == "CanaryReachable"
        seen = await netguard.wait_isolated([late.peer], [late.canary], seconds=5, probe_seconds=0.2)
        assert seen.verdict == "NetworkIsolated"
    finally:
        late.close()


@pytest.mark.parametrize("reason", ["CanaryReachable", "PeerUnreachable"])
async def test_it_refuses_with_the_last_verdict(standing: Fence, reason: str) -> None:
    silent = (standing.canary.host, standing.canary.port)
    allow, canary = (standing.peer, standing.open_canary) if reason == "CanaryReachable" else (silent, standing.canary)
    with pytest.raises(Refused) as refused:
        await netguard.wait_isolated([allow], [canary], seconds=0.6, probe_seconds=0.1)
    assert refused.value.reason == reason


async def test_a_first_look_passes_and_is_good_for_keys_for_a_while(standing: Fence, monkeypatch: pytest.MonkeyPatch) -> None:
    look = FirstLook([standing.peer], [standing.canary], seconds=5, probe_seconds=0.2)
    assert look.recent() is None
    await look.passed()
    assert look.recent() == netguard.Observation(allowed=1, blocked=1, leaks=0, unknown=0)
    monkeypatch.setattr(first_look, "_FRESH_SECONDS", 0.0)
    assert look.recent() is None


async def test_a_first_look_that_sees_no_fence_refuses(standing: Fence) -> None:
    look = FirstLook([standing.peer], [standing.open_canary], seconds=0.3, probe_seconds=0.1)
    with pytest.raises(Refused) as refused:
        await look.passed()
    assert refused.value.reason == "CanaryReachable"
    assert look.recent() is None


# -- what an answer is, and what is none


class Responder(asyncio.DatagramProtocol):
    """Answers every datagram, a name server or not."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.asked.append(data)
        self.transport.sendto(b"no", addr)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
async def test_a_datagram_that_is_answered_was_let_through(address: str) -> None:
    loop = asyncio.get_running_loop()
    transport, responder = await loop.create_datagram_endpoint(Responder, local_addr=(address, 0))
    with contextlib.closing(transport):
        port = transport.get_extra_info("sockname")[1]
        assert await probe.look(Canary(protocol="udp", host=address, port=port), 1.0) == "accepted"
    assert responder.asked == [probe.QUERY]
    assert b"kubernetes" in probe.QUERY


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
async def test_nobody_at_the_port_is_an_answer_too(protocol: str, address: str) -> None:
    assert await probe.look(Canary(protocol=protocol, host=address, port=1), 1.0) == "refused"


async def test_a_datagram_that_nobody_answers_is_silence() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as hole:
        hole.bind(("127.0.0.1", 0))
        assert await probe.look(Canary(protocol="udp", host="127.0.0.1", port=hole.getsockname()[1]), 0.3) == "silent"


async def test_an_answer_that_came_while_the_process_was_not_let_run_counts(standing: Fence) -> None:
    looking = asyncio.create_task(probe.look(standing.open_canary, 0.05))
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_soon(lambda: _stall(0.2))
    assert await looking == "accepted"


def _stall(seconds: float) -> None:
    """Let nothing else run, as a processor that belongs to somebody else."""
    with socket.socket() as sock:
        sock.settimeout(seconds)
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        with contextlib.suppress(TimeoutError):
            sock.accept()


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
async def test_what_could_not_be_looked_at_is_not_blocked(standing: Fence, protocol: str) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    canary = Canary(protocol=protocol, host=standing.canary.host, port=standing.canary.port)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, before[1]))  # not one more file
    try:
        seen = await netguard.observe([], [canary], probe_seconds=0.2)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert (seen.blocked, seen.leaks, seen.unknown, seen.verdict) == (0, 0, 1, "ProbeFailed")


NOWHERE = """
import asyncio, socket, sys
from veilpod.agent import netguard
async def main():
    server = socket.create_server(("127.0.0.1", 0))
    texts = ["169.254.169.254:80", "[fd00:ec2::254]:80", "udp://198.19.0.10:53", "node:10250"]
    canaries = netguard.parse_canaries(texts, "10.0.0.1,fd00::1")
    seen = await netguard.observe([server.getsockname()], canaries, probe_seconds=0.3)
    print(seen.verdict, seen.allowed, seen.blocked, seen.leaks, seen.unknown)
asyncio.run(main())
"""


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to make a network namespace")
def test_a_network_without_a_way_to_a_canary_blocks_it_by_both_protocols_and_families() -> None:
    seen = subprocess.run(
        ["unshare", "--net", "sh", "-c", f'ip link set lo up && exec {sys.executable} -c "$CODE"'],
        env={"PYTHONPATH": str(ROOT / "operator"), "PATH": os.environ["PATH"], "CODE": NOWHERE},
        capture_output=True,
        text=True,
        check=False,
    )
    assert seen.stdout.split() == ["NetworkIsolated", "1", "5", "0", "0"], seen.stderr


def test_a_canary_that_cannot_be_found_is_a_wrong_argument() -> None:
    for texts, node in ((["relay.example:80"], ""), (["node:10250"], ""), (["node:10250"], "here")):
        with pytest.raises(Refused) as refused:
            netguard.parse_canaries(texts, node)
        assert refused.value.reason == "BadArguments"
