"""Sizes of the onion network as values: two cell classes, the area each hop opens, what one message can carry.

Nothing here parses or encrypts. All of docs/protocol/onion.md, "Cells", follows from these few numbers. Paper step 5 (location
obfuscation).

A body of B bytes is opened by the hop at position k (1 is the guard) as B - 16(k-1) bytes of ciphertext and tag, which leaves B - 16k
bytes of plaintext: either the next hop's ciphertext or, at the last hop, a relay message. The rest of the body is fresh random fill.
"""

import dataclasses
import enum

HEADER = 16
TAG = 16
SAMPLE = 16  # first bytes of the body, from which the header's mask is made
MAX_HOPS = 8
MESSAGE_HEADER = 8
SESSION_HEADER = 12  # of an end-to-end message, before its relay message
COOKIE = 20
LABEL_MAX = 255


class CellClass(enum.IntEnum):
    """Two sizes of cells. A circuit's class, constant for its life, is that of its messages; its SENDMEs, and all link cells, are SMALL."""

    SMALL = 1
    BULK = 2


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """Everything that follows from the size of a cell."""

    kind: CellClass
    cell: int

    @property
    def body(self) -> int:
        """Bytes behind the header."""
        return self.cell - HEADER

    def sealed(self, position: int) -> int:
        """Bytes of ciphertext and tag that the hop at this position (from 1) opens or has sealed."""
        return self.body - TAG * (position - 1)

    def plain(self, position: int) -> int:
        """Bytes of plaintext under the layer of the hop at this position."""
        return self.body - TAG * position

    @property
    def data_max(self) -> int:
        """Bytes of data in one relay message, the same at every position so that a splice never has to cut."""
        return self.body - TAG * MAX_HOPS - MESSAGE_HEADER

    @property
    def inner_plain(self) -> int:
        """Bytes of an end-to-end message (headers, data, zeros) that is sealed into the data of one FORWARD message."""
        return self.data_max - TAG

    @property
    def inner_data_max(self) -> int:
        """Bytes of data in one end-to-end message."""
        return self.inner_plain - SESSION_HEADER - MESSAGE_HEADER


GEOMETRY = {geometry.kind: geometry for geometry in (Geometry(kind=CellClass.SMALL, cell=4096), Geometry(kind=CellClass.BULK, cell=65536))}
LARGEST_CELL = max(geometry.cell for geometry in GEOMETRY.values())
LINK_PLAIN = GEOMETRY[CellClass.SMALL].body - TAG  # bytes of a link cell's payload, zero-filled, under the link's own seal


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """End-to-end credit, counted in DATA messages: how many may be under way, and after how many the receiver sends a SENDME."""

    circuit: int
    circuit_step: int
    stream: int
    stream_step: int


WINDOW = {
    CellClass.SMALL: Window(circuit=512, circuit_step=32, stream=256, stream_step=32),
    CellClass.BULK: Window(circuit=64, circuit_step=2, stream=32, stream_step=8),
}


def geometry_of(cell: memoryview) -> Geometry:
    """Return the geometry of a whole cell."""
    return GEOMETRY[CellClass.SMALL if len(cell) == GEOMETRY[CellClass.SMALL].cell else CellClass.BULK]
