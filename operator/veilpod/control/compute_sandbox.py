"""Towards a running sandbox: the pod of a recorded intent, its agent's task, the statement's check, the two signatures. Paper step 4.

What a signature is given for is checked here, against the live API and the chain, right before it is given; and what it was given for is
on disk before it leaves.
"""

import logging
from collections.abc import Iterable

from veilpod.control.agent_links import AgentLinks
from veilpod.control.canaries import behind_the_api
from veilpod.control.compute_view import Assignment, View
from veilpod.control.context import Context
from veilpod.control.directory import relay_directory
from veilpod.control.facts_store import FactsStore
from veilpod.control.policies import observe_policies
from veilpod.control.status import together
from veilpod.core import statement as statements
from veilpod.core.agent_messages import Configuration, MailboxEntry, NodeKey, Published
from veilpod.core.canary import parse_canary
from veilpod.core.canonical import from_hex, to_hex
from veilpod.core.endpoint import parse_endpoint, spell_endpoint
from veilpod.core.entities import ChainTask
from veilpod.core.evidence import NoTee
from veilpod.core.ids import PodUid
from veilpod.core.kinds import PODS
from veilpod.core.onion.directory import RelayEntry, fresh
from veilpod.core.sandbox_class import SandboxClass
from veilpod.core.statement import Statement, parse_statement, statement_nonce, verify_statement
from veilpod.core.task import spec as specs
from veilpod.core.task.facts import Facts, PodRecord
from veilpod.core.task.pods import INTENT_ANNOTATION, image_digest, read_pod
from veilpod.core.task.snapshot import PodSeen, Refusal, ServerSnapshot, Unknown
from veilpod.core.tiers import reaches
from veilpod.core.typed_data import Domain, sandbox_key_digest, statements_hash
from veilpod.errors import ClusterUnavailable, ProtocolViolation, Refused, Transient
from veilpod.kube import sandbox_pod
from veilpod.net.control_tls import control_certificate
from veilpod.ports import Verifier

log = logging.getLogger(__name__)
_ENDS_SLACK = 240  # seconds behind the task's last deadline by which the kubelet has certainly killed a pod
_NETGUARD_RELAYS = 5


