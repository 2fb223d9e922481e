"""What the requester's operator observes of one ComputeTask: chain, mailbox and channels, asked at once, each allowed to be unknown.

Everything that comes from a stranger is verified here, so that a snapshot holds only what is so: offers against the assigned owners,
acceptances against the key, notes against the statements, the result against the task key.
"""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from veilpod.control.attempts import Attempts
from veilpod.control.context import Context
from veilpod.control.directory import relay_trouble
from veilpod.control.status import has_finalizer, is_deleting, seen, together
from veilpod.control.store_link import StoreLink
from veilpod.core import meeting
from veilpod.core.ceremony.evidence import judge
from veilpod.core.ceremony.words import Ceremony, confirmed_key
from veilpod.core.entities import NATIVE, ChainChannel, ChainTask, ChannelPhase, Node, Role, TaskPhase
from veilpod.core.ids import Address, ChannelId, NodeId, ServerIndex, TaskId
from veilpod.core.result import result_hash_of_digest
from veilpod.core.store_messages import CeremonyReport
from veilpod.core.task import candidates, manifest
from veilpod.core.task import spec as specs
from veilpod.core.task.facts import Failure
from veilpod.core.task.snapshot import CeremonySeen, Delivered, Intent, MailboxSeen, Publication, Refusal, Seen, TaskSnapshot, Unknown
from veilpod.core.typed_data import Domain
from veilpod.errors import InvalidInput, ProtocolViolation, Refused

log = logging.getLogger(__name__)
_MET = (TaskPhase.ASSIGNED, TaskPhase.RUNNING, TaskPhase.COMPLETED, TaskPhase.CLOSED)


@dataclasses.dataclass(slots=True, kw_only=True)
class Memory:
    """What the process remembers between looks at a task; all of it can be lost."""

    announced: bool = False
    attempt: int = 0  # at choosing servers
    owners: tuple[Address, ...] = ()
    channels: tuple[ChannelId, ...] = ()


