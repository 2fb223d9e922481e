"""What a computing server's operator does for an assignment: each effect of a plan, once, its outcome written down where it must be.

Nothing is decided here. The way to a running sandbox is in `compute_sandbox`.
"""

import asyncio
import contextlib
import logging
import secrets
from typing import Any

from veilpod.control.agent_links import AgentLinks
from veilpod.control.channel_desk import ChannelDesk
from veilpod.control.compute_sandbox import Sandboxes, honoured
from veilpod.control.compute_view import CHANNEL_LABEL, Assignment, View, channel_name, label_of
from veilpod.control.context import Context
from veilpod.control.facts_store import FactsStore
from veilpod.control.status import FINALIZER, set_finalizer
from veilpod.core.agent_messages import parse_zeroised, verify_zeroised
from veilpod.core.canonical import to_hex
from veilpod.core.channel.state import channel_id, order
from veilpod.core.ids import Address, PodUid, ServerIndex
from veilpod.core.kinds import PODS, STATE_CHANNELS, TASK_ASSIGNMENTS
from veilpod.core.task import plan as do
from veilpod.core.task import spec as specs
from veilpod.core.task import teardown
from veilpod.core.task.facts import AgentSeen, Facts
from veilpod.core.task.plan import Effect
from veilpod.core.task.snapshot import ServerSnapshot
from veilpod.errors import PeerUnavailable, Refused
from veilpod.kube import sandbox_pod

log = logging.getLogger(__name__)


