"""Hands each newest co-signed state of this server's channels to its watchtowers, and keeps their receipts (docs/protocol/watchtower.md).

`offer` only remembers and returns: signing states never waits for a tower. Each tower has a lane of its own with one request in flight; a
state that was overtaken while it waited is never sent. Receipts are on disk as evidence. A tower is asked again each hour, which renews its
promise and notices one that has forgotten. Paper step 11.
"""

import asyncio
import dataclasses
import logging
import pathlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import aiohttp

from veilpod.chain.files import private_directory, write_atomically
from veilpod.control.config import WatchtowerConfig
from veilpod.control.metrics import Metrics
from veilpod.core.canonical import canonical, parse_canonical
from veilpod.core.channel.records import Signed
from veilpod.core.guard import GUARD_PATH, REQUEST_LIMIT, Guarded, GuardReceipt, Place, parse_receipt, request_document
from veilpod.core.ids import ChannelId
from veilpod.core.typed_data import Domain
from veilpod.errors import PeerUnavailable, ProtocolViolation

log = logging.getLogger(__name__)

ASK_AGAIN_SECONDS = 3600.0
_REQUEST_SECONDS = 10.0
_TICK_SECONDS = 1.0
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
_REASONS = frozenset(
    {"OlderState", "VersionTaken", "TooOften", "UnknownParty", "UnknownChannel", "WrongEpoch", "WrongTotal", "TooLate", "TowerFull"}
    | {"BadSignature", "WrongChain", "WrongContract", "BadReceipt"}
)

Answer = dict[str, Any]
Ask = Callable[[str, bytes], Awaitable[bytes]]  # (URL, body) -> body; raises PeerUnavailable


@dataclasses.dataclass(slots=True, kw_only=True)
class _Channel:
    """One channel at one tower. Times by the loop's clock."""

    newest: Guarded
    since: float  # when the newest state was offered that the tower does not hold
    receipt: GuardReceipt | None = None
    asked_at: float = float("-inf")  # the last time the tower confirmed what it holds
    not_before: float = float("-inf")
    pause: float = _FIRST_PAUSE

    @property
    def behind(self) -> int:
        """How many versions the tower is behind; all of the session's when it holds none of it."""
        state, held = self.newest.state, self.receipt.version if self.receipt is not None else 0
        return max(0, state.version - max(held, state.version - state.sequence))


