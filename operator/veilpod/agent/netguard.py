"""Prove the network fence before any key exists, and again and again while the sandbox runs (paper step 4: an isolated sandbox).

One observation looks at every allowed peer and every canary at the same time. Only "a peer answers and no canary does" counts, within
one observation: policies are programmed with a delay after a pod starts, so a canary that is blocked before the network works proves
nothing, and a peer that answers before the fence is up proves nothing either. A canary that *refuses* a connection was reached: a fence
drops, it does not answer. A canary that could not be looked at is not blocked (`probe`).

An agent whose network is not isolated ends before it listens, with one word in the termination message and one of these exit codes:
20 CanaryReachable, 21 PeerUnreachable, 22 BadArguments, 23 ProbeFailed.
"""

import asyncio
import contextlib
import dataclasses
from collections.abc import Sequence

from veilpod.agent import probe
from veilpod.core.canary import Canary, on_node, parse_canary
from veilpod.core.endpoint import parse_endpoint
from veilpod.core.task.exit_codes import CANARY_REACHABLE, PEER_UNREACHABLE, PROBE_FAILED
from veilpod.errors import InvalidInput, ProtocolViolation, Refused

EXIT_CODES = {"CanaryReachable": CANARY_REACHABLE, "PeerUnreachable": PEER_UNREACHABLE, "BadArguments": 22, "ProbeFailed": PROBE_FAILED}
_PROBE_SECONDS = 1.0
_PAUSE_SECONDS = 0.25
_PROBES = 64  # sockets at once
_REMEDIES = {
    "CanaryReachable": "the cluster's network must enforce NetworkPolicy by dropping",
    "PeerUnreachable": "no allowed relay answers",
    "ProbeFailed": "this process could not open sockets, so nothing is known",
}

Endpoint = tuple[str, int]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What answered, at one moment."""

    allowed: int  # peers that accepted a connection
    blocked: int  # canaries from which nothing came
    leaks: int  # canaries that answered in any way
    unknown: int = 0  # canaries that could not be looked at

    @property
    def verdict(self) -> str:
        """NetworkIsolated, CanaryReachable, ProbeFailed or PeerUnreachable. Without canaries nothing is proved."""
        if self.leaks:
            return "CanaryReachable"
        if self.unknown:
            return "ProbeFailed"
        if not self.blocked:
            return "CanaryReachable"
        return "NetworkIsolated" if self.allowed else "PeerUnreachable"


async def observe(allow: Sequence[Endpoint], canaries: Sequence[Canary], *, probe_seconds: float = _PROBE_SECONDS) -> Observation:
    """Look at everything at once."""
    places = asyncio.Semaphore(_PROBES)

    async def bounded(place: Canary) -> str:
        async with places:
            return await probe.look(place, probe_seconds)

    peers = [Canary(host=host, port=port) for host, port in allow]
    answers = await asyncio.gather(*(bounded(place) for place in [*peers, *canaries]))
    reached, rest = answers[: len(peers)], answers[len(peers) :]
    silent, unknown = rest.count("silent"), rest.count("unknown")
    return Observation(allowed=reached.count("accepted"), blocked=silent, leaks=len(rest) - silent - unknown, unknown=unknown)


async def wait_isolated(
    allow: Sequence[Endpoint], canaries: Sequence[Canary], *, seconds: float, probe_seconds: float = _PROBE_SECONDS
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
    raise Refused(last, f"the sandbox's network is not isolated: {_REMEDIES[last]}")


def parse_endpoints(texts: Sequence[str]) -> list[Endpoint]:
    """Read ip:port arguments. Raises Refused("BadArguments")."""
    try:
        return [parse_endpoint(text) for text in texts]
    except ProtocolViolation as error:
        raise Refused("BadArguments", str(error)) from error


def parse_canaries(texts: Sequence[str], node: str) -> tuple[Canary, ...]:
    """Read canaries (`core.canary`). `node`: the addresses of the pod's node, with commas between. Raises Refused("BadArguments")."""
    try:
        return on_node([parse_canary(text) for text in texts], [part for part in node.split(",") if part])
    except (InvalidInput, ValueError) as error:
        raise Refused("BadArguments", str(error)) from error
