"""What an operator and its own store say to each other on the control stream, as values that both ends read and write.

The values of the sandboxes' side (offers, notes, result pieces) are in `meeting`; grants are in `grant`.
"""

import dataclasses
from typing import Any

from veilpod.core.canonical import to_hex
from veilpod.core.fields import Fields, address_bytes
from veilpod.core.grant import Grant, parse_grant
from veilpod.core.ids import Address, NodeId, ResourceId, ServerIndex, TaskId
from veilpod.core.keys import SIGNATURE_BYTES
from veilpod.core.meeting import MAX_SERVERS
from veilpod.core.typed_data import Domain

_OPERATOR = "operator"
_MAX_RESULT = 1 << 40
_MAX_SECONDS = 86400


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TaskTerms:
    """A task's part in the mailbox: enough to check every signature without a chain."""

    task: TaskId
    owners: tuple[Address, ...]  # of the assigned servers, by index
    result_from: ServerIndex  # whose sandbox key is the task key
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
    """A sealed result that is whole in the mailbox: `digest` is SHA-256 of S, `signature` the task key's over EIP-712 Result."""

    size: int
    digest: bytes
    signature: bytes

    def document(self) -> dict[str, Any]:
        """The JSON form, in `result-info` and in downloads."""
        return {"size": self.size, "digest": to_hex(self.digest), "signature": to_hex(self.signature)}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, order=True)
class DeliveryKey:
    """One object for one server of a task."""

    task: TaskId
    resource: ResourceId
    index: ServerIndex

    def document(self) -> dict[str, Any]:
        """The JSON form, in every command and event about a delivery."""
        return {"taskId": to_hex(self.task), "resource": to_hex(self.resource), "index": int(self.index)}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryOrder:
    """What to deliver, and where the sandbox can be met.

    `statement` is the digest on chain, `hops` and `in_cluster` are the specification's words on circuits, `seconds` is the time there is.
    """

    key: DeliveryKey
    dataset: str
    digest: bytes
    size: int
    statement: bytes
    relay: NodeId
    cookie: bytes
    service_key: bytes
    hops: int
    in_cluster: bool
    seconds: int

    def document(self) -> dict[str, Any]:
        """The args of `deliver`."""
        return {
            **self.key.document(),
            "dataset": self.dataset,
            "digest": to_hex(self.digest),
            "size": self.size,
            "statement": to_hex(self.statement),
            "hops": self.hops,
            "inCluster": self.in_cluster,
            "seconds": self.seconds,
            "descriptor": {"relay": int(self.relay), "cookie": to_hex(self.cookie), "serviceKey": to_hex(self.service_key)},
        }


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GrantWanted:
    """The store met a sandbox and asks whether it may have the object. Event `grant-wanted`; the statement is parsed by who judges it."""

    key: DeliveryKey
    statement: Any
    signature: bytes
    server_signature: bytes

    def document(self) -> dict[str, Any]:
        """The event's data."""
        return {
            **self.key.document(),
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
        size=fields.integer("size", minimum=1), digest=fields.data("digest", 32), signature=fields.data("signature", SIGNATURE_BYTES)
    )
    fields.done()
    return info


def parse_order(value: Any) -> DeliveryOrder:
    """Read the args of `deliver`. Raises ProtocolViolation."""
    fields = Fields(value, what="delivery", party=_OPERATOR)
    descriptor = fields.fields("descriptor")
    order = DeliveryOrder(
        key=_key(fields),
        dataset=fields.text("dataset"),
        digest=fields.data("digest", 32),
        size=fields.integer("size", minimum=1),
        statement=fields.data("statement", 32),
        hops=fields.integer("hops", minimum=1, maximum=8),
        in_cluster=fields.flag("inCluster"),
        seconds=fields.integer("seconds", minimum=1, maximum=_MAX_SECONDS),
        relay=NodeId(descriptor.integer("relay", minimum=1)),
        cookie=descriptor.data("cookie", 20),
        service_key=descriptor.data("serviceKey", 32),
    )
    descriptor.done()
    fields.done()
    return order


def parse_grant_command(value: Any) -> tuple[DeliveryKey, Grant | str]:
    """Read the args of `grant`: a grant, or the code of a refusal. Raises ProtocolViolation."""
    fields = Fields(value, what="grant command", party=_OPERATOR)
    key = _key(fields)
    verdict: Grant | str
    verdict = parse_grant(fields.take("grant"), party=_OPERATOR) if "grant" in value else fields.text("refused", maximum=64)
    fields.done()
    return key, verdict


def parse_grant_wanted(value: Any) -> GrantWanted:
    """Read the event `grant-wanted`. Raises ProtocolViolation."""
    fields = Fields(value, what="grant request", party="store")
    wanted = GrantWanted(
        key=_key(fields),
        statement=fields.take("statement"),
        signature=fields.data("signature", SIGNATURE_BYTES),
        server_signature=fields.data("serverSignature", SIGNATURE_BYTES),
    )
    fields.done()
    return wanted


def parse_delivery_event(value: Any) -> tuple[DeliveryKey, str]:
    """Read the events `delivered` (code "") and `delivery-failed`. Raises ProtocolViolation."""
    fields = Fields(value, what="delivery event", party="store")
    key = _key(fields)
    code = fields.text("code", maximum=64) if "code" in value else ""
    fields.done()
    return key, code


def _key(fields: Fields) -> DeliveryKey:
    return DeliveryKey(
        task=TaskId(fields.data("taskId", 32)),
        resource=ResourceId(fields.data("resource", 32)),
        index=ServerIndex(fields.integer("index", maximum=MAX_SERVERS - 1)),
    )
