"""Cells: the header in front of every body, and the mask that hides it on the wire.

Header, 16 bytes: circ_id u32 | command u8 | version and class u8 | ten zero bytes. It is XORed with AES-ECB(header key, first 16 bytes of
the body), as in QUIC (RFC 9001, 5.4): the body starts with AEAD output, so the mask never repeats, and an observer of a link sees random
bytes only. The mask hides, it does not authenticate: the command and class are in every layer's AAD, and the ten zero bytes catch a
stream that lost its place. Paper step 5.
"""

import dataclasses
import enum
import struct

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from veilpod.core.onion.geometry import HEADER, SAMPLE, CellClass
from veilpod.errors import ProtocolViolation

CELL_VERSION = 1
_HEADER = struct.Struct(">IBB10x")
_ZERO_TAIL = bytes(10)


class Command(enum.IntEnum):
    """What a cell is to the link."""

    PADDING = 0
    CREATE = 1
    CREATED = 2
    RELAY = 3
    RELAY_EARLY = 4
    DESTROY = 5
    NETINFO = 6  # reserved


LAYERED = frozenset({Command.RELAY, Command.RELAY_EARLY})  # bodies under the hops' layers; all others are sealed by the link itself


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """A cell's header, unmasked."""

    circ_id: int
    command: Command
    cell_class: CellClass


def put_header(cell: memoryview | bytearray, header: Header) -> None:
    """Write the plain header into the first 16 bytes of a cell."""
    _HEADER.pack_into(cell, 0, header.circ_id, header.command, CELL_VERSION << 4 | header.cell_class)


def parse_header(head: memoryview | bytes | bytearray) -> Header:
    """Read 16 plain bytes. Raises ProtocolViolation("BadHeader"): the peer lost its place or does not know the keys."""
    circ_id, command, kind = _HEADER.unpack_from(head)
    try:
        if kind >> 4 != CELL_VERSION or head[6:HEADER] != _ZERO_TAIL:
            raise ValueError("version or zeros")
        parsed = Header(circ_id=circ_id, command=Command(command), cell_class=CellClass(kind & 15))
    except ValueError as error:
        raise ProtocolViolation("BadHeader", "a cell header that no honest peer sends") from error
    if parsed.command not in LAYERED and parsed.cell_class is not CellClass.SMALL:
        raise ProtocolViolation("BadHeader", "a link cell that is not small")
    return parsed


class HeaderMask:
    """One direction's header protection. Masking and unmasking are the same operation, in place."""

    def __init__(self, key: bytes) -> None:
        # A single block of ECB is the pseudorandom permutation that RFC 9001 asks for; nothing is encrypted with it.
        self._aes = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # noqa: S305

    def apply(self, cell: memoryview) -> None:
        """XOR the header with the mask of this cell's sample (needs header and sample, 32 bytes)."""
        mask = int.from_bytes(self._aes.update(cell[HEADER : HEADER + SAMPLE]), "big")
        cell[:HEADER] = (mask ^ int.from_bytes(cell[:HEADER], "big")).to_bytes(HEADER, "big")
