"""What the channel machine wants done, as data for an imperative shell, in the order in which it must be done."""

import dataclasses
import enum
from typing import Any

from veilpod.core.channel.records import Record, Signed


class Party(enum.Enum):
    """Which account of the channel is ours."""

    A = "a"
    B = "b"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Persist:
    """Append to the journal, and do nothing of what follows before it is on the disk."""

    record: Record


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """Give the peer's operator a message. It may get lost."""

    payload: dict[str, Any]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Covered:
    """Both have signed for so many bytes since the start of the link: each agent's credit is what its peer has received."""

    received_by_a: int
    received_by_b: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """Both have signed the final state, and for closing with it."""

    signed: Signed


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Violated:
    """The peer did what no honest peer does, or says so of us. `fatal`: no further state will be agreed on; the newest one stands."""

    code: str
    fatal: bool


Effect = Persist | Send | Covered | Finished | Violated
Effects = tuple[Effect, ...]