class Lane:
    """One tower."""

    def __init__(
        self, number: int, tower: WatchtowerConfig, *, domain: Domain, directory: pathlib.Path, metrics: Metrics, ask: Ask
    ) -> None:
        self._tower, self._domain, self._metrics, self._ask = tower, domain, metrics, ask
        self._directory = private_directory(directory / tower.address.lower())
        self._label = str(number)
        self._channels: dict[ChannelId, _Channel] = {}
        self._wake = asyncio.Event()

    def offer(self, guarded: Guarded) -> None:
        """Remember a newer state."""
        channel = guarded.place.channel
        known, now = self._channels.get(channel), asyncio.get_running_loop().time()
        if known is None:
            self._channels[channel] = _Channel(newest=guarded, since=now, receipt=self._load(channel))
        elif guarded.state.version > known.newest.state.version:
            known.since = known.since if known.behind else now
            known.newest = guarded
        else:
            return
        self._wake.set()

    def forget(self, channel: ChannelId, session: int) -> None:
        """A session of the channel is closed. Its receipt stays on disk, and what is known of a later session stays known."""
        known = self._channels.get(channel)
        if known is not None and known.newest.state.epoch <= session:
            del self._channels[channel]

    def held(self, channel: ChannelId) -> int:
        """The version that the tower has signed for; 0 for none."""
        known = self._channels.get(channel)
        return known.receipt.version if known is not None and known.receipt is not None else 0

    async def run(self) -> None:
        """Send for ever. Give it to the background tasks."""
        while True:
            self._measure()
            known = self._next()
            if known is not None:
                await self._send(known)
                continue
            self._wake.clear()
            try:
                async with asyncio.timeout(_TICK_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def _next(self) -> _Channel | None:
        now = asyncio.get_running_loop().time()
        due = [
            known
            for known in self._channels.values()
            if known.not_before <= now and (known.behind or now - known.asked_at > ASK_AGAIN_SECONDS)
        ]
        return min(due, key=lambda known: (not known.behind, known.since), default=None)  # what has waited longest without a guard

    async def _send(self, known: _Channel) -> None:
        guarded = known.newest
        try:
            answer = _parse(await self._ask(self._tower.url.rstrip("/") + GUARD_PATH, canonical(request_document(self._domain, guarded))))
            receipt = self._receipt(answer, guarded)
            if receipt is not None:
                await asyncio.to_thread(write_atomically, self._file(receipt.channel), canonical(receipt.document()))
        except (PeerUnavailable, ProtocolViolation, OSError) as error:
            reason = error.reason if isinstance(error, ProtocolViolation) else type(error).__name__
            self._failed(known, "Unavailable" if isinstance(error, PeerUnavailable) else reason, str(error))
            return
        if receipt is not None:
            known.receipt, known.asked_at = receipt, asyncio.get_running_loop().time()
        refusal = answer.get("error")
        if refusal is not None:
            self._failed(known, str(refusal.get("code", "")), str(refusal.get("message", "")))
            return
        known.pause, known.not_before = _FIRST_PAUSE, float("-inf")
        if known.newest is not guarded:
            known.since = asyncio.get_running_loop().time()
        self._metrics.guard_receipts.labels(self._label).inc()

    def _receipt(self, answer: Answer, guarded: Guarded) -> GuardReceipt | None:
        found = answer["ok"].get("receipt") if "ok" in answer else answer.get("receipt")
        if found is None and "ok" not in answer:
            return None
        receipt = parse_receipt(found)
        receipt.check(self._domain, self._tower.address)
        same = receipt.version == guarded.state.version
        fits = receipt.version >= guarded.state.version if "ok" not in answer else same
        if receipt.channel != guarded.place.channel or not fits:
            raise ProtocolViolation("BadReceipt", "a receipt for something else than what was handed in", party="tower")
        if same and receipt.state_hash != guarded.state_hash(self._domain):
            # Either the tower lies, or both of us have signed two states of one version: a person must look.
            raise ProtocolViolation("BadReceipt", "the tower holds another state of this version", party="tower")
        return receipt

    def _failed(self, known: _Channel, reason: str, why: str) -> None:
        reason = reason if reason in _REASONS else "Unavailable" if reason == "Unavailable" else "Other"
        self._metrics.guard_refusals.labels(self._label, reason).inc()
        # OlderState means that the tower holds a newer state than our journal: an old disk was restored. Nothing else is as urgent.
        level = logging.CRITICAL if reason == "OlderState" else logging.WARNING
        log.log(level, "guard.refused", extra={"tower": self._label, "reason": reason, "why": why[:200]})
        known.not_before = asyncio.get_running_loop().time() + known.pause
        known.pause = min(2 * known.pause, _LONGEST_PAUSE)

    def _measure(self) -> None:
        now = asyncio.get_running_loop().time()
        behind = [known for known in self._channels.values() if known.behind]
        self._metrics.guard_lag.labels(self._label).set(max((known.behind for known in behind), default=0))
        self._metrics.guard_waiting.labels(self._label).set(max((now - known.since for known in behind), default=0))

    def _file(self, channel: ChannelId) -> pathlib.Path:
        return self._directory / f"{channel.hex()}.json"

    def _load(self, channel: ChannelId) -> GuardReceipt | None:
        try:
            receipt = parse_receipt(parse_canonical(self._file(channel).read_bytes()))
            receipt.check(self._domain, self._tower.address)
        except (OSError, ProtocolViolation):
            return None  # none yet, or of another tower: the next answer writes it
        return receipt


class Watchtowers:
    """Every tower of this release."""

    def __init__(
        self, towers: Sequence[WatchtowerConfig], *, domain: Domain, directory: pathlib.Path, metrics: Metrics, ask: Ask | None = None
    ) -> None:
        self.lanes = [
            Lane(number, tower, domain=domain, directory=directory, metrics=metrics, ask=ask or _post)
            for number, tower in enumerate(towers)
        ]

    def offer(self, place: Place, signed: Signed | None) -> None:
        """Have a state guarded, some time soon, if both have signed it. Returns at once."""
        if not self.lanes or signed is None or not signed.complete:
            return
        guarded = Guarded(place=place, state=signed.state, signature_a=signed.signature_a, signature_b=signed.signature_b)
        for lane in self.lanes:
            lane.offer(guarded)

    def forget(self, channel: ChannelId, session: int) -> None:
        """A session of a channel is closed."""
        for lane in self.lanes:
            lane.forget(channel, session)

    def held(self, channel: ChannelId) -> int | None:
        """The version that every tower has signed for; None without towers."""
        return min((lane.held(channel) for lane in self.lanes), default=None)


def _parse(body: bytes) -> Answer:
    answer = parse_canonical(body)
    if not isinstance(answer, dict) or not (isinstance(answer.get("ok"), dict) or isinstance(answer.get("error"), dict)):
        raise ProtocolViolation("BadAnswer", "a tower answers ok or error", party="tower")
    return answer


async def _post(url: str, body: bytes) -> bytes:
    """One request, bounded in time and size."""
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_REQUEST_SECONDS)) as session,
            session.post(url, data=body, headers={"Content-Type": "application/json"}, allow_redirects=False) as answer,
        ):
            found = b""
            async for piece in answer.content.iter_chunked(REQUEST_LIMIT):
                found += piece
                if len(found) > REQUEST_LIMIT:
                    raise ProtocolViolation("BadAnswer", "the tower's answer is too long", party="tower")
            return found
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise PeerUnavailable(f"the watchtower does not answer: {type(error).__name__}") from error
