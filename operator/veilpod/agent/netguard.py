"""Prove the network fence before any key exists, and again and again while the sandbox runs (paper step 4: an isolated sandbox).

One observation opens TCP connections to every allowed peer and every canary at the same time. Only "a peer answers and no canary does"
counts, within one observation: policies are programmed with a delay after a pod starts, so a canary that is blocked before the network
works proves nothing, and a peer that answers before the fence is up proves nothing either. A canary that *refuses* a connection was
reached: a fence drops, it does not answer.

An agent whose network is not isolated ends before it listens, with one word in the termination message and one of these exit codes:
20 CanaryReachable, 21 PeerUnreachable, 22 BadArguments.
"""

import asyncio
import contextlib
import dataclasses
from collections.abc import Sequence

from veilpod.core.endpoint import parse_endpoint
from veilpod.core.task.exit_codes import CANARY_REACHABLE
from veilpod.errors import ProtocolViolation, Refused

EXIT_CODES = {"CanaryReachable": CANARY_REACHABLE, "PeerUnreachable": 21, "BadArguments": 22}
_PROBE_SECONDS = 1.0
_PAUSE_SECONDS = 0.25
_PROBES = 64  # sockets at once

Endpoint = tuple[str, int]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What answered, at one moment."""

    allowed: int  # peers that accepted a connection
    blocked: int  # canaries from which nothing came
    leaks: int  # canaries that answered in any way

    @property
    def verdict(self) -> str:
        """NetworkIsolated, CanaryReachable or PeerUnreachable. Without canaries nothing is proved."""
        if self.leaks or not self.blocked:
            return "CanaryReachable"
        return "NetworkIsolated" if self.allowed else "PeerUnreachable"


async def observe(allow: Sequence[Endpoint], canaries: Sequence[Endpoint], *, probe_seconds: float = _PROBE_SECONDS) -> Observation:
    """Probe everything at once."""
    places = asyncio.Semaphore(_PROBES)

    async def bounded(endpoint: Endpoint) -> str:
        async with places:
            return await _probe(endpoint, probe_seconds)

    answers = await asyncio.gather(*(bounded(endpoint) for endpoint in [*allow, *canaries]))
    peers, rest = answers[: len(allow)], answers[len(allow) :]
    silent = rest.count("silent")
    return Observation(allowed=peers.count("accepted"), blocked=silent, leaks=len(rest) - silent)


async def wait_isolated(
    allow: Sequence[Endpoint], canaries: Sequence[Endpoint], *, seconds: float, probe_seconds: float = _PROBE_SECONDS
) -> Observation:
    """Observe until the network is isolated. Raises Refused with the last verdict as its reason."""
    last = "PeerUnreachable"
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while True:
                seen = await observe(allow, canaries, probe_seconds=probe_seconds)
                last = seen.verdict
                if last == "NetworkIsolated":
                    return seen
                await asyncio.sleep(_PAUSE_SECONDS)
    remedy = "the cluster's network must enforce NetworkPolicy by dropping" if last == "CanaryReachable" else "no allowed relay answers"
    raise Refused(last, f"the sandbox's network is not isolated: {remedy}")


def parse_endpoints(texts: Sequence[str]) -> list[Endpoint]:
    """Read ip:port arguments. Raises Refused("BadArguments")."""
    try:
        return [parse_endpoint(text) for text in texts]
    except ProtocolViolation as error:
        raise Refused("BadArguments", str(error)) from error


async def _probe(endpoint: Endpoint, seconds: float) -> str:
    """accepted, refused (something is there), or silent."""
    try:
        async with asyncio.timeout(seconds):
            _, writer = await asyncio.open_connection(*endpoint)
    except (ConnectionRefusedError, ConnectionResetError):
        return "refused"
    except (OSError, TimeoutError):
        return "silent"
    writer.transport.abort()
    return "accepted"
