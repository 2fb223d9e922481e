"""Prove the network fence before any key exists, and again and again while the sandbox runs (paper step 4: an isolated sandbox).

One observation looks at every allowed peer and every canary at the same time. Only "a peer answers and no canary does" counts, within
one observation: policies are programmed with a delay after a pod starts, so a canary that is blocked before the network works proves
nothing, and a peer that answers before the fence is up proves nothing either. A canary that *refuses* a connection was reached: a fence
drops, it does not answer. A canary that could not be looked at is not blocked (`probe`).

As a container (`python -m veilpod.agent netguard`) it says one word in the termination message and one of these exit codes:
0 NetworkIsolated, 20 CanaryReachable, 21 PeerUnreachable, 22 BadArguments, 23 ProbeFailed.
"""

import asyncio
import contextlib
import dataclasses
import json
import logging
import pathlib
import threading
import time
from collections.abc import Sequence

from veilpod.agent import probe
from veilpod.core.canary import Canary, on_node, parse_canary
from veilpod.core.endpoint import parse_endpoint
from veilpod.core.task.exit_codes import CANARY_REACHABLE
from veilpod.errors import InvalidInput, ProtocolViolation, Refused

EXIT_CODES = {"NetworkIsolated": 0, "CanaryReachable": CANARY_REACHABLE, "PeerUnreachable": 21, "BadArguments": 22, "ProbeFailed": 23}
_PROBE_SECONDS = 1.0
_PAUSE_SECONDS = 0.25
_PROBES = 64  # sockets at once
_FRESH_SECONDS = 10.0  # how old an observation may be when keys are born
_REMEDIES = {
    "CanaryReachable": "the cluster's network must enforce NetworkPolicy by dropping",
    "PeerUnreachable": "no allowed relay answers",
    "ProbeFailed": "this process could not open sockets, so nothing is known",
}

log = logging.getLogger(__name__)

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


class FirstLook:
    """An observation that begins with the process, in a thread, while the process gets ready for everything else."""

    def __init__(self, allow: Sequence[Endpoint], canaries: Sequence[Canary], *, probe_seconds: float = _PROBE_SECONDS) -> None:
        self._seen: Observation | None = None
        self._at = time.monotonic()

        def look() -> None:
            with contextlib.suppress(OSError):  # then there was no observation, and the next one is awaited
                self._seen = asyncio.run(observe(allow, canaries, probe_seconds=probe_seconds))

        self._thread = threading.Thread(target=look, name="netguard", daemon=True)
        self._thread.start()

    async def isolated(self) -> Observation | None:
        """What it saw, if that was isolation and is not old; None: look again."""
        await asyncio.to_thread(self._thread.join)
        seen, fresh = self._seen, time.monotonic() - self._at < _FRESH_SECONDS
        return seen if seen is not None and seen.verdict == "NetworkIsolated" and fresh else None


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


def run(
    *,
    allow: Sequence[str],
    canary: Sequence[str],
    node: str = "",
    seconds: float,
    evidence: pathlib.Path | None,
    termination_log: pathlib.Path | None,
) -> int:
    """The container: one verdict. Returns the exit code."""
    try:
        seen = asyncio.run(wait_isolated(parse_endpoints(allow), parse_canaries(canary, node), seconds=seconds))
        word = seen.verdict
        if evidence is not None:
            evidence.write_text(json.dumps({"allowed": seen.allowed, "blocked": seen.blocked}))
    except Refused as error:
        word = error.reason
    log.info("netguard.verdict", extra={"verdict": word})
    if termination_log is not None:
        with contextlib.suppress(OSError):  # outside Kubernetes there is none
            termination_log.write_text(word)
    return EXIT_CODES[word]
