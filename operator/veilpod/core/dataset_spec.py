"""A Dataset as its storage server declared it, and the rule by which a sandbox is granted it.

`judge` is the whole of access control on the storage server's side: it is asked before a delivery starts and again for every grant, with
what the chain says now. No I/O. Paper step 5 (the data owner grants a task access).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from veilpod.core.canonical import keccak256
from veilpod.core.entities import ChainTask, Resource, TaskPhase
from veilpod.core.fields import address_bytes
from veilpod.core.ids import Address, NodeId, ResourceId
from veilpod.core.keys import parse_address
from veilpod.core.statement import Statement
from veilpod.core.task.spec import Input, TaskSpec
from veilpod.core.tiers import reaches
from veilpod.errors import InvalidInput, ProtocolViolation, Refused


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Who may be granted a data set. Empty sets mean anybody. Programs are image digests (`sha256:…`)."""

    programs: frozenset[str] = frozenset()
    requesters: frozenset[Address] = frozenset()
    min_tier: str = "T0"
    confinement_required: bool = True  # of the program, to the task's own ports


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DatasetSpec:
    """Dataset.spec as values. `digest` and `size` are of the sealed object; `owner` is an account, this release's own by default."""

    name: str
    digest: bytes
    size: int
    owner: Address
    store_holds_key: bool
    policy: Policy

    @property
    def resource(self) -> ResourceId:
        """The id in NodeRegistry."""
        return resource_id(self.owner, self.name)


def parse_dataset(spec: Mapping[str, Any], *, own: Address) -> DatasetSpec:
    """Read Dataset.spec, whose shape the API server has checked. Raises InvalidInput("InvalidSpec")."""
    policy = spec.get("policy") or {}
    try:
        return DatasetSpec(
            name=spec["dataset"],
            digest=_digest(spec["digest"]),
            size=int(spec["size"]),
            owner=parse_address(spec["owner"]) if spec.get("owner") else own,
            store_holds_key=spec.get("custody", "Owner") == "Store",
            policy=Policy(
                programs=frozenset(_image_digest(image) for image in policy.get("programs", ())),
                requesters=frozenset(parse_address(text) for text in policy.get("requesters", ())),
                min_tier=policy.get("minTier", "T0"),
                confinement_required=policy.get("programConfinement", "Required") == "Required",
            ),
        )
    except (KeyError, TypeError, AttributeError, ValueError, ProtocolViolation) as error:
        raise InvalidInput("InvalidSpec", f"spec is incomplete or of another version: {error}") from error


def resource_id(owner: Address, name: str) -> ResourceId:
    """NodeRegistry's id of a resource: keccak256(abi.encode(owner, name)). 32 bytes."""
    text = name.encode()
    padded = text + bytes(-len(text) % 32)
    head = address_bytes(owner).rjust(32, b"\0") + (64).to_bytes(32, "big")
    return ResourceId(keccak256(head + len(text).to_bytes(32, "big") + padded))


def judge(
    *,
    item: Input,
    spec: TaskSpec,
    task: ChainTask,
    dataset: DatasetSpec | None,
    resource: Resource | None,
    node: NodeId,
    now: int,
    statement: Statement | None = None,
) -> DatasetSpec:
    """Decide whether an input may go to its sandbox. `statement` is the sandbox's, once it was met. Raises Refused with a code."""
    if task.phase is not TaskPhase.RUNNING or task.stopping or now > task.terms.complete_by:
        raise Refused("TaskExpired", "the task is not running any more")
    if resource is None or resource.revoked:
        raise Refused("ResourceRevoked", "the data set is not registered, or its owner revoked it")
    if dataset is None or dataset.resource != item.resource or item.node != node or resource.node != node:
        raise Refused("NotHere", "no Dataset of this release is the task's input")
    if (item.digest, item.size) != (resource.digest, resource.size) or item.digest != dataset.digest:
        raise Refused("WrongObject", "the task names another version of the data set")
    policy = dataset.policy
    if policy.requesters and task.requester not in policy.requesters:
        raise Refused("RequesterRefused", "the data set's policy does not name this requester")
    program = _image_digest(spec.program.image)
    if policy.programs and program not in policy.programs:
        raise Refused("ProgramRefused", "the data set's policy does not name this program")
    if statement is not None:
        _judge_sandbox(statement, item=item, task=task, program=program, policy=policy)
    return dataset


def _judge_sandbox(statement: Statement, *, item: Input, task: ChainTask, program: str, policy: Policy) -> None:
    if statement.task != task.id or statement.index != item.to:
        raise Refused("StatementRefused", "a sandbox of another task, or another place in it")
    if item.to >= len(task.statements) or statement.digest != task.statements[item.to]:
        raise Refused("StatementRefused", "the sandbox's statement is not the one on chain")
    if statement.program_image != program:
        raise Refused("ProgramRefused", "the sandbox runs another program than the task names")
    if not reaches(statement.rung, policy.min_tier):
        raise Refused("TierTooLow", f"the data set asks for {policy.min_tier}, the sandbox is {statement.rung}")
    if policy.confinement_required and not statement.program_confined:
        raise Refused("ProgramNotConfined", "the data set asks for a kernel that keeps the program to its task's ports")


def _digest(text: str) -> bytes:
    raw = bytes.fromhex(text.removeprefix("sha256:"))
    if len(raw) != 32:
        raise ValueError("digest is sha256: and 64 hex digits")
    return raw


def _image_digest(image: str) -> str:
    return image.rpartition("@")[2]
