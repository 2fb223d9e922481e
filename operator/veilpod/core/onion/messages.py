"""Relay messages: what two ends of a circuit say to each other, and the payloads of link cells. Bytes in, values out.

Message: cmd u8 | flags u8 | stream_id u16 | length u32 | data | zero fill. Every parser is strict: a value that no honest party sends is
a ProtocolViolation. Nothing here encrypts. Paper step 5.
"""

import dataclasses
import enum
import struct

from veilpod.core.onion.geometry import COOKIE, LINK_PLAIN, MESSAGE_HEADER, CellClass
from veilpod.errors import ProtocolViolation

_MESSAGE = struct.Struct(">BBHI")
_CREATE = struct.Struct(">BBBBIH")
_LENGTH = struct.Struct(">H")
PROTOCOL_VERSION = 1
FIN = 1  # flag of DATA: the sender will send no more data on this stream
ECHO = 1  # flag of ACK: the sender wants one back


class RelayCommand(enum.IntEnum):
    """What a message means to the end that opens it."""

    BEGIN = 1
    CONNECTED = 2
    DATA = 3
    END = 4
    SENDME = 5
    XOFF = 6  # reserved: per-stream SENDME makes it unnecessary
    XON = 7  # reserved
    EXTEND = 8
    EXTENDED = 9
    TRUNCATED = 10  # reserved: a broken circuit is destroyed whole, with a report
    DROP = 11
    LINK = 12
    LINKED = 13  # reserved: a leg's first message is the answer
    SWITCH = 14  # reserved: legs change without being told
    ACK = 15
    ESTABLISH = 16
    ESTABLISHED = 17
    JOIN = 18
    MEET = 19
    MET = 20
    FORWARD = 21


_ACKNOWLEDGING = (RelayCommand.SENDME, RelayCommand.ACK)


class EndReason(enum.IntEnum):
    """Why a stream ended."""

    DONE = 0
    POLICY = 1
    UNREACHABLE = 2
    TIMEOUT = 3
    RESET = 4
    RESOURCE = 5
    PROTOCOL = 6


class DestroyReason(enum.IntEnum):
    """Why a circuit ended."""

    FINISHED = 0
    PROTOCOL = 1
    TAMPERED = 2
    LINK_LOST = 3
    EXTEND_REFUSED = 4
    TIMEOUT = 5
    RESOURCE = 6
    REPLAYED = 7
    UNKNOWN_KEY = 8
    NO_SUCH_COOKIE = 9
    PEER_CLOSED = 10
    DRAINING = 11


class Handshake(enum.IntEnum):
    """How a CREATE agrees on keys. A relay refuses what it does not know; nobody falls back."""

    NTOR_MLKEM768 = 2  # 1 was ntor without ML-KEM


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A relay message. `data` is a view into the cell: who keeps it copies it."""

    command: RelayCommand
    flags: int
    stream_id: int
    data: memoryview


def kind_for(command: RelayCommand, circuit: CellClass) -> CellClass:
    """Return the size of the cell that a message travels in. What acknowledges says only what its other direction shows, in little room."""
    return CellClass.SMALL if command in _ACKNOWLEDGING else circuit


def check_kind(command: RelayCommand, kind: CellClass, circuit: CellClass) -> None:
    """Refuse a message in a smaller cell than its circuit's, unless it acknowledges (or wraps what does). Raises ProtocolViolation."""
    if kind is not circuit and command not in _ACKNOWLEDGING and command is not RelayCommand.FORWARD:
        raise ProtocolViolation("BadMessage", f"{command.name} in a cell that is too small for it")


def put_message(area: memoryview, command: RelayCommand, data: bytes | memoryview, *, flags: int = 0, stream_id: int = 0) -> None:
    """Write a message into its whole area; what is behind the data becomes zero, so that no stale byte is ever sealed."""
    end = MESSAGE_HEADER + len(data)
    _MESSAGE.pack_into(area, 0, command, flags, stream_id, len(data))
    area[MESSAGE_HEADER:end] = data
    area[end:] = bytes(len(area) - end)


def parse_message(area: memoryview) -> Message:
    """Read a message from its area. Raises ProtocolViolation("BadMessage")."""
    command, flags, stream_id, length = _MESSAGE.unpack_from(area)
    try:
        known = RelayCommand(command)
    except ValueError as error:
        raise ProtocolViolation("BadMessage", f"unknown relay command {command}") from error
    if length > len(area) - MESSAGE_HEADER:
        raise ProtocolViolation("BadMessage", "a message longer than its cell")
    return Message(command=known, flags=flags, stream_id=stream_id, data=area[MESSAGE_HEADER : MESSAGE_HEADER + length])


