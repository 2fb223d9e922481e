"""The sealed form of a data set: how it rests in a store, and how it is opened inside a sandbox.

    "VEILDS01" || u32 length of header || header (canonical JSON) || chunk 0 || chunk 1 || ...

Chunks are 1 MiB of plaintext under AES-256-GCM in the STREAM construction (Hoang, Reyhanitabar, Rogaway, Vizár 2015): nonce =
8-byte prefix || u32 counter, associated data = SHA-256 of everything before chunk 0 || one byte, 1 for the last chunk. So no chunk
can be altered, dropped, repeated, moved or cut off, and no header can be put on another object's chunks. Every chunk but the last is
full; an empty object is one empty last chunk.

The header carries the data key sealed to its custodian (the owner, or the storage server with `custody: Store`). Nothing here does
I/O: callers feed bytes in and take bytes out, never holding more than two chunks. Serves paper step 5 (data leave their owner
encrypted) and 6 (decryption).
"""

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from veilpod.core.canonical import canonical, from_hex, parse_canonical, to_hex
from veilpod.core.sealing import HybridPrivateKey, seal_hybrid
from veilpod.errors import InvalidInput, ProtocolViolation

MAGIC = b"VEILDS01"
CHUNK = 1 << 20  # plaintext bytes
TAG = 16
KEY_BYTES = 32
PREFIX_BYTES = 8
MAX_HEADER = 8192
MAX_NAME = 253
CUSTODY_TAG = "veilpod.custody.v1"
_MAX_CHUNKS = 1 << 32
_HEADER_FIELDS = {"version", "name", "chunk", "prefix", "custodian", "sealedKey"}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What stands before the chunks. `custodian` is the SHA-256 of the public key that `sealed_key` is sealed to."""

    name: str
    prefix: bytes
    custodian: bytes
    sealed_key: bytes
    raw: bytes  # magic, length and canonical JSON: what the chunks are bound to


def make_header(*, name: str, custodian: bytes, data_key: bytes, prefix: bytes) -> Header:
    """Seal a fresh data key (32 random bytes) to a custodian's hybrid public key. `prefix` is 8 random bytes. Raises InvalidInput."""
    if len(data_key) != KEY_BYTES or len(prefix) != PREFIX_BYTES:
        raise ValueError("a data key is 32 bytes and a nonce prefix 8")
    if not 0 < len(name) <= MAX_NAME:
        raise InvalidInput("InvalidName", f"a data set's name has 1 to {MAX_NAME} characters")
    sealed_key = seal_hybrid(custodian, data_key, tag=CUSTODY_TAG, context=name.encode())
    fingerprint = hashlib.sha256(custodian).digest()
    body = canonical(
        {
            "version": 1,
            "name": name,
            "chunk": CHUNK,
            "prefix": to_hex(prefix),
            "custodian": to_hex(fingerprint),
            "sealedKey": to_hex(sealed_key),
        }
    )
    raw = MAGIC + len(body).to_bytes(4, "big") + body
    return Header(name=name, prefix=prefix, custodian=fingerprint, sealed_key=sealed_key, raw=raw)


def parse_header(data: bytes) -> Header | None:
    """Read a header from an object's first bytes; None while more bytes are needed. Raises ProtocolViolation("BadObject")."""
    if data[: len(MAGIC)] != MAGIC[: len(data)]:
        raise ProtocolViolation("BadObject", "not a sealed data set: make one with `veilpod dataset seal`")
    start = len(MAGIC) + 4
    if len(data) < start:
        return None
    length = int.from_bytes(data[len(MAGIC) : start], "big")
    if not 0 < length <= MAX_HEADER:
        raise ProtocolViolation("BadObject", f"a header of {length} bytes")
    if len(data) < start + length:
        return None
    raw = bytes(data[: start + length])
    return _header_of(parse_canonical(raw[start:]), raw)


def open_data_key(header: Header, custodian: HybridPrivateKey) -> bytes:
    """Open the data key with the custodian's private key. 32 bytes. Raises ProtocolViolation("CannotOpen")."""
    data_key = custodian.open(header.sealed_key, tag=CUSTODY_TAG, context=header.name.encode())
    if len(data_key) != KEY_BYTES:
        raise ProtocolViolation("BadObject", "the header seals something that is no data key")
    return data_key


