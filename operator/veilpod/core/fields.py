"""Reading untrusted JSON objects field by field: exact types, exact sizes, no field missing and none too many.

A document that is signed must have one meaning, so a reader that forgives is a defect. Every refusal is a ProtocolViolation that names
the field.
"""

from collections.abc import Mapping
from typing import Any

from veilpod.core.canonical import from_hex
from veilpod.core.ids import Address
from veilpod.core.keys import checksum_address
from veilpod.errors import ProtocolViolation

_MAX_SAFE = (1 << 63) - 1


class Fields:
    """One object being read. `done` refuses what was not asked for."""

    def __init__(self, value: Any, *, what: str, party: str = "") -> None:
        self._what, self._party = what, party
        if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
            raise self.violation("is not an object")
        self._value: dict[str, Any] = dict(value)

    def violation(self, problem: str) -> ProtocolViolation:
        """The refusal of this document."""
        return ProtocolViolation("BadMessage", f"{self._what} {problem}", party=self._party)

    def names(self) -> list[str]:
        """The fields that nobody has read yet: for objects whose keys are data."""
        return list(self._value)

    def take(self, name: str) -> Any:
        """Any JSON value."""
        if name not in self._value:
            raise self.violation(f"has no {name}")
        return self._value.pop(name)

    def integer(self, name: str, *, minimum: int = 0, maximum: int = _MAX_SAFE) -> int:
        value = self.take(name)
        if not isinstance(value, int) or isinstance(value, bool) or not minimum <= value <= maximum:
            raise self.violation(f"has a bad {name}")
        return value

    def text(self, name: str, *, maximum: int = 253, minimum: int = 1) -> str:
        value = self.take(name)
        if not isinstance(value, str) or not minimum <= len(value) <= maximum:
            raise self.violation(f"has a bad {name}")
        return value

    def choice(self, name: str, allowed: frozenset[str]) -> str:
        value = self.take(name)
        if not isinstance(value, str) or value not in allowed:
            raise self.violation(f"has a bad {name}")
        return value

    def flag(self, name: str) -> bool:
        value = self.take(name)
        if not isinstance(value, bool):
            raise self.violation(f"has a bad {name}")
        return value

    def data(self, name: str, size: int | None = None, *, maximum: int = 1 << 22) -> bytes:
        """Bytes in lower-case 0x hex: an exact size, or any up to `maximum`."""
        text = self.take(name)
        raw = from_hex(text, size)
        # bytes.fromhex forgives capitals and white space; one value has one spelling.
        if len(raw) > maximum or text != "0x" + raw.hex():
            raise self.violation(f"has a bad {name}")
        return raw

    def address(self, name: str) -> Address:
        """20 bytes in lower-case hex, given back as an EIP-55 address."""
        return checksum_address(self.data(name, 20))

    def fields(self, name: str) -> "Fields":
        """An object within."""
        return Fields(self.take(name), what=f"{self._what}.{name}", party=self._party)

    def items(self, name: str, *, maximum: int) -> list[Any]:
        value = self.take(name)
        if not isinstance(value, list) or len(value) > maximum:
            raise self.violation(f"has a bad {name}")
        return value

    def done(self) -> None:
        """Refuse fields that nobody read."""
        if self._value:
            raise self.violation(f"has an unknown field {min(self._value)[:40]!r}")


def address_bytes(address: Address) -> bytes:
    """The 20 bytes of an address."""
    return bytes.fromhex(address[2:])