def put_forward_header(area: memoryview, length: int) -> None:
    """Make an area a FORWARD message around sealed bytes that already lie behind its header."""
    _MESSAGE.pack_into(area, 0, RelayCommand.FORWARD, 0, 0, length)
    area[MESSAGE_HEADER + length :] = bytes(len(area) - MESSAGE_HEADER - length)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Create:
    """The payload of CREATE and the tail of EXTEND. `onward` is a sealed EXTEND: where the circuit goes on at once."""

    cell_class: CellClass
    position: int
    key_epoch: int
    onionskin: bytes
    onward: bytes = b""
    handshake: Handshake = Handshake.NTOR_MLKEM768

    @property
    def context(self) -> bytes:
        """The eight bytes that both sides put into the handshake's transcript."""
        return _CREATE.pack(PROTOCOL_VERSION, self.handshake, self.cell_class, self.position, self.key_epoch, 0)[:8]

    def pack(self) -> bytes:
        """Spell it."""
        head = (PROTOCOL_VERSION, self.handshake, self.cell_class, self.position, self.key_epoch, len(self.onionskin))
        return _CREATE.pack(*head) + self.onionskin + _with_length(self.onward)


def parse_create(payload: bytes) -> Create:
    """Read a CREATE payload (zero fill may follow). Raises ProtocolViolation("BadCreate")."""
    try:
        version, handshake, cell_class, position, key_epoch, length = _CREATE.unpack_from(payload)
        onionskin = payload[_CREATE.size : _CREATE.size + length]
        onward = _after_length(payload[_CREATE.size + length :])
        if version != PROTOCOL_VERSION or len(onionskin) != length:
            raise ValueError("version or length")
        return Create(
            cell_class=CellClass(cell_class),
            position=position,
            key_epoch=key_epoch,
            handshake=Handshake(handshake),
            onionskin=onionskin,
            onward=onward,
        )
    except (ValueError, struct.error) as error:
        raise ProtocolViolation("BadCreate", "a CREATE that this version does not know") from error


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Extend:
    """The data of EXTEND: the next relay by node id and identity, and the CREATE to pass on.

    Never an address: a relay dials only what its directory lists.
    """

    node_id: int
    identity_key: bytes
    create: bytes

    def pack(self) -> bytes:
        """Spell it."""
        return self.node_id.to_bytes(4, "big") + self.identity_key + self.create


def parse_extend(data: bytes) -> Extend:
    """Read the data of EXTEND. Raises ProtocolViolation("BadExtend")."""
    if not 36 < len(data) <= 36 + LINK_PLAIN:
        raise ProtocolViolation("BadExtend", "an EXTEND of a size that no honest client sends")
    return Extend(node_id=int.from_bytes(data[:4], "big"), identity_key=data[4:36], create=data[36:])


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    """The payload of CREATED, EXTENDED and MET: the handshake's answer and, sealed, what the next hop answered to the same CREATE."""

    reply: bytes
    onward: bytes = b""

    def pack(self) -> bytes:
        """Spell it."""
        return _with_length(self.reply) + _with_length(self.onward)


def parse_created(payload: bytes) -> Created:
    """Read the payload of CREATED, EXTENDED or MET (zero fill may follow). Raises ProtocolViolation("BadReply")."""
    try:
        reply = _after_length(payload)
        onward = _after_length(payload[_LENGTH.size + len(reply) :])
    except (ValueError, struct.error) as error:
        raise ProtocolViolation("BadReply", "a handshake answer that is shorter than it says") from error
    return Created(reply=reply, onward=onward)


def _with_length(data: bytes) -> bytes:
    return _LENGTH.pack(len(data)) + data


def _after_length(data: bytes) -> bytes:
    (length,) = _LENGTH.unpack_from(data)
    if len(data) < _LENGTH.size + length:
        raise ValueError("length")
    return data[_LENGTH.size : _LENGTH.size + length]


def pack_join(cookie: bytes, onionskin: bytes) -> bytes:
    """Spell the data of JOIN; MEET carries the onionskin alone."""
    return cookie + onionskin


def parse_join(data: bytes) -> tuple[bytes, bytes]:
    """Read the data of JOIN as (cookie, onionskin). Raises ProtocolViolation("BadJoin")."""
    if len(data) <= COOKIE:
        raise ProtocolViolation("BadJoin", "a JOIN without a handshake")
    return data[:COOKIE], data[COOKIE:]


def pack_credit(cells: int) -> bytes:
    """Spell the data of SENDME: how many DATA messages more."""
    return _LENGTH.pack(cells)


def parse_credit(data: memoryview) -> int:
    """Read the data of SENDME. Raises ProtocolViolation("BadCredit")."""
    if len(data) != _LENGTH.size:
        raise ProtocolViolation("BadCredit", "a SENDME of a wrong size")
    return int.from_bytes(data, "big")
