"""Canonical JSON and digests of signed documents (docs/protocol/task.md, "Conventions").

Two parties sign the same bytes only if a value has one spelling: keys sorted, no white space, no floats, ASCII escapes.
"""

import json
from typing import Any

from Crypto.Hash import keccak

from veilpod.errors import ProtocolViolation


def keccak256(data: bytes) -> bytes:
    """Hash with Keccak-256, the EVM's hash (not SHA3-256). 32 bytes."""
    return keccak.new(digest_bits=256, data=data).digest()


def canonical(value: Any) -> bytes:
    """Spell a JSON value in its one canonical form. Raises TypeError for floats and anything that is not JSON."""
    _refuse_floats(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def parse_canonical(data: bytes) -> Any:
    """Parse canonical JSON. Raises ProtocolViolation("NotCanonical") for any other spelling: one value, one digest."""
    try:
        value = json.loads(data)
        same = canonical(value) == data
    except (ValueError, TypeError, RecursionError) as error:
        raise ProtocolViolation("NotCanonical", f"not canonical JSON: {error}") from error
    if not same:
        raise ProtocolViolation("NotCanonical", "JSON that is not in canonical form")
    return value


def tagged_digest(tag: str, value: Any) -> bytes:
    """Digest a document for signing: keccak256(tag || 0x00 || canonical). Raw bytes are taken as they are. 32 bytes."""
    body = value if isinstance(value, bytes) else canonical(value)
    return keccak256(tag.encode() + b"\0" + body)


def to_hex(data: bytes) -> str:
    """Spell bytes the way every document does: 0x and lower-case hex."""
    return "0x" + data.hex()


def from_hex(text: str, size: int | None = None) -> bytes:
    """Read 0x hex. Raises ProtocolViolation("BadHex") for anything else, or for another size (bytes) than asked for."""
    try:
        if not text.startswith("0x"):
            raise ValueError("no 0x")
        data = bytes.fromhex(text[2:])
    except (ValueError, AttributeError) as error:
        raise ProtocolViolation("BadHex", f"not 0x hex: {str(text)[:20]!r}") from error
    if size is not None and len(data) != size:
        raise ProtocolViolation("BadHex", f"{len(data)} bytes where {size} are expected")
    return data


def _refuse_floats(value: Any) -> None:
    if isinstance(value, float):
        raise TypeError("floats have no canonical spelling")
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError("keys must be strings")
            _refuse_floats(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _refuse_floats(item)