class View:
    """Observes tasks."""

    def __init__(self, context: Context, mailbox: StoreLink, node: NodeId, attempts: Attempts) -> None:
        self._context, self._mailbox, self._node, self._attempts = context, mailbox, node, attempts
        self.domain = Domain(chain_id=context.config.chain.chain_id, contract=context.config.chain.scheduler)

    async def observe(self, body: Mapping[str, Any], memory: Memory) -> TaskSnapshot:
        """Look at everything that one task's decision needs."""
        task_id = specs.task_id(self._context.writer.address, body["metadata"]["uid"])
        task, now = await together(seen(self._context.reader.task(task_id)), seen(self._context.reader.now()))
        spec: specs.TaskSpec | None = None
        intent: Seen[Intent | Refusal] = Unknown()
        chosen: Seen[tuple[NodeId, ...] | None] = Unknown()
        box: Seen[MailboxSeen] = Unknown("MailboxUnavailable")
        channels: Seen[tuple[ChainChannel, ...]] = Unknown("ChainUnavailable")
        if not isinstance(task, Unknown) and not isinstance(now, Unknown):
            if task.phase is TaskPhase.NONE:
                intent = await self._intent(body, task_id, now)
            else:
                spec = specs.decode_spec(task.spec)
            if task.phase is TaskPhase.REQUESTED and spec:
                chosen = await seen(self._choose(task, spec, now, memory.attempt))
            elif spec:
                box, channels = await together(self._look_into(task, memory), self._channels(task, spec, memory))
        relays = await self._relays(spec or intent, task, now)
        failure = (body.get("status") or {}).get("failure")
        return TaskSnapshot(
            id=task_id,
            deleting=is_deleting(body),
            finalizer=has_finalizer(body),
            intent=intent,
            attempted_until=self._attempts.until(task_id),
            failure=Failure(stage=failure["stage"], code=failure["code"]) if failure else None,
            task=task,
            chain_now=now,
            spec=spec,
            candidates=chosen,
            mailbox=box,
            channels=channels,
            relays=relays,
        )

    async def _relays(self, wanted: specs.TaskSpec | Seen[Intent | Refusal], task: Seen[ChainTask], now: Seen[int]) -> Refusal | None:
        """Why circuits could not be made for a task that has no key yet; None when they could or nobody can say."""
        if isinstance(task, Unknown) or isinstance(now, Unknown) or task.published_key or task.phase is TaskPhase.COMPLETED:
            return None
        spec = specs.decode_spec(wanted.spec) if isinstance(wanted, Intent) else wanted
        if not isinstance(spec, specs.TaskSpec):
            return None
        asked = await seen(relay_trouble(self._context, spec, now))
        return None if isinstance(asked, Unknown) else asked

    async def owners(self, task: ChainTask, memory: Memory) -> tuple[Address, ...]:
        """The assigned servers' accounts, by index. They never change for a task."""
        if not memory.owners:
            nodes: list[Node] = await together(*(self._context.reader.node(node) for node in task.compute))
            memory.owners = tuple(node.owner for node in nodes)
        return memory.owners

    # -- before the request

    async def _intent(self, body: Mapping[str, Any], task: TaskId, now: int) -> Seen[Intent | Refusal]:
        try:
            wanted = manifest.parse_manifest(body["spec"])
            return await seen(self._complete(wanted, task, now))
        except InvalidInput as error:
            return Refusal(reason=error.reason, message=str(error))

    async def _complete(self, wanted: manifest.Manifest, task: TaskId, now: int) -> Intent | Refusal:
        reader, writer = self._context.reader, self._context.writer
        found = await together(*(reader.resources_named(name) for name in wanted.datasets))
        lane = await self._attempts.lane(task, lambda other, until: self._is_over(other, until, now))
        spec = manifest.complete(wanted, dict(zip(wanted.datasets, found, strict=True)), mailbox=self._node, lane=lane)
        asset = spec.payment.asset
        if asset != NATIVE and (digits := await reader.decimals(asset)) != wanted.decimals:
            return Refusal(reason="InvalidAsset", message=f"the token of payment.asset has {digits} digits: correct payment.decimals")
        if await reader.balance(writer.address, asset) < wanted.budget:
            return Refusal(reason="InsufficientFunds", message="the operator's account holds less than payment.budget: top it up")
        nodes, free = await self._servers()
        stake = candidates.stake_for(nodes, count=len(spec.servers), wanted=spec.payment.per_server, free=free, now=now)
        terms = specs.make_terms(spec, now=now, stake=stake)
        return Intent(spec=spec.encode(), terms=terms, budget=wanted.budget, asset=asset)

    async def _is_over(self, task_id: TaskId, until: int, now: int) -> bool:
        """Whether a task of ours, whose object may be gone, uses no channel any more: its lane is free."""
        task = await self._context.reader.task(task_id)
        if task.phase is TaskPhase.NONE:
            return now > until  # a request that was sent cannot land any more
        if task.phase not in (TaskPhase.COMPLETED, TaskPhase.CLOSED):
            return False
        channels = await self._read_channels(task, specs.decode_spec(task.spec), Memory()) if task.compute else ()
        return all(channel.phase in (ChannelPhase.NONE, ChannelPhase.CLOSED) for channel in channels)

    async def _servers(self) -> tuple[Sequence[Node], dict[Address, int]]:
        nodes = await self._context.reader.directory(Role.COMPUTE)
        owners = list(dict.fromkeys(node.owner for node in nodes))
        stakes = await together(*(self._context.reader.stake_of(owner) for owner in owners))
        return nodes, {owner: free for owner, (free, _) in zip(owners, stakes, strict=True)}

    async def _choose(self, task: ChainTask, spec: specs.TaskSpec, now: int, attempt: int) -> tuple[NodeId, ...] | None:
        nodes, free = await self._servers()
        count = len(spec.servers)
        return candidates.choose(nodes, task=task.id, count=count, stake=task.terms.stake, free=free, now=now, attempt=attempt)

    # -- the mailbox

    async def _look_into(self, task: ChainTask, memory: Memory) -> Seen[MailboxSeen]:
        if task.phase not in _MET or not memory.announced:
            # Whether the mailbox is there shows when the task is announced to it.
            return MailboxSeen(announced=memory.announced) if self._mailbox.connected else Unknown("MailboxUnavailable")
        try:
            found: Seen[MailboxSeen] = await seen(self._read(task, await self.owners(task, memory)))
        except Refused as error:
            log.info("mailbox.refused", extra={"reason": error.reason})
            memory.announced = False  # a new mailbox, or one that forgot: announce again
            return MailboxSeen(announced=False)
        return found

    async def _read(self, task: ChainTask, owners: tuple[Address, ...]) -> MailboxSeen:
        offers, notes, result = await together(
            self._mailbox.offers(task.id), self._mailbox.notes(task.id), self._mailbox.result_info(task.id)
        )
        good = {offer.statement.index: offer for offer in offers if _offer_holds(offer, task, owners)}
        publication = ceremony = None
        if task.phase in (TaskPhase.ASSIGNED, TaskPhase.CLOSED) and not task.published_key and 0 < len(good) == len(owners):
            report, acceptances = await together(self._mailbox.ceremony(task.id), self._mailbox.acceptances(task.id))
            which = Ceremony.of(task.id, good.values())
            publication = _publication(self.domain, which, good, owners, report, acceptances)
            ceremony = None if publication else _ceremony_seen(which, report)
        told = [note for note in notes if note.index in good and _note_holds(note, good[note.index].statement.signing_key)]
        return MailboxSeen(
            announced=True,
            offers=frozenset(good),
            ceremony=ceremony,
            publication=publication,
            notes=frozenset((note.index, note.event) for note in told if note.event != "Failed"),
            failures=tuple((note.index, note.code) for note in told if note.event == "Failed"),
            result=self._delivered(task, result) if result else None,
        )

    def _delivered(self, task: ChainTask, result: Any) -> Delivered | None:
        if task.published_key is None:
            return None
        found = result_hash_of_digest(task.id, result.digest)
        try:
            meeting.verify_result(domain=self.domain, task=task.id, result_hash=found, signature=result.signature, key=task.published_key)
        except ProtocolViolation as violation:
            log.warning("result.refused", extra={"reason": violation.reason})
            return None
        return Delivered(result_hash=found, size=result.size)

    # -- the servers' channels

    async def _channels(self, task: ChainTask, spec: specs.TaskSpec, memory: Memory) -> Seen[tuple[ChainChannel, ...]]:
        if not task.compute:
            return ()
        found: Seen[tuple[ChainChannel, ...]] = await seen(self._read_channels(task, spec, memory))
        return found

    async def _read_channels(self, task: ChainTask, spec: specs.TaskSpec, memory: Memory) -> tuple[ChainChannel, ...]:
        memory.channels = specs.channels_of(task.requester, spec, await self.owners(task, memory))
        return tuple(await together(*(self._context.reader.channel(channel) for channel in memory.channels)))


