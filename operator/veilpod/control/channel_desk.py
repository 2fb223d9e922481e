"""Off-chain channel traffic of this server: receipts and proposals between our agents and the pure channel machines (paper step 7).

One machine per channel, made from the journal. Its effects are performed in their order: a record is on disk before anything behind it
happens. When a step fails the machine is thrown away and made again; messages may get lost, a timer says them again.
"""

import asyncio
import dataclasses
import itertools
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from veilpod.chain.journal import Journal
from veilpod.core.channel.machine import Covered, Effects, Finished, Machine, Party, Persist, Send, Violated
from veilpod.core.channel.records import Signed, StateRecord
from veilpod.core.channel.rules import Link
from veilpod.core.channel.state import ChannelState
from veilpod.core.entities import ChannelTerms
from veilpod.core.ids import ChannelId, ServerIndex
from veilpod.core.keys import SigningKey
from veilpod.core.receipt import parse_receipt
from veilpod.errors import PeerUnavailable, Refused, VeilpodError

REPEAT_SECONDS = 2.0
log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A channel in use: between which accounts, from which deposits, through which agent."""

    assignment: str
    peer: ServerIndex
    link: Link
    terms: ChannelTerms
    party: Party
    opening: ChannelState


Call = Callable[[str, str, dict[str, Any]], Awaitable[None]]  # (assignment, command, args) to our agent
OnAgreed = Callable[[Line, Signed], None]  # must return at once
FindLine = Callable[[str, ServerIndex], Awaitable[Line]]


class ChannelDesk:
    """Every channel machine of this release."""

    def __init__(
        self,
        *,
        journal: Journal,
        key: SigningKey,
        find_line: FindLine,
        call: Call,
        on_final: Callable[[str], None],
        on_agreed: OnAgreed = lambda _line, _signed: None,
    ) -> None:
        self._journal, self._key = journal, key
        self._find_line, self._call, self._on_final, self._on_agreed = find_line, call, on_final, on_agreed
        self._lines: dict[tuple[str, ServerIndex], Line] = {}
        self._machines: dict[tuple[str, ServerIndex], Machine] = {}
        self._turns: dict[tuple[str, ServerIndex], asyncio.Lock] = {}

    def newest(self, channel: ChannelId, session: int) -> Signed | None:
        """The newest state of a channel's session that both have signed."""
        return self._journal.newest(channel, session)

    async def on_receipt(self, assignment: str, peer: ServerIndex, document: Any) -> None:
        """Our agent attested a transfer."""
        receipt = parse_receipt(document)
        await self._step(assignment, peer, lambda machine: machine.on_receipt(receipt))

    async def on_message(self, assignment: str, peer: ServerIndex, payload: Any) -> None:
        """The peer's operator said something."""
        await self._step(assignment, peer, lambda machine: machine.on_message(payload))

    async def finalise(self, assignment: str, peer: ServerIndex) -> None:
        """Work towards the final state of a channel. Repeating it is fine."""
        await self._step(assignment, peer, lambda machine: machine.finalise())

    async def repeat(self) -> None:
        """Say again, for ever, what waits for an answer. Give it to the background tasks."""
        while True:
            await asyncio.sleep(REPEAT_SECONDS)
            for assignment, peer in list(self._lines):
                machine = self._machines.get((assignment, peer))
                if machine is not None and not machine.finished and not machine.broken:
                    try:
                        await self._step(assignment, peer, lambda machine: machine.next_message())
                    except VeilpodError as error:
                        log.info("channel.waiting", extra={"error": type(error).__name__})

    def forget(self, assignment: str) -> None:
        """Stop talking about an assignment's channels. The journal keeps what was signed."""
        for place in [place for place in self._lines if place[0] == assignment]:
            self._lines.pop(place)
            self._machines.pop(place, None)
            self._turns.pop(place, None)

    async def _step(self, assignment: str, peer: ServerIndex, step: Callable[[Machine], Effects]) -> None:
        place = assignment, peer
        line = self._lines.get(place) or await self._find_line(assignment, peer)
        self._lines[place] = line
        async with self._turns.setdefault(place, asyncio.Lock()):
            machine = self._machines.get(place) or self._make(line)
            self._machines[place] = machine
            try:
                for _, effects in itertools.groupby(step(machine), lambda effect: isinstance(effect, Persist)):
                    await self._perform_all(line, tuple(effects))
            except BaseException:
                # The machine may be ahead of what is on disk: only the journal is believed.
                self._machines.pop(place, None)
                raise

    def _make(self, line: Line) -> Machine:
        records = self._journal.records(line.link.channel)
        return Machine(link=line.link, party=line.party, key=self._key, opening=line.opening, records=records)

    async def _perform_all(self, line: Line, effects: Effects) -> None:
        if records := [effect.record for effect in effects if isinstance(effect, Persist)]:
            await self._journal.write(*records)  # what stands together is one wait for the disk
            for record in records:
                if isinstance(record, StateRecord) and record.signed.complete:
                    self._on_agreed(line, record.signed)
            return
        for effect in effects:
            await self._perform(line, effect)

    async def _perform(self, line: Line, effect: Any) -> None:
        match effect:
            case Send(payload=payload):
                await self._tell(line, "channel", {"peer": int(line.peer), "payload": payload})
            case Covered(received_by_a=by_a, received_by_b=by_b):
                # Our agent's credit is what the peer has paid for of what our side sent.
                await self._tell(line, "credit", {"peer": int(line.peer), "bytes": by_b if line.party is Party.A else by_a})
            case Finished():
                log.info("channel.final", extra={"object": line.assignment})
                self._on_final(line.assignment)
            case Violated(code=code, fatal=fatal):
                log.warning("channel.violated", extra={"object": line.assignment, "code": code, "fatal": fatal})

    async def _tell(self, line: Line, command: str, args: dict[str, Any]) -> None:
        try:
            await self._call(line.assignment, command, args)
        except (PeerUnavailable, Refused) as error:
            log.info("channel.unsent", extra={"object": line.assignment, "command": command, "error": type(error).__name__})
