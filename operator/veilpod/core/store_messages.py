"""What an operator and its own store say to each other on the control stream, as values that both ends read and write.

The values of the sandboxes' side (offers, notes, result pieces) are in `meeting`; grants are in `grant`.
"""

import dataclasses
from typing import Any

from veilpod.core.canonical import to_hex
from veilpod.core.ceremony.evidence import Evidence, parse_evidence
from veilpod.core.ceremony.words import Confirmation, Stage, parse_confirmations
from veilpod.core.fields import Fields, address_bytes
from veilpod.core.grant import Grant, parse_grant
from veilpod.core.ids import Address, NodeId, ResourceId, ServerIndex, TaskId
from veilpod.core.keys import SIGNATURE_BYTES
from veilpod.core.meeting import MAX_SERVERS
from veilpod.core.onion.legs import MAX_RATE
from veilpod.core.typed_data import Domain

_OPERATOR = "operator"
_MAX_RESULT = 1 << 40
_MAX_SECONDS = 86400
_MAX_OBJECTS = 256


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TaskTerms:
    """A task's part in the mailbox: enough to check every signature without a chain."""

    task: TaskId
    owners: tuple[Address, ...]  # of the assigned servers, by index
    result_from: ServerIndex  # whose sandbox makes the result
    max_size: int  # of the result's archive, bytes
    domain: Domain

    def document(self) -> dict[str, Any]:
        """The args of `announce-task`."""
        return {
            "taskId": to_hex(self.task),
            "owners": [to_hex(address_bytes(owner)) for owner in self.owners],
            "resultFrom": int(self.result_from),
            "maxSize": self.max_size,
            "domain": {"chainId": self.domain.chain_id, "contract": to_hex(address_bytes(self.domain.contract))},
        }


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ResultInfo:
    """A sealed result that is whole in the mailbox: `digest` is SHA-256 of S, `signature` the task key's over EIP-712 Result.

    `author` is the signature of the sandbox that made it.
    """

    size: int
    digest: bytes
    signature: bytes
    author: bytes

    def document(self) -> dict[str, Any]:
        """The JSON form, in `result-info` and in downloads."""
        return {
            "size": self.size,
            "digest": to_hex(self.digest),
            "signature": to_hex(self.signature),
            "author": to_hex(self.author),
        }


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CeremonyReport:
    """How far the key ceremony of a task is: `stage` is "" before it can begin and "done" when everybody confirmed.

    `missing` have not said this stage's word. `evidence` was judged by the mailbox; anybody can judge it again.
    """

    stage: str = ""
    missing: tuple[ServerIndex, ...] = ()
    confirmations: tuple[Confirmation, ...] = ()
    evidence: tuple[Evidence, ...] = ()

    def document(self) -> dict[str, Any]:
        """The answer to `ceremony`."""
        return {
            "stage": self.stage,
            "missing": [int(index) for index in self.missing],
            "confirmations": [word.document() for word in self.confirmations],
            "evidence": [evidence.document() for evidence in self.evidence],
        }


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, order=True)
class SandboxRef:
    """One server's sandbox in a task: whom a delivery is for."""

    task: TaskId
    index: ServerIndex

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        return {"taskId": to_hex(self.task), "index": int(self.index)}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryObject:
    """A sealed object as the specification names it. `digest` and `size` are of the sealed form."""

    resource: ResourceId
    dataset: str
    digest: bytes
    size: int

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        return {"resource": to_hex(self.resource), "dataset": self.dataset, "digest": to_hex(self.digest), "size": self.size}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryOrder:
    """What to deliver to a sandbox in one meeting, and where it can be met.

    `statement` is the digest on chain; `hops`, `in_cluster` and `constant_rate` are the specification's words on circuits; `seconds` is the
    time there is.
    """

    sandbox: SandboxRef
    objects: tuple[DeliveryObject, ...]
    statement: bytes
    relay: NodeId
    cookie: bytes
    service_key: bytes
    hops: int
    in_cluster: bool
    constant_rate: int
    seconds: int

    def document(self) -> dict[str, Any]:
        """The args of `deliver`."""
        return {
            **self.sandbox.document(),
            "objects": [item.document() for item in self.objects],
            "statement": to_hex(self.statement),
            "hops": self.hops,
            "inCluster": self.in_cluster,
            "constantRate": self.constant_rate,
            "seconds": self.seconds,
            "descriptor": {"relay": int(self.relay), "cookie": to_hex(self.cookie), "serviceKey": to_hex(self.service_key)},
        }


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GrantWanted:
    """The store met a sandbox and asks whether it may have the object. Event `grant-wanted`; the statement is parsed by who judges it."""

    sandbox: SandboxRef
    resource: ResourceId
    statement: Any
    signature: bytes
    server_signature: bytes

    def document(self) -> dict[str, Any]:
        """The event's data."""
        return {
            **self.sandbox.document(),
            "resource": to_hex(self.resource),
            "statement": self.statement,
            "signature": to_hex(self.signature),
            "serverSignature": to_hex(self.server_signature),
        }