class Sandboxes:
    """Makes sandboxes and vouches for them."""

    def __init__(self, context: Context, *, facts: FactsStore, links: AgentLinks, view: View, verifier: Verifier | None = None) -> None:
        self._context, self._facts, self._links, self._view = context, facts, links, view
        self._verifier = verifier or NoTee()
        chain = context.config.chain
        self._domain = Domain(chain_id=chain.chain_id, contract=chain.scheduler)

    async def create_pod(self, assignment: Assignment, s: ServerSnapshot, facts: Facts) -> None:
        config, now = self._context.config, int(self._context.clock())
        assert not isinstance(s.task, Unknown)
        assert not isinstance(s.chain_now, Unknown)
        directory, behind_api = await together(relay_directory(self._context), behind_the_api(self._context.cluster))
        relays = _guarded(directory, port=config.compute.relay_port, now=s.chain_now)
        if not relays:
            raise ClusterUnavailable("no relay is listed that a sandbox could prove its fence against", retry_after=5)
        offered, canaries = _offered(assignment), (*config.compute.canaries, *behind_api)
        _check_canaries((*canaries, *offered.canaries), relays)
        seconds = max(s.task.terms.report_by - s.chain_now, 1)
        manifest = sandbox_pod.sandbox_pod(
            name=f"sb-{assignment.name.removeprefix('ta-')}-{facts.incarnation}",
            namespace=config.sandbox_namespace,
            release=config.release,
            assignment=sandbox_pod.Assignment(
                name=assignment.name, task=assignment.task, index=assignment.index, incarnation=facts.incarnation
            ),
            spec=honoured(assignment),
            sandbox_class=offered,
            agent_image=config.images["agent"],
            operator_cert=control_certificate(self._context.node_keys.control),
            relay_endpoints=relays,
            canaries=canaries,
            deadline_seconds=seconds,
        )
        manifest["metadata"].setdefault("annotations", {})[INTENT_ANNOTATION] = facts.nonce

        # The intent is on disk before the POST; its outcome is noted when it is known.
        self._facts.change(assignment.name, intended_at=now)
        try:
            made = await self._context.cluster.create(PODS, manifest, namespace=config.sandbox_namespace, exists_ok=True)
        except Transient:
            raise
        except Exception:
            self._facts.change(assignment.name, intended_at=0)  # a clear refusal: nothing was made
            raise
        seen = read_pod(made, nonce=facts.nonce, now=now)
        if not seen.intended:
            self._facts.change(assignment.name, intended_at=0)
            raise Refused("PodNameTaken", "a pod that this operator did not make bears the sandbox's name: delete it")
        facts = self._facts.begin(assignment.name, assignment.task, assignment.index)
        pods = facts.pods
        if facts.record(seen.uid) is None:
            pods = (*pods, PodRecord(uid=seen.uid, incarnation=facts.incarnation, ends=now + seconds + _ENDS_SLACK))
        self._facts.change(assignment.name, pods=pods, intended_at=0)
        log.info("sandbox.created", extra={"object": assignment.name, "incarnation": facts.incarnation})

    async def configure(self, assignment: Assignment, s: ServerSnapshot, facts: Facts) -> None:
        assert not isinstance(s.task, Unknown)
        uid = _current(facts)
        if facts.statement and assignment.offered is None:
            # Its class was taken away while it runs: what was stated holds, the agent goes on with the directory that it has.
            log.warning("sandbox.class_gone", extra={"object": assignment.name})
            return
        # Not awaited to its end by the agent: keys come after netguard, and `ready` is an event.
        configuration = await self._configuration(assignment, s.task, facts, uid)
        if not facts.agent.trouble:
            await self._links.once(assignment.name, "configure", **configuration.document())
            return
        try:
            await self._links.any_of(assignment.name).call("configure", **configuration.document())
        except Refused as error:
            # More than the directory changed since (a mailbox moved): the agent goes on with what it knows.
            log.warning("sandbox.directory_refused", extra={"object": assignment.name, "reason": error.reason})

    async def _configuration(self, assignment: Assignment, task: ChainTask, facts: Facts, uid: PodUid) -> Configuration:
        spec, reader, offered = honoured(assignment), self._context.reader, _offered(assignment)
        mailbox, owners, pod, directory, policies, *stores = await together(
            reader.node(spec.result.mailbox),
            self._view.owners(assignment.task),
            self._live(assignment, facts, uid),
            relay_directory(self._context),
            observe_policies(self._context, deny_host_access=offered.deny_host_access),
            *(reader.node(node) for node in sorted({item.node for item in spec.inputs if item.to == assignment.index})),
        )
        host, port = parse_endpoint(mailbox.endpoint)
        return Configuration(
            task=task.id,
            index=assignment.index,
            incarnation=facts.incarnation,
            pod_uid=uid,
            spec=spec,
            servers=owners,
            directory=tuple(directory),
            mailbox=MailboxEntry(node=mailbox.id, onion_key=mailbox.onion_key, host=host, port=port),
            stores=tuple(NodeKey(node=store.id, owner=store.owner, onion_key=store.onion_key) for store in stores),
            policy_hash=policies.digest,
            tier=offered.tier,
            host_access_denied=offered.deny_host_access,
            confinement_required=offered.confinement_required,
            agent_image=pod.agent_image,
            program_image=image_digest(spec.program.image),
            nonce=statement_nonce(task=task.id, pod_uid=uid, incarnation=facts.incarnation, server=self._context.writer.address),
            domain=self._domain,
        )

    async def countersign(self, assignment: Assignment, facts: Facts) -> None:
        name, uid = assignment.name, _current(facts)
        link = self._links.any_of(name)
        answer = await link.call("statement")
        statement = parse_statement(answer.get("statement"), party="agent")
        verify_statement(statement, from_hex(answer.get("signature", ""), 65), party="agent")
        await self._check_statement(assignment, statement, facts, uid, link.tls_key)
        verdict = await self._verifier.verify(report_data=statement.report_data, evidence=from_hex(answer.get("evidence", "0x")))

        # One pod, one statement: it is on disk before our signature makes it worth something.
        if facts.statement and facts.statement != statement.digest:
            raise ProtocolViolation("StatementRefused", "the sandbox made another statement than the one countersigned", party="agent")
        self._facts.change(
            name,
            statement=statement.digest,
            signer=statement.signing_key,
            tls_key=statement.tls_key,
            policies=statement.policy_hash,
            verdict=verdict,
        )
        await link.call("offer", serverSignature=to_hex(statements.countersign(statement, self._context.key)))
        self._facts.change(name, offered=True)

    async def _check_statement(self, assignment: Assignment, statement: Statement, facts: Facts, uid: PodUid, tls_key: bytes) -> None:
        """Compare what the sandbox says of itself with what the API server holds. Raises ProtocolViolation, or Transient."""
        offered, spec = _offered(assignment), honoured(assignment)
        policies, live = await together(
            observe_policies(self._context, deny_host_access=offered.deny_host_access), self._live(assignment, facts, uid)
        )
        if policies.missing:
            raise ClusterUnavailable("the fences changed while the sandbox's statement was checked")
        nonce = statement_nonce(task=assignment.task, pod_uid=uid, incarnation=facts.incarnation, server=self._context.writer.address)
        said = (
            ("task", statement.task, assignment.task),
            ("index", statement.index, assignment.index),
            ("incarnation", statement.incarnation, facts.incarnation),
            ("podUid", statement.pod_uid, uid),
            ("agentImage", statement.agent_image, live.agent_image),
            ("programImage", statement.program_image, image_digest(spec.program.image)),
            ("tlsKey", statement.tls_key, tls_key),
            ("policyHash", statement.policy_hash, policies.digest),
            ("tier", reaches(statement.tier, offered.tier), True),
            ("hostAccessDenied", statement.host_access_denied, offered.deny_host_access),
            ("programConfined", statement.program_confined or not offered.confinement_required, True),
            ("nonce", statement.nonce, nonce),
        )
        wrong = [field for field, said_value, true_value in said if said_value != true_value]
        if wrong or live.images_match is not True:
            what = ", ".join(wrong) or "imageID"
            raise ProtocolViolation("StatementRefused", f"the statement does not agree with the API server: {what}", party="agent")

    async def _live(self, assignment: Assignment, facts: Facts, uid: PodUid) -> PodSeen:
        """The pod as the API server has it now. Its images are what it was made with: the operator may have been upgraded since."""
        for pod in await self._view.pods(assignment.name, facts):
            if pod.uid == uid and not pod.deleting:
                return pod
        raise ClusterUnavailable("the sandbox is going")

    async def sign_sandbox_key(self, assignment: Assignment, facts: Facts) -> None:
        meeting, spec = facts.agent.meeting, honoured(assignment)
        assert meeting
        count = len(spec.servers)
        if len(meeting.statements) != count or len(meeting.signers) != count:
            raise ProtocolViolation("StatementRefused", "the meeting is not of all servers", party="agent")
        if meeting.statements[assignment.index] != facts.statement or meeting.signers[assignment.index] != facts.signer:
            raise ProtocolViolation("StatementRefused", "the meeting is not about our sandbox", party="agent")
        hashed = statements_hash(meeting.statements)
        digest = sandbox_key_digest(self._domain, assignment.task, key=meeting.key, statements_hash=hashed)

        # One sandbox key per task, for ever: a second one would let two sets of sandboxes pass for ours.
        if facts.accepted_key and facts.accepted_key != digest:
            raise ProtocolViolation("StatementRefused", "another sandbox key was accepted for this task before", party="agent")
        self._facts.change(assignment.name, accepted_key=digest)
        await self._links.once(assignment.name, "acceptance", signature=to_hex(self._context.key.sign(digest)))

    async def hand(self, assignment: Assignment, s: ServerSnapshot) -> None:
        assert not isinstance(s.task, Unknown)
        assert s.task.published_key
        published = Published(key=s.task.published_key, statements=s.task.statements, descriptors=s.task.descriptors)
        await self._links.any_of(assignment.name).call("published", **published.document())
        self._facts.change(assignment.name, handed=True)


