"""The sandbox statement: what a sandbox says about itself, signed by the key it was born with (paper step 4).

    sandbox key signs   -> possession, and that one process holds all the keys named
    server countersigns -> its operator compared pod UID, image digests and policies with the live API
    the chain holds     -> the digest, so that a data sender needs to trust neither messenger

The canonical bytes also have a SHA-384 digest shaped as TEE report data: a later tier binds the same statement to hardware.
"""

import dataclasses
import hashlib
from typing import Any

from veilpod.core.canonical import canonical, keccak256, tagged_digest, to_hex
from veilpod.core.fields import Fields, address_bytes
from veilpod.core.ids import Address, PodUid, ServerIndex, TaskId
from veilpod.core.keys import SigningKey, recover
from veilpod.core.sealing import HYBRID_PUBLIC_BYTES
from veilpod.core.tiers import OBSERVABLE, rung
from veilpod.errors import ProtocolViolation

STATEMENT_TAG = "veilpod.statement.v1"
SERVER_TAG = "veilpod.server.v1"
_MAX_SERVERS = 16


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """One per pod, for ever. Images are `sha256:…` digests; keys are public."""

    task: TaskId
    index: ServerIndex
    incarnation: int
    pod_uid: PodUid
    agent_image: str
    program_image: str
    encryption_key: bytes  # hybrid, 1216 bytes
    onion_key: bytes  # X25519, 32 bytes
    signing_key: Address
    tls_key: bytes  # SHA-256 of the control stream's SPKI
    policy_hash: bytes
    tier: str  # observed from inside
    host_access_denied: bool  # the class denies it, and its server saw the policies that do in force
    program_confined: bool  # its kernel keeps the program to the task's own TCP ports
    allowed: int  # peers that netguard reached
    blocked: int  # canaries that it did not
    nonce: bytes

    def document(self) -> dict[str, Any]:
        """The JSON form, in the spelling that is signed."""
        return {
            "version": 1,
            "taskId": to_hex(self.task),
            "index": self.index,
            "incarnation": self.incarnation,
            "podUid": self.pod_uid,
            "agentImage": self.agent_image,
            "programImage": self.program_image,
            "encryptionKey": to_hex(self.encryption_key),
            "onionKey": to_hex(self.onion_key),
            "signingKey": to_hex(address_bytes(self.signing_key)),
            "tlsKey": to_hex(self.tls_key),
            "policyHash": to_hex(self.policy_hash),
            "tier": self.tier,
            "hostAccessDenied": self.host_access_denied,
            "programConfined": self.program_confined,
            "netguard": {"allowed": self.allowed, "blocked": self.blocked},
            "nonce": to_hex(self.nonce),
        }

    @property
    def digest(self) -> bytes:
        """What is signed, countersigned and kept on chain. 32 bytes."""
        return tagged_digest(STATEMENT_TAG, self.document())

    @property
    def rung(self) -> str:
        """How high it climbs on the claim ladder. T3 is not stated: a verifier says it."""
        return rung(self.tier, host_access_denied=self.host_access_denied)

    @property
    def report_data(self) -> bytes:
        """SHA-384 of the canonical bytes: the report data of a TEE's evidence. 48 bytes."""
        return hashlib.sha384(canonical(self.document())).digest()


def parse_statement(value: Any, *, party: str = "") -> Statement:
    """Read a statement. Raises ProtocolViolation for anything that `document` would not have written."""
    fields = Fields(value, what="statement", party=party)
    if fields.integer("version") != 1:
        raise fields.violation("is of another version")
    netguard = fields.fields("netguard")
    statement = Statement(
        task=TaskId(fields.data("taskId", 32)),
        index=ServerIndex(fields.integer("index", maximum=_MAX_SERVERS - 1)),
        incarnation=fields.integer("incarnation", maximum=1 << 31),
        pod_uid=PodUid(fields.text("podUid", maximum=64)),
        agent_image=_image(fields, "agentImage"),
        program_image=_image(fields, "programImage"),
        encryption_key=fields.data("encryptionKey", HYBRID_PUBLIC_BYTES),
        onion_key=fields.data("onionKey", 32),
        signing_key=fields.address("signingKey"),
        tls_key=fields.data("tlsKey", 32),
        policy_hash=fields.data("policyHash", 32),
        tier=fields.choice("tier", frozenset(OBSERVABLE)),
        host_access_denied=fields.flag("hostAccessDenied"),
        program_confined=fields.flag("programConfined"),
        # A sandbox whose isolation nobody observed has no statement.
        allowed=netguard.integer("allowed", minimum=1, maximum=1 << 16),
        blocked=netguard.integer("blocked", minimum=1, maximum=1 << 16),
        nonce=fields.data("nonce", 32),
    )
    netguard.done()
    fields.done()
    return statement


def sign_statement(statement: Statement, key: SigningKey) -> bytes:
    """Sign with the sandbox key that the statement names. 65 bytes."""
    if key.address != statement.signing_key:
        raise ValueError("a statement is signed by the key that it names")
    return key.sign(statement.digest)


def verify_statement(statement: Statement, signature: bytes, *, party: str = "") -> None:
    """Check the possession proof. Raises ProtocolViolation("StatementRefused")."""
    if recover(statement.digest, signature) != statement.signing_key:
        raise ProtocolViolation("StatementRefused", "the statement is not signed by the key that it names", party=party)


def countersign(statement: Statement, chain_key: SigningKey) -> bytes:
    """The server's signature under its own sandbox's statement. 65 bytes."""
    return chain_key.sign(_server_digest(statement))


def countersigner(statement: Statement, signature: bytes) -> Address:
    """The account whose signature this is under the statement."""
    return recover(_server_digest(statement), signature)


def verify_countersignature(statement: Statement, signature: bytes, owner: Address, *, party: str = "") -> None:
    """Check that the assigned server vouches for the statement. Raises ProtocolViolation("StatementRefused")."""
    if countersigner(statement, signature) != owner:
        raise ProtocolViolation("StatementRefused", "the statement is not countersigned by the assigned server", party=party)


def statement_nonce(*, task: TaskId, pod_uid: PodUid, incarnation: int, server: Address) -> bytes:
    """The operator's nonce: keccak256(task id || pod UID, UTF-8 || incarnation, u64 || server address). One pod has one statement."""
    return keccak256(task + pod_uid.encode() + incarnation.to_bytes(8, "big") + address_bytes(server))


def _server_digest(statement: Statement) -> bytes:
    return tagged_digest(SERVER_TAG, statement.digest)


def _image(fields: Fields, name: str) -> str:
    text = fields.text(name, maximum=71)
    if len(text) != 71 or not text.startswith("sha256:") or not set(text[7:]) <= set("0123456789abcdef"):
        raise fields.violation(f"has a bad {name}")
    return text
