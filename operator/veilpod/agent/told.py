"""A value that the operator tells once: repeating it is fine, changing it is refused, waiting for it is bounded by who waits."""

import asyncio
from typing import Generic, TypeVar

from veilpod.errors import Refused

T = TypeVar("T")


class Told(Generic[T]):
    """One value, unknown at first."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._value: T | None = None
        self._known = asyncio.Event()

    def tell(self, value: T) -> None:
        """Set it. Raises Refused("AlreadyTold") when it is known to be another."""
        if self._value is not None and self._value != value:
            raise Refused("AlreadyTold", f"{self._name} was told before, and otherwise")
        self._value = value
        self._known.set()

    def get(self) -> T:
        """The value. Raises Refused("TooEarly")."""
        if self._value is None:
            raise Refused("TooEarly", f"{self._name} is not known yet")
        return self._value

    @property
    def known(self) -> bool:
        """Whether it was told."""
        return self._value is not None

    async def wait(self) -> T:
        """Wait until it is told."""
        await self._known.wait()
        assert self._value is not None
        return self._value
