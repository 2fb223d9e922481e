"""Which states a tower takes, and the receipt it gives for each.

Nobody logs in: a state carries both parties' signatures, and only the newest counts. What a stranger can cost is bounded: a new channel
must be open on chain and of a party that the tower's owner or the registry knows, wrong requests are counted by where they come from, good
ones by channel and party. An old state is refused with the receipt of the newer one: whoever restored an old disk learns it here.
"""

import dataclasses
import logging
from collections.abc import Callable, Collection
from typing import Any

from veilpod.core.channel.state import ChannelState
from veilpod.core.entities import ChannelPhase, NodeStatus, Role
from veilpod.core.guard import Guarded, GuardReceipt, make_receipt, parse_request
from veilpod.core.ids import Address, ChannelId
from veilpod.core.keys import SigningKey
from veilpod.core.typed_data import Domain
from veilpod.errors import ProtocolViolation, Refused, Terminal
from veilpod.ports import ChainReader
from veilpod.watchtower.decide import Guard, renewed
from veilpod.watchtower.guards import Guards
from veilpod.watchtower.limits import Limit

log = logging.getLogger(__name__)

CAPACITY = 100_000  # channels
_WORTH_WRITING = 3600  # seconds by which a promise is made longer, or it is not


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the client is told. With a refusal, the receipt is of the newer state that is held."""

    receipt: GuardReceipt
    refusal: Refused | None = None


class Admission:
    """Takes states. `on_guarded` is told of each channel whose guard changed, `is_over` says whether its session was seen closed."""

    def __init__(
        self,
        *,
        guards: Guards,
        reader: ChainReader,
        domain: Domain,
        key: SigningKey,
        keep: int,
        parties: Collection[Address],
        on_guarded: Callable[[ChannelId], None],
        is_over: Callable[[ChannelId], bool],
        clock: Callable[[], float],
    ) -> None:
        self._guards, self._reader, self._domain, self._key = guards, reader, domain, key
        self._keep, self._parties, self._on_guarded, self._is_over = keep, frozenset(parties), on_guarded, is_over
        self._wrong = Limit(rate=1, burst=60, clock=clock)
        self._repeats = Limit(rate=1, burst=20, clock=clock)
        self._of_channel = Limit(rate=5, burst=20, clock=clock)
        self._of_party = Limit(rate=50, burst=200, clock=clock)

    async def guard(self, request: Any, *, remote: str) -> Outcome:
        """Take a state and give the receipt, once it is on the disk. Raises Terminal for a refusal, Transient while nobody can say."""
        if not self._wrong.allows(remote):
            raise Refused("TooOften", "too many wrong requests from there: wait a minute")
        try:
            guarded = parse_request(self._domain, request)
            guarded.check(self._domain)
            async with self._guards.turn(guarded.place.channel) as known:
                return await self._take(guarded, known, remote)
        except Terminal as error:
            if error.reason != "TooOften":
                self._wrong.take(remote)
            raise

    async def _take(self, guarded: Guarded, known: Guard | None, remote: str) -> Outcome:
        until = await self._reader.now() + self._keep
        if known is None or guarded.state.epoch > known.held.state.epoch or self._is_over(guarded.place.channel):
            await self._admit(guarded, known)
        elif (problem := _problem(known.held.state, guarded.state)) is not None:
            return Outcome(receipt=self._receipt(known), refusal=problem)
        elif guarded.state == known.held.state:
            # A receipt that got lost, or a promise that grows old. It costs no coin, so it never takes from what newer states may use.
            if not self._repeats.take(f"{guarded.place.channel.hex()} {remote}"):
                raise Refused("TooOften", "this state is held: wait before asking again")
            if until < known.until + _WORTH_WRITING:
                return Outcome(receipt=self._receipt(known))
        self._charge(guarded)
        guard = renewed(known, guarded, until=until)
        await self._guards.write(guard)
        self._on_guarded(guarded.place.channel)
        return Outcome(receipt=self._receipt(guard))

    async def _admit(self, guarded: Guarded, known: Guard | None) -> None:
        """Check a channel, or a session of one, that is new here."""
        parties = {guarded.place.a, guarded.place.b}
        if self._parties:
            registered = parties & self._parties
        else:
            nodes = await self._reader.directory(Role.COMPUTE)
            registered = parties & {node.owner for node in nodes if node.status is not NodeStatus.RETIRED}
        if not registered:
            raise Refused("UnknownParty", "no party of this channel is known here: register a computing node, or ask the tower's owner")
        if known is None and len(self._guards.all) >= CAPACITY:
            raise Refused("TowerFull", "this tower guards as many channels as it can: use another one")

        chain = await self._reader.channel(guarded.place.channel)
        if chain.phase not in (ChannelPhase.OPEN, ChannelPhase.DISPUTED):
            raise Refused("UnknownChannel", "this channel is not open on chain")
        if chain.epoch != guarded.state.epoch:
            raise Refused("WrongEpoch", f"this channel is in session {chain.epoch}, the state is of session {guarded.state.epoch}")
        if chain.balance_a + chain.balance_b != guarded.state.total:
            raise ProtocolViolation("WrongTotal", "the balances of this state are not what the channel holds", party="client")
        if chain.phase is ChannelPhase.DISPUTED and await self._reader.now() > chain.deadline:
            raise Refused("TooLate", "the dispute of this channel is over: no answer is taken any more")

    def _charge(self, guarded: Guarded) -> None:
        # Only the two parties can make a newer state, so nobody else can use up their share.
        party_a, party_b = self._of_party.take(guarded.place.a), self._of_party.take(guarded.place.b)
        if not (party_a and party_b and self._of_channel.take(guarded.place.channel.hex())):
            raise Refused("TooOften", "states of this channel or of its parties come too often: send the newest one in a second")

    def _receipt(self, guard: Guard) -> GuardReceipt:
        return make_receipt(self._key, self._domain, guard.held, until=guard.until)


def _problem(held: ChannelState, offered: ChannelState) -> Refused | None:
    if offered.version < held.version:
        return Refused("OlderState", f"version {held.version} is held: what you keep is older, do not sign with it")
    if offered.version == held.version and offered != held:
        return Refused("VersionTaken", "another state with this version is held: both parties have signed two states of one version")
    if offered.total != held.total:
        return Refused("WrongTotal", "the balances of this state are not what the channel holds")
    return None