def parse_terms(value: Any) -> TaskTerms:
    """Read the args of `announce-task`. Raises ProtocolViolation."""
    fields = Fields(value, what="announcement", party=_OPERATOR)
    domain = fields.fields("domain")
    owners = fields.items("owners", maximum=MAX_SERVERS)
    terms = TaskTerms(
        task=TaskId(fields.data("taskId", 32)),
        owners=tuple(Fields({"owner": owner}, what="announcement", party=_OPERATOR).address("owner") for owner in owners),
        result_from=ServerIndex(fields.integer("resultFrom", maximum=max(0, len(owners) - 1))),
        max_size=fields.integer("maxSize", minimum=1, maximum=_MAX_RESULT),
        domain=Domain(chain_id=domain.integer("chainId", minimum=1), contract=domain.address("contract")),
    )
    domain.done()
    fields.done()
    if not terms.owners:
        raise fields.violation("names no server")
    return terms


def parse_result_info(value: Any) -> ResultInfo:
    """Read a result's description. Raises ProtocolViolation."""
    fields = Fields(value, what="result", party="store")
    info = ResultInfo(
        size=fields.integer("size", minimum=1),
        digest=fields.data("digest", 32),
        signature=fields.data("signature", SIGNATURE_BYTES),
        author=fields.data("author", SIGNATURE_BYTES),
    )
    fields.done()
    return info


def parse_ceremony(value: Any, *, party: str = "store") -> CeremonyReport:
    """Read the answer to `ceremony`. Raises ProtocolViolation."""
    fields = Fields(value, what="ceremony", party=party)
    missing = fields.items("missing", maximum=MAX_SERVERS)
    report = CeremonyReport(
        stage=fields.choice("stage", frozenset(Stage) | {"", "done"}),
        missing=tuple(
            ServerIndex(Fields({"index": i}, what="ceremony", party=party).integer("index", maximum=MAX_SERVERS - 1)) for i in missing
        ),
        confirmations=parse_confirmations(fields.take("confirmations"), party=party),
        evidence=tuple(parse_evidence(item, party=party) for item in fields.items("evidence", maximum=MAX_SERVERS)),
    )
    fields.done()
    return report


def parse_order(value: Any) -> DeliveryOrder:
    """Read the args of `deliver`. Raises ProtocolViolation."""
    fields = Fields(value, what="delivery", party=_OPERATOR)
    descriptor = fields.fields("descriptor")
    order = DeliveryOrder(
        sandbox=_sandbox(fields),
        objects=tuple(_object(item) for item in fields.items("objects", maximum=_MAX_OBJECTS)),
        statement=fields.data("statement", 32),
        hops=fields.integer("hops", minimum=1, maximum=8),
        in_cluster=fields.flag("inCluster"),
        constant_rate=fields.integer("constantRate", maximum=MAX_RATE),
        seconds=fields.integer("seconds", minimum=1, maximum=_MAX_SECONDS),
        relay=NodeId(descriptor.integer("relay", minimum=1)),
        cookie=descriptor.data("cookie", 20),
        service_key=descriptor.data("serviceKey", 32),
    )
    descriptor.done()
    fields.done()
    return order


def grant_document(sandbox: SandboxRef, resource: ResourceId, verdict: Grant | str) -> dict[str, Any]:
    """The args of `grant`: a grant, or the code of a refusal."""
    decided: dict[str, Any] = {"refused": verdict} if isinstance(verdict, str) else {"grant": verdict.document()}
    return {**sandbox.document(), "resource": to_hex(resource), **decided}


def parse_grant_command(value: Any) -> tuple[SandboxRef, ResourceId, Grant | str]:
    """Read the args of `grant`. Raises ProtocolViolation."""
    fields = Fields(value, what="grant command", party=_OPERATOR)
    sandbox, resource = _sandbox(fields), ResourceId(fields.data("resource", 32))
    verdict: Grant | str
    verdict = parse_grant(fields.take("grant"), party=_OPERATOR) if "grant" in value else fields.text("refused", maximum=64)
    fields.done()
    return sandbox, resource, verdict


def parse_grant_wanted(value: Any, *, party: str = "store") -> GrantWanted:
    """Read the event `grant-wanted`. Raises ProtocolViolation."""
    fields = Fields(value, what="grant request", party=party)
    wanted = GrantWanted(
        sandbox=_sandbox(fields),
        resource=ResourceId(fields.data("resource", 32)),
        statement=fields.take("statement"),
        signature=fields.data("signature", SIGNATURE_BYTES),
        server_signature=fields.data("serverSignature", SIGNATURE_BYTES),
    )
    fields.done()
    return wanted


def parse_delivery_event(value: Any) -> tuple[SandboxRef, str]:
    """Read the events `delivered` (code "") and `delivery-failed`. Raises ProtocolViolation."""
    fields = Fields(value, what="delivery event", party="store")
    sandbox = _sandbox(fields)
    code = fields.text("code", maximum=64) if "code" in value else ""
    fields.done()
    return sandbox, code


def _sandbox(fields: Fields) -> SandboxRef:
    return SandboxRef(task=TaskId(fields.data("taskId", 32)), index=ServerIndex(fields.integer("index", maximum=MAX_SERVERS - 1)))


def _object(value: Any) -> DeliveryObject:
    fields = Fields(value, what="object", party=_OPERATOR)
    item = DeliveryObject(
        resource=ResourceId(fields.data("resource", 32)),
        dataset=fields.text("dataset"),
        digest=fields.data("digest", 32),
        size=fields.integer("size", minimum=1),
    )
    fields.done()
    return item