def seal_stream(plaintext: Iterable[bytes], *, header: Header, data_key: bytes) -> Iterator[bytes]:
    """Seal a plaintext, given in pieces of any size: yields the header, then the chunks."""
    cipher, binding = AESGCM(data_key), hashlib.sha256(header.raw).digest()
    yield header.raw
    pending, counter = bytearray(), 0
    for piece in plaintext:
        pending += piece
        # A full chunk is held back until more follows: only then it is known not to be the last.
        while len(pending) > CHUNK:
            with memoryview(pending) as view:
                sealed = cipher.encrypt(_nonce(header, counter), view[:CHUNK], binding + b"\0")
            del pending[:CHUNK]
            yield sealed
            counter += 1
    yield cipher.encrypt(_nonce(header, counter), pending, binding + b"\1")


class Opener:
    """Opens an object that arrives in pieces of any size. Everything returned is authenticated, but only `finish` proves that it is all."""

    def __init__(self, data_key: bytes) -> None:
        self._cipher = AESGCM(data_key)
        self._header: Header | None = None
        self._binding = b""
        self._pending = bytearray()
        self._counter = 0

    def feed(self, piece: bytes) -> bytes:
        """Take bytes of the object, give the plaintext that they complete. Raises ProtocolViolation("BadObject" | "ObjectTampered")."""
        self._pending += piece
        if self._header is None and not self._take_header():
            return b""
        opened, done = [], 0
        with memoryview(self._pending) as view:
            while len(view) - done > CHUNK + TAG:
                opened.append(self._open(view[done : done + CHUNK + TAG], last=False))
                done += CHUNK + TAG
        del self._pending[:done]
        return opened[0] if len(opened) == 1 else b"".join(opened)

    def finish(self) -> bytes:
        """Open the last chunk. Raises ProtocolViolation when the object was cut off, altered or continued."""
        if self._header is None:
            raise ProtocolViolation("ObjectTampered", "the object ends within its header")
        return self._open(self._pending, last=True)

    def _take_header(self) -> bool:
        self._header = parse_header(bytes(self._pending[: len(MAGIC) + 4 + MAX_HEADER]))
        if self._header is None:
            return False
        self._binding = hashlib.sha256(self._header.raw).digest()
        del self._pending[: len(self._header.raw)]
        return True

    def _open(self, sealed: bytearray | memoryview, *, last: bool) -> bytes:
        assert self._header is not None
        try:
            chunk = self._cipher.decrypt(_nonce(self._header, self._counter), sealed, self._binding + (b"\1" if last else b"\0"))
        except (InvalidTag, ValueError) as error:
            raise ProtocolViolation("ObjectTampered", f"chunk {self._counter} is not what its owner sealed") from error
        self._counter += 1
        return chunk


def open_stream(sealed: Iterable[bytes], *, data_key: bytes) -> Iterator[bytes]:
    """Open an object given in pieces; the last piece is only yielded when the whole object proved good."""
    opener = Opener(data_key)
    for piece in sealed:
        if opened := opener.feed(piece):
            yield opened
    yield opener.finish()


def sealed_size(header: Header, plaintext_size: int) -> int:
    """The size in bytes of the object that holds `plaintext_size` bytes."""
    chunks = max(1, -(-plaintext_size // CHUNK))
    return len(header.raw) + plaintext_size + chunks * TAG


def _nonce(header: Header, counter: int) -> bytes:
    if counter >= _MAX_CHUNKS:
        raise InvalidInput("ObjectTooLarge", "an object holds at most 2^32 chunks of 1 MiB")
    return header.prefix + counter.to_bytes(4, "big")


def _header_of(body: Any, raw: bytes) -> Header:
    if not isinstance(body, dict) or set(body) != _HEADER_FIELDS or body["version"] != 1 or body["chunk"] != CHUNK:
        raise ProtocolViolation("BadObject", "a header of another version")
    if not isinstance(body["name"], str) or not 0 < len(body["name"]) <= MAX_NAME:
        raise ProtocolViolation("BadObject", "a header without a name")
    return Header(
        name=body["name"],
        prefix=from_hex(body["prefix"], PREFIX_BYTES),
        custodian=from_hex(body["custodian"], 32),
        sealed_key=from_hex(body["sealedKey"]),
        raw=raw,
    )
