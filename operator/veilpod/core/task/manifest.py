"""A ComputeTask as its requester wrote it: read from the object's spec, completed with what the registry says, made into a TaskSpec.

The API server has checked the shape (crds/computetasks.yaml); what it cannot know is checked here and refused with a reason and a
remedy before anything is created or locked. No I/O: who has asked the registry hands its answers in. Paper step 1.
"""

import dataclasses
import decimal
import re
from collections.abc import Mapping, Sequence
from typing import Any

from veilpod.core.entities import NATIVE, Resource
from veilpod.core.ids import Address, NodeId, ServerIndex
from veilpod.core.keys import parse_address
from veilpod.core.sealing import recipient_bytes
from veilpod.core.task import spec as specs
from veilpod.errors import InvalidInput, ProtocolViolation

_MONEY = re.compile(r"^(0|[1-9][0-9]{0,5})(\.[0-9]{1,18})?$")
_DURATION = re.compile(r"^(?:([0-9]{1,3})h)?(?:([0-9]{1,5})m)?(?:([0-9]{1,7})s)?$")
_SIZE = re.compile(r"^([0-9]+)(Ki|Mi|Gi|Ti|k|M|G|T)?$")
_UNITS = {None: 1, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class WantedInput:
    """A data set by name, for one replica of a role."""

    dataset: str
    role: str
    index: int
    path: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """ComputeTask.spec as values; `spec` lacks only what the registry knows: inputs and the mailbox."""

    budget: int
    decimals: int  # of the asset, as the requester believes
    inputs: tuple[WantedInput, ...]
    result_role: str
    draft: specs.TaskSpec

    @property
    def datasets(self) -> tuple[str, ...]:
        """The names to look up in the registry, each once."""
        return tuple(dict.fromkeys(item.dataset for item in self.inputs))


def parse_manifest(spec: Mapping[str, Any]) -> Manifest:
    """Read ComputeTask.spec. Raises InvalidInput with a reason and a remedy."""
    try:
        return _parse(spec)
    except (KeyError, TypeError, AttributeError) as error:
        raise InvalidInput("InvalidSpec", f"spec is incomplete or of another version: {error}") from error


def complete(manifest: Manifest, resources: Mapping[str, Sequence[Resource]], *, mailbox: NodeId, lane: int = 0) -> specs.TaskSpec:
    """Resolve the data sets (name -> what the registry lists under it), the mailbox and the lane. Raises InvalidInput."""
    draft = manifest.draft
    inputs = tuple(_resolve(item, resources[item.dataset], _index_of(draft, item.role, item.index)) for item in manifest.inputs)
    result, payment = dataclasses.replace(draft.result, mailbox=mailbox), dataclasses.replace(draft.payment, lane=lane)
    spec = dataclasses.replace(draft, inputs=inputs, result=result, payment=payment)
    try:
        specs.check_spec(spec)
    except ProtocolViolation as error:
        raise InvalidInput(error.reason, str(error)) from error
    return spec


def to_units(text: Any, decimals: int = 18) -> int:
    """Read money: an exact decimal of an asset with so many digits after the point. Raises InvalidInput("InvalidMoney")."""
    if not isinstance(text, str) or not _MONEY.match(text):
        raise InvalidInput("InvalidMoney", f'write money as a decimal string such as "0.05", not {text!r}')
    units = decimal.Decimal(text).scaleb(decimals)
    if units != int(units):
        raise InvalidInput("InvalidMoney", f"{text!r} has more digits after the point than the {decimals} of the asset")
    return int(units)


def to_seconds(text: Any) -> int:
    """Read a duration such as 90s, 5m or 1h30m. Raises InvalidInput("InvalidDuration")."""
    match = _DURATION.match(text) if isinstance(text, str) and text else None
    seconds = sum(int(part or 0) * unit for part, unit in zip(match.groups(), (3600, 60, 1), strict=True)) if match else 0
    if not 0 < seconds <= 720 * 3600:
        raise InvalidInput("InvalidDuration", f"write a duration such as 90s, 5m or 1h30m, at most 720h, not {text!r}")
    return seconds


def to_bytes(quantity: Any) -> int:
    """Read a size such as 64Mi. Raises InvalidInput("InvalidSize")."""
    match = _SIZE.match(str(quantity))
    if not match:
        raise InvalidInput("InvalidSize", f"write a size in whole units such as 64Mi, not {quantity!r}")
    return int(match.group(1)) * _UNITS[match.group(2)]


def _parse(spec: Mapping[str, Any]) -> Manifest:
    program, result, payment = spec["program"], spec["result"], spec["payment"]
    resources, deadlines = program.get("resources") or {}, spec.get("deadlines") or {}
    topology, quorum, onion = spec.get("topology") or {}, spec.get("quorum") or {}, spec.get("onion") or {}
    recipient_bytes(result["recipient"])
    roles = tuple(
        specs.TaskRole(name=role["name"], replicas=role.get("replicas", 1), args=tuple(role.get("args") or ())) for role in spec["roles"]
    )
    asset, decimals = _asset(payment)
    draft = specs.TaskSpec(
        program=specs.Program(
            image=program["image"],
            command=tuple(program["command"]),
            env=tuple(sorted((program.get("env") or {}).items())),
            cpu=str(resources.get("cpu", "1")),
            memory=to_bytes(resources.get("memory", "1Gi")),
        ),
        roles=roles,
        topology=specs.Topology(type=topology.get("type", "None"), hub=topology.get("hub", ""), ports=tuple(topology.get("ports") or ())),
        inputs=(),
        result=specs.ResultSpec(
            sender=ServerIndex(0), recipient=result["recipient"], max_size=to_bytes(result.get("maxSize", "64Mi")), mailbox=NodeId(0)
        ),
        payment=specs.Payment(
            per_server=to_units(payment["perServer"], decimals),
            per_transfer_mib=to_units(payment.get("perTransferMiB", "0"), decimals),
            channel_deposit=to_units(payment.get("channelDeposit", "0.001"), decimals),
            asset=asset,
        ),
        deadlines=specs.Deadlines(
            schedule=to_seconds(deadlines.get("schedule", "2m")),
            inputs=to_seconds(deadlines.get("inputs", "5m")),
            compute=to_seconds(deadlines.get("compute", "30m")),
            total=to_seconds(deadlines.get("total", "1h")),
        ),
        quorum=specs.Quorum(role=quorum.get("role", ""), min=quorum.get("min", 0)),
        hops=onion.get("hops", 3),
        relays=onion.get("relays", "Any"),
        constant_rate=to_bytes(onion.get("constantRate", 0)),
        sandbox_class=spec.get("sandboxClassName", "standard"),
    )
    budget = to_units(payment["budget"], decimals)
    if budget < len(draft.servers) * draft.payment.per_server:
        raise InvalidInput("BudgetTooSmall", "the budget does not cover perServer times the number of servers: raise payment.budget")
    sender = _index_of(draft, result["from"], 0)
    return Manifest(
        budget=budget,
        decimals=decimals,
        inputs=tuple(
            WantedInput(dataset=item["dataset"], role=item["to"]["role"], index=item["to"].get("index", 0), path=item["path"])
            for item in spec.get("inputs") or ()
        ),
        result_role=result["from"],
        draft=dataclasses.replace(draft, result=dataclasses.replace(draft.result, sender=sender)),
    )


def _asset(payment: Mapping[str, Any]) -> tuple[Address, int]:
    decimals = payment.get("decimals", 18)
    if "asset" not in payment:
        if decimals != 18:
            raise InvalidInput("InvalidAsset", "payment.decimals belongs to a token: name it in payment.asset, or leave both out")
        return NATIVE, 18
    if not isinstance(decimals, int) or isinstance(decimals, bool) or not 0 <= decimals <= 36:
        raise InvalidInput("InvalidAsset", f"payment.decimals is a number from 0 to 36, not {decimals!r}")
    try:
        return parse_address(payment["asset"]), decimals
    except ProtocolViolation as error:
        raise InvalidInput("InvalidAsset", f"payment.asset: {error}") from error


def _index_of(spec: specs.TaskSpec, role: str, ordinal: int) -> ServerIndex:
    for server in spec.servers:
        if server.role.name == role and server.ordinal == ordinal:
            return server.index
    raise InvalidInput("NoSuchServer", f"there is no replica {ordinal} of role {role!r}: correct the role's name or its replicas")


def _resolve(item: WantedInput, found: Sequence[Resource], to: ServerIndex) -> specs.Input:
    live = [resource for resource in found if not resource.revoked]
    if not found:
        raise InvalidInput("DatasetNotFound", f"no data set {item.dataset!r} is registered: check the name with its owner")
    if not live:
        raise InvalidInput("DatasetRevoked", f"the owner of data set {item.dataset!r} revoked it: ask for another one")
    if len(live) > 1:
        # Whose data a name means is not ours to guess: a stranger may register the same name to be chosen.
        raise InvalidInput(
            "DatasetAmbiguous", f"several owners registered a data set {item.dataset!r}: ask the owner to register a unique name"
        )
    resource = live[0]
    return specs.Input(
        dataset=item.dataset,
        resource=resource.id,
        node=resource.node,
        owner=resource.owner,
        digest=resource.digest,
        size=resource.size,
        to=to,
        path=item.path,
    )