def _guarded(relays: tuple[RelayEntry, ...], *, port: int, now: int) -> tuple[str, ...]:
    """Relays against which netguard proves that the fence has its one gate."""
    usable = [relay for relay in relays if relay.port == port and fresh(relay, now)]
    newest = sorted(usable, key=lambda relay: relay.updated_at, reverse=True)[:_NETGUARD_RELAYS]
    return tuple(spell_endpoint(relay.host, relay.port) for relay in newest)


def _check_canaries(canaries: Iterable[str], relays: Iterable[str]) -> None:
    """Raise Refused when something must be reachable and must not be: no fence could ever satisfy both."""
    if both := {parse_canary(text).spell() for text in canaries} & set(relays):
        raise Refused(
            "ImpossibleCanary",
            f"{len(both)} of the canaries are relays that sandboxes may dial: correct the SandboxClass or compute.canaries",
        )


def honoured(assignment: Assignment) -> specs.TaskSpec:
    """The specification. Raises Refused when this server cannot honour it."""
    if isinstance(assignment.spec, Refusal):
        raise Refused(assignment.spec.reason, assignment.spec.message)
    return assignment.spec


def _offered(assignment: Assignment) -> SandboxClass:
    if assignment.offered is None:
        raise Refused("ClassNotOffered", "the SandboxClass is not there any more")
    return assignment.offered


def _current(facts: Facts) -> PodUid:
    for record in facts.pods:
        if record.incarnation == facts.incarnation:
            return record.uid
    raise ClusterUnavailable("the current sandbox is not known yet")
