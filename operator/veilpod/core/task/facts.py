"""What a computing server must not forget about an assignment and can read nowhere else: not on chain, not in Kubernetes.

Written atomically before the step that relies on it. Holds no key and no plaintext. `Facts` is also the memory of the agent's events:
an event is acknowledged only after it is folded in here and on disk, so a restarted operator sees what its predecessor saw.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from veilpod.core.canonical import from_hex, to_hex
from veilpod.core.evidence import NO_TEE, Verdict
from veilpod.core.ids import Address, PodUid
from veilpod.core.keys import parse_address

EXPOSED = frozenset({"NetguardRefused", "PolicyMissing", "PolicyChanged"})  # codes of fences that do not hold


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Where it ended and why: a condition type that could not be reached, a code of the fixed vocabulary."""

    stage: str
    code: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PodRecord:
    """A pod of ours that the API server acknowledged."""

    uid: PodUid
    incarnation: int
    ends: int  # unix seconds: the kubelet kills it by then, operator or not
    evidence: bool = False  # every container was reported dead, and the kubelet's final delete was seen
    unproved: bool = False  # its netguard had given up


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Meeting:
    """What the agents agreed on before the key was published."""

    key: Address
    statements: tuple[bytes, ...]
    signers: tuple[Address, ...] = ()  # the sandbox keys that the statements name, by index


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SignedResult:
    """The result as the task key signed it."""

    result_hash: bytes
    size: int
    signature: bytes


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AgentSeen:
    """The agent's events of the current incarnation, folded."""

    isolated: bool = False
    ready: bool = False
    meeting: Meeting | None = None
    accepted: bool = False
    received: bool = False
    verified: bool = False
    started: bool = False
    exited: int | None = None
    result: SignedResult | None = None
    delivered: bool = False
    flushed: bool = False
    traffic: tuple[tuple[int, int, int], ...] = ()  # (peer, bytes sent, bytes received), once flushed
    failed: str = ""  # code
    blamed: int | None = None  # the server that the failure is laid to, by the agent's word
    trouble: str = ""  # what keeps circuits from being made now


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """One assignment's memory."""

    incarnation: int = 0  # 0: no sandbox was ever meant to exist
    nonce: str = ""  # written into the pod, so that it can be known again without trusting its name
    intended_at: int = 0  # when the creation was begun; 0 once its outcome is known
    pods: tuple[PodRecord, ...] = ()
    agent: AgentSeen = AgentSeen()
    statement: bytes = b""  # digest of the statement that was countersigned: from then on the incarnation is fixed
    signer: str = ""  # address of the sandbox key that it names
    tls_key: bytes = b""  # of the agent's end of the control stream, as the statement names it
    policies: bytes = b""  # hash of the fences that the statement attests
    verdict: Verdict = NO_TEE  # what a verifier says of the hardware beneath the statement
    offered: bool = False  # the agent has our countersignature
    accepted_key: bytes = b""  # digest of the SandboxKey that was signed: one per task, for ever
    handed: bool = False  # the agent has the published descriptors
    ending_since: int = 0
    finals: bool = False  # final states (or the newest ones) and the result are on disk: destruction may begin
    released: bool = False
    zeroised: str = ""  # "", "Acknowledged", "NoKeys" or "Unreachable"
    zeroise_proof: bytes = b""  # the agent's signature under its own end
    destroyed: str = ""  # "", or how it is known: the reason of SandboxDestroyed
    failure: Failure | None = None

    @property
    def exposed(self) -> bool:
        """Whether it ends because a fence fell: somebody may be looking in, and seconds count more than a friendly close."""
        return self.failure is not None and self.failure.code in EXPOSED

    @property
    def acknowledged_result(self) -> SignedResult | None:
        """The result that may be completed with: signed, delivered, and of a part that did not fail."""
        return self.agent.result if self.agent.delivered and self.failure is None else None

    def record(self, uid: PodUid) -> PodRecord | None:
        """What is known about a pod of ours."""
        return next((record for record in self.pods if record.uid == uid), None)

    def with_evidence(self, uid: PodUid, *, unproved: bool) -> "Facts":
        """The same with the evidence of a pod's end."""

        def end(record: PodRecord) -> PodRecord:
            return dataclasses.replace(record, evidence=True, unproved=unproved) if record.uid == uid else record

        return dataclasses.replace(self, pods=tuple(map(end, self.pods)))

    def to_json(self) -> dict[str, Any]:
        """The form on disk."""
        document: dict[str, Any] = _plain(dataclasses.asdict(self))
        return document


def parse_facts(document: Mapping[str, Any]) -> Facts:
    """Read what `to_json` wrote. Any other input is a damaged disk and raises: better stop than forget."""
    agent = dict(document["agent"])
    meeting, result, traffic = agent.pop("meeting"), agent.pop("result"), agent.pop("traffic")
    failure = document["failure"]
    simple = {name: document[name] for name in _SIMPLE}
    return Facts(
        **simple,
        pods=tuple(PodRecord(**record) for record in document["pods"]),
        statement=from_hex(document["statement"]),
        tls_key=from_hex(document["tls_key"]),
        policies=from_hex(document["policies"]),
        zeroise_proof=from_hex(document["zeroise_proof"]),
        accepted_key=from_hex(document["accepted_key"]),
        failure=Failure(**failure) if failure else None,
        verdict=Verdict(**document["verdict"]) if "verdict" in document else NO_TEE,  # of a version that asked nobody
        agent=AgentSeen(
            **agent,
            traffic=tuple((peer, sent, received) for peer, sent, received in traffic),
            meeting=Meeting(
                key=parse_address(meeting["key"]),
                statements=tuple(from_hex(item, 32) for item in meeting["statements"]),
                signers=tuple(parse_address(item) for item in meeting["signers"]),
            )
            if meeting
            else None,
            result=SignedResult(
                result_hash=from_hex(result["result_hash"], 32), size=result["size"], signature=from_hex(result["signature"], 65)
            )
            if result
            else None,
        ),
    )


_SIMPLE = (
    "incarnation",
    "signer",
    "nonce",
    "intended_at",
    "offered",
    "handed",
    "ending_since",
    "finals",
    "released",
    "zeroised",
    "destroyed",
)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return to_hex(value)
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