class Effects:
    """Performs effects of assignments."""

    def __init__(self, context: Context, *, facts: FactsStore, links: AgentLinks, desk: ChannelDesk, view: View) -> None:
        self._context, self._facts, self._links, self._desk, self._view = context, facts, links, desk, view
        self._sandboxes = Sandboxes(context, facts=facts, links=links, view=view)

    async def perform(self, effect: Effect, body: dict[str, Any], assignment: Assignment, s: ServerSnapshot) -> None:
        """Do one thing. Raises Transient to be tried again, Terminal when it must not be."""
        name, writer = assignment.name, self._context.writer
        facts = self._facts.begin(name, assignment.task, assignment.index)
        match effect:
            case do.AddFinalizer():
                await set_finalizer(self._context, TASK_ASSIGNMENTS, body, present=True)
            case do.RemoveFinalizer():
                await set_finalizer(self._context, TASK_ASSIGNMENTS, body, present=False)
            case do.RecordFailure(failure=failure):
                self._facts.change(name, failure=facts.failure or failure)
            case do.RecordEnding():
                self._facts.change(name, ending_since=int(self._context.clock()))
            case do.CreateChannels():
                await self._create_channels(assignment)
            case do.BeginIncarnation(incarnation=number):
                self._facts.change(name, incarnation=number, nonce=secrets.token_hex(16), agent=AgentSeen(), released=False, zeroised="")
            case do.CreatePod():
                await self._sandboxes.create_pod(assignment, s, facts)
            case do.ConfigureAgent():
                await self._sandboxes.configure(assignment, s, facts)
            case do.CountersignStatement():
                await self._sandboxes.countersign(assignment, facts)
            case do.SignSandboxKey():
                await self._sandboxes.sign_sandbox_key(assignment, facts)
            case do.HandDescriptors():
                await self._sandboxes.hand(assignment, s)
            case do.ReportDestroyed():
                await writer.report(assignment.task, assignment.index)
            case do.CompleteTask(result=result):
                await writer.complete(assignment.task, index=assignment.index, result_hash=result.result_hash, signature=result.signature)
            case do.Refund():
                await writer.refund(assignment.task)
            case _:
                await self._end(effect, assignment, facts)

    # -- towards the sandbox

    async def _create_channels(self, assignment: Assignment) -> None:
        spec, owners = honoured(assignment), await self._view.owners(assignment.task)
        terms = specs.channel_terms(assignment.requester, spec.payment)
        for peer in spec.peers(assignment.index):
            a, b = order(owners[assignment.index], owners[peer])
            channel = channel_id(a, b, terms)
            body = {
                "metadata": {
                    "name": channel_name(channel, assignment.task),
                    "labels": {
                        sandbox_pod.ASSIGNMENT_LABEL: assignment.name,
                        CHANNEL_LABEL: label_of(channel),
                        "app.kubernetes.io/managed-by": "veilpod",
                    },
                    "finalizers": [FINALIZER],
                },
                "spec": {
                    "channelId": to_hex(channel),
                    "a": a,
                    "b": b,
                    "asset": terms.asset,
                    "lane": terms.lane,
                    "challengePeriod": terms.challenge_period,
                    "penaltyBps": terms.penalty_bps,
                    "session": await self._view.free_session(channel, assignment.name),
                    "deposit": str(spec.payment.channel_deposit),
                    "peerDeposit": str(spec.payment.channel_deposit),
                    "assignment": assignment.name,
                    "peerIndex": int(peer),
                },
            }
            await self._context.cluster.create(STATE_CHANNELS, body, namespace=self._context.config.namespace, exists_ok=True)

    # -- the end

    async def _end(self, effect: Effect, assignment: Assignment, facts: Facts) -> None:
        name = assignment.name
        match effect:
            case do.RequestFinals():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(teardown.EXPOSED_PATIENCE / 2 if facts.exposed else None):
                        for peer in honoured(assignment).peers(assignment.index):
                            await self._finalise(name, peer)
            case do.PersistFinalStates():
                # States are in the journal since before they were signed, the result is in the facts: here it is said so.
                self._facts.change(name, finals=True)
            case do.Release():
                await self._release(name)
            case do.Zeroise():
                await self._zeroise(assignment, facts)
            case do.RecordUnreachable():
                self._facts.change(name, zeroised="Unreachable")
            case do.DeletePod(name=pod, uid=uid):
                await self._context.cluster.delete(PODS, pod, uid=uid, namespace=self._context.config.sandbox_namespace)
                log.info("sandbox.deleting", extra={"object": name})
            case do.RecordEvidence(uid=uid, unproved=unproved):
                self._facts.change(name, pods=facts.with_evidence(uid, unproved=unproved).pods)
            case do.ReleasePodFinalizer(name=pod, uid=uid):
                await release_pod(self._context, pod, uid)
            case do.RecordDestroyed(reason=reason):
                self._facts.change(name, destroyed=reason)
                self._links.drop(name)
                self._desk.forget(name)
                log.info("sandbox.destroyed", extra={"object": name, "reason": reason})
            case _:
                raise NotImplementedError(type(effect).__name__)

    async def _finalise(self, name: str, peer: ServerIndex) -> None:
        try:
            await self._desk.finalise(name, peer)
        except Refused as error:
            log.info("channel.no_final", extra={"object": name, "reason": error.reason})  # patience runs out, the newest state stands

    async def _release(self, name: str) -> None:
        try:
            await self._links.any_of(name).call("release")
        except (Refused, PeerUnavailable) as error:
            log.info("agent.not_released", extra={"object": name, "error": type(error).__name__})
        self._facts.change(name, released=True)

    async def _zeroise(self, assignment: Assignment, facts: Facts) -> None:
        try:
            zeroised = parse_zeroised(await self._links.any_of(assignment.name).call("zeroise"))
        except Refused as error:
            # An agent without keys has nothing to wipe; one that refuses is deleted all the same.
            self._facts.change(assignment.name, zeroised="NoKeys" if error.reason == "NoKeys" else "Unreachable")
            return
        if facts.signer:
            if zeroised.task != assignment.task or facts.record(zeroised.pod_uid) is None:
                raise PeerUnavailable("the zeroise answer is of another sandbox")
            verify_zeroised(zeroised, Address(facts.signer))
        self._facts.change(assignment.name, zeroised="Acknowledged", zeroise_proof=zeroised.signature)
        log.info("sandbox.zeroised", extra={"object": assignment.name})


async def release_pod(context: Context, name: str, uid: PodUid) -> None:
    """Take our finalizer from a pod whose end is on record, if it is still that very pod."""
    namespace = context.config.sandbox_namespace
    body = await context.cluster.get(PODS, name, namespace=namespace)
    if body is None or body["metadata"]["uid"] != uid:
        return
    metadata = body["metadata"]
    left = [item for item in metadata.get("finalizers", []) if item != sandbox_pod.FINALIZER]
    await context.cluster.set_finalizers(PODS, name, left, resource_version=metadata["resourceVersion"], uid=uid, namespace=namespace)
