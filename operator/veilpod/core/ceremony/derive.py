"""The arithmetic of the ceremony: commitment, the digest of all commitments, a sealed share, the group key.

The key is HKDF-SHA256 over everybody's random bytes, salted with the commitments, brought into the curve's order by the "extra random bits"
of FIPS 186-5 A.2.1: with 128 of them, no key is likelier than another by more than 2^-128.
"""

from collections.abc import Sequence

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from veilpod.core.canonical import keccak256
from veilpod.core.ceremony.words import Ceremony, Commitment, body_digest
from veilpod.core.ids import ServerIndex
from veilpod.core.keys import SigningKey
from veilpod.core.sealing import HybridPrivateKey, seal_hybrid
from veilpod.errors import ProtocolViolation

CONTRIBUTION_BYTES = 32
SHARE_TAG = "veilpod.ceremony.share.v1"
_COMMITMENT_TAG = b"veilpod.ceremony.commitment.v1\0"
_SET_TAG = b"veilpod.ceremony.commitments.v1\0"
_KEY_INFO = b"veilpod.ceremony.key.v1"
_ORDER = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141
_KEY_MATERIAL = 48


def commit(ceremony: Ceremony, index: ServerIndex, contribution: bytes) -> bytes:
    """Hide 32 random bytes: keccak256(tag || task || statementsHash || index u8 || bytes). 32 bytes.

    The index is inside: who copies another's commitment cannot open it.
    """
    return keccak256(_COMMITMENT_TAG + ceremony.task + ceremony.statements + bytes([index]) + contribution)


def set_digest(ceremony: Ceremony, commitments: Sequence[Commitment]) -> bytes:
    """The digest of all commitments: keccak256(tag || task || statementsHash || count u8 || (commitment || SHA-256 of key)…). 32 bytes."""
    parts = b"".join(one.commitment + one.key for one in commitments)
    return keccak256(_SET_TAG + ceremony.task + ceremony.statements + bytes([len(commitments)]) + parts)


def seal_share(
    contribution: bytes, key: bytes, *, ceremony: Ceremony, commitments: bytes, sender: ServerIndex, reader: ServerIndex
) -> bytes:
    """Seal random bytes to a member's ceremony key, for this sender, reader and set of commitments only."""
    context = _context(ceremony, commitments, sender, reader)
    return seal_hybrid(key, contribution, tag=SHARE_TAG, context=context)


def open_share(
    share: bytes, key: HybridPrivateKey, *, ceremony: Ceremony, seen: Sequence[Commitment], sender: ServerIndex, reader: ServerIndex
) -> bytes:
    """Open a share and check it against its commitment. Raises ProtocolViolation("CannotOpen" | "CommitmentBroken"). 32 bytes."""
    context = _context(ceremony, set_digest(ceremony, seen), sender, reader)
    contribution = key.open(share, tag=SHARE_TAG, context=context)
    if len(contribution) != CONTRIBUTION_BYTES or commit(ceremony, sender, contribution) != seen[sender].commitment:
        raise ProtocolViolation("CommitmentBroken", "a share that its sender did not commit to", party=f"server {sender}")
    return contribution


def is_key_of(key: HybridPrivateKey, commitment: Commitment) -> bool:
    """Whether this is the ceremony key that was committed to."""
    return body_digest(key.public_bytes) == commitment.key


def group_key(commitments: bytes, contributions: Sequence[bytes]) -> SigningKey:
    """The key that everybody's random bytes make, in the order of the members."""
    okm = HKDF(algorithm=SHA256(), length=_KEY_MATERIAL, salt=commitments, info=_KEY_INFO).derive(b"".join(contributions))
    secret = int.from_bytes(okm, "big") % (_ORDER - 1) + 1
    return SigningKey(secret=secret.to_bytes(32, "big"))


def _context(ceremony: Ceremony, commitments: bytes, sender: ServerIndex, reader: ServerIndex) -> bytes:
    return ceremony.task + ceremony.statements + commitments + bytes([sender, reader])
