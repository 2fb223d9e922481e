"""Frames on a byte stream: u32 length (big endian) and that many bytes, mostly canonical JSON (docs/protocol/task.md).

Used by the control stream, sealed requests, deliveries and peers. A frame's size is checked before a byte of its body is read.
"""

import struct
from typing import Any, Protocol

from veilpod.core.canonical import canonical, parse_canonical
from veilpod.errors import ProtocolViolation

LENGTH = struct.Struct(">I")


class ExactReader(Protocol):
    """What frames are read from: asyncio.StreamReader and ports.Stream both are one."""

    async def readexactly(self, size: int, /) -> bytes: ...


def frame(body: bytes, *, limit: int) -> bytes:
    """Put the length before a body. Raises ProtocolViolation("FrameTooLarge"): better here than at the peer."""
    if len(body) > limit:
        raise ProtocolViolation("FrameTooLarge", f"a frame of {len(body)} bytes where {limit} are allowed")
    return LENGTH.pack(len(body)) + body


def json_frame(value: Any, *, limit: int) -> bytes:
    """Frame a value as canonical JSON."""
    return frame(canonical(value), limit=limit)


async def read_frame(reader: ExactReader, *, limit: int, party: str = "") -> bytes:
    """Read one body. Raises ProtocolViolation("FrameTooLarge"), and whatever the reader raises when the stream ends."""
    (size,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
    if size > limit:
        raise ProtocolViolation("FrameTooLarge", f"a frame of {size} bytes where {limit} are allowed", party=party)
    return await reader.readexactly(size)


async def read_json_frame(reader: ExactReader, *, limit: int, party: str = "") -> dict[str, Any]:
    """Read one canonical JSON object. Raises ProtocolViolation for any other spelling or shape."""
    value = parse_canonical(await read_frame(reader, limit=limit, party=party))
    if not isinstance(value, dict):
        raise ProtocolViolation("NotAnObject", "a message is a JSON object", party=party)
    return value
