"""A grant: the right of one sandbox to open one sealed object (paper step 5).

"Data signed by the sender, encrypted with the sandbox's public key" begins here. The data key is sealed to the sandbox's encryption key
in the context of exactly this task, statement and object, and the whole is signed by the data owner (or by the storage server that has
custody). The sandbox checks the signer before it decrypts anything.
"""

import dataclasses
from collections.abc import Collection
from typing import Any

from veilpod.core.canonical import tagged_digest, to_hex
from veilpod.core.fields import Fields, address_bytes
from veilpod.core.ids import Address, ResourceId, TaskId
from veilpod.core.keys import SIGNATURE_BYTES, SigningKey, recover
from veilpod.core.sealing import HybridPrivateKey, seal_hybrid
from veilpod.core.statement import Statement
from veilpod.errors import ProtocolViolation

GRANT_TAG = "veilpod.grant.v1"
DATA_KEY_BYTES = 32


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """One object for one sandbox. `digest` is the SHA-256 of the sealed object, `statement` the digest of the sandbox's statement."""

    task: TaskId
    resource: ResourceId
    statement: bytes
    digest: bytes
    sealed_key: bytes
    signer: Address
    signature: bytes

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        return {**self._signed_part(), "signature": to_hex(self.signature)}

    @property
    def signed_digest(self) -> bytes:
        """What the signer signs: everything but the signature. 32 bytes."""
        return tagged_digest(GRANT_TAG, self._signed_part())

    def _signed_part(self) -> dict[str, Any]:
        return {
            "taskId": to_hex(self.task),
            "resource": to_hex(self.resource),
            "statement": to_hex(self.statement),
            "digest": to_hex(self.digest),
            "sealedKey": to_hex(self.sealed_key),
            "signer": to_hex(address_bytes(self.signer)),
        }


def make_grant(data_key: bytes, *, statement: Statement, resource: ResourceId, digest: bytes, signer: SigningKey) -> Grant:
    """Seal a data key (32 bytes) to a sandbox. The caller has checked the statement against the chain and its own policy."""
    if len(data_key) != DATA_KEY_BYTES:
        raise ValueError("a data key is 32 bytes")
    context = _context(statement.task, statement.digest, digest)
    grant = Grant(
        task=statement.task,
        resource=resource,
        statement=statement.digest,
        digest=digest,
        sealed_key=seal_hybrid(statement.encryption_key, data_key, tag=GRANT_TAG, context=context),
        signer=signer.address,
        signature=b"",
    )
    return dataclasses.replace(grant, signature=signer.sign(grant.signed_digest))


def parse_grant(value: Any, *, party: str = "store") -> Grant:
    """Read a grant. Raises ProtocolViolation; signature and meaning are for `verify_grant`."""
    fields = Fields(value, what="grant", party=party)
    grant = Grant(
        task=TaskId(fields.data("taskId", 32)),
        resource=ResourceId(fields.data("resource", 32)),
        statement=fields.data("statement", 32),
        digest=fields.data("digest", 32),
        sealed_key=fields.data("sealedKey", maximum=4096),
        signer=fields.address("signer"),
        signature=fields.data("signature", SIGNATURE_BYTES),
    )
    fields.done()
    return grant


def verify_grant(grant: Grant, *, statement: Statement, resource: ResourceId, digest: bytes, signers: Collection[Address]) -> None:
    """Check that this grant is for this sandbox and object, by one of `signers`. Raises ProtocolViolation("InputRefused")."""
    if (grant.task, grant.statement, grant.resource, grant.digest) != (statement.task, statement.digest, resource, digest):
        raise ProtocolViolation("InputRefused", "the grant is for another task, sandbox or object", party="store")
    if grant.signer not in signers:
        raise ProtocolViolation("InputRefused", "the grant's signer neither owns the data nor stores them", party="store")
    if recover(grant.signed_digest, grant.signature) != grant.signer:
        raise ProtocolViolation("InputRefused", "the grant is not signed by its signer", party="store")


def open_grant(grant: Grant, key: HybridPrivateKey) -> bytes:
    """Open the data key of a verified grant. 32 bytes. Raises ProtocolViolation("CannotOpen" | "InputRefused")."""
    data_key = key.open(grant.sealed_key, tag=GRANT_TAG, context=_context(grant.task, grant.statement, grant.digest))
    if len(data_key) != DATA_KEY_BYTES:
        raise ProtocolViolation("InputRefused", "the grant seals something that is no data key", party="store")
    return data_key


def _context(task: TaskId, statement: bytes, digest: bytes) -> bytes:
    return task + statement + digest
