"""Values that many tests about sandboxes need."""

import dataclasses

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from veilpod.core.ids import PodUid, ServerIndex, TaskId
from veilpod.core.keys import SigningKey
from veilpod.core.meeting import Offer
from veilpod.core.sealing import HybridPrivateKey
from veilpod.core.statement import Statement, countersign, sign_statement

TASK = TaskId(b"\x11" * 32)


@dataclasses.dataclass(frozen=True)
class Keys:
    """What one sandbox is born with, and its server's chain key."""

    signing: SigningKey
    encryption: HybridPrivateKey
    onion: X25519PrivateKey
    server: SigningKey


def keys(number: int = 1) -> Keys:
    return Keys(
        signing=SigningKey(secret=bytes([number]) * 32),
        encryption=HybridPrivateKey.from_bytes(bytes([number]) * 96),
        onion=X25519PrivateKey.from_private_bytes(bytes([number]) * 32),
        server=SigningKey(secret=bytes([100 + number]) * 32),
    )


def statement(of: Keys, *, index: int = 0, task: TaskId = TASK) -> Statement:
    return Statement(
        task=task,
        index=ServerIndex(index),
        incarnation=1,
        pod_uid=PodUid("3f0c5f0e-0000-4000-8000-000000000001"),
        agent_image="sha256:" + "a" * 64,
        program_image="sha256:" + "b" * 64,
        encryption_key=of.encryption.public_bytes,
        onion_key=of.onion.public_key().public_bytes_raw(),
        signing_key=of.signing.address,
        tls_key=b"\x05" * 32,
        policy_hash=b"\x06" * 32,
        tier="T0",
        host_access_denied=True,
        program_confined=True,
        allowed=1,
        blocked=2,
        nonce=b"\x07" * 32,
    )


def offer(of: Keys, *, index: int = 0, task: TaskId = TASK) -> Offer:
    made = statement(of, index=index, task=task)
    return Offer(statement=made, signature=sign_statement(made, of.signing), server_signature=countersign(made, of.server))