def _ceremony_seen(ceremony: Ceremony, report: CeremonyReport) -> CeremonySeen | None:
    """What the ceremony waits for, and against whom there is evidence that holds."""
    proved: list[tuple[ServerIndex, str]] = []
    for evidence in report.evidence:
        try:
            proved.append((judge(ceremony, evidence), type(evidence).__name__))
        except ProtocolViolation as violation:
            log.warning("evidence.refused", extra={"reason": violation.reason})
    if report.stage in ("", "done") and not proved:
        return None
    return CeremonySeen(stage=report.stage, missing=report.missing, proved=tuple(proved))


def _publication(
    domain: Domain,
    ceremony: Ceremony,
    offers: Mapping[ServerIndex, meeting.Offer],
    owners: tuple[Address, ...],
    report: CeremonyReport,
    acceptances: Sequence[meeting.Acceptance],
) -> Publication | None:
    statements = tuple(offers[ServerIndex(index)].statement.digest for index in range(len(owners)))
    by_index = {acceptance.index: acceptance for acceptance in acceptances}
    if len(by_index) != len(owners):
        return None
    ordered = [by_index[ServerIndex(index)] for index in range(len(owners))]
    try:
        key = confirmed_key(ceremony, report.confirmations)
        for acceptance, owner in zip(ordered, owners, strict=True):
            meeting.verify_acceptance(acceptance, domain=domain, key=key, statements=statements, owner=owner)
    except ProtocolViolation as violation:
        log.warning("acceptance.refused", extra={"reason": violation.reason})
        return None
    return Publication(
        key=key,
        statements=statements,
        signatures=b"".join(acceptance.signature for acceptance in ordered),
        descriptors=meeting.descriptors_document(ordered),
    )


def _offer_holds(offer: meeting.Offer, task: ChainTask, owners: tuple[Address, ...]) -> bool:
    index = offer.statement.index
    if index >= len(owners) or (task.statements and offer.statement.digest != task.statements[index]):
        return False
    try:
        meeting.verify_offer(offer, task=task.id, index=index, owner=owners[index])
    except ProtocolViolation as violation:
        log.warning("offer.refused", extra={"reason": violation.reason})
        return False
    return True


def _note_holds(note: meeting.Note, signing_key: Address) -> bool:
    try:
        meeting.verify_note(note, signing_key)
    except ProtocolViolation as violation:
        log.warning("note.refused", extra={"reason": violation.reason})
        return False
    return True
