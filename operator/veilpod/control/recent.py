"""Answers that are good for a moment: a burst of looks at many objects asks a slow-changing question once.

Nothing that a signature or a payment rests on is read through this.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Recent(Generic[T]):
    """Remembers an answer for so many seconds. Failures are not remembered; those who ask at once share one question."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._known: dict[object, tuple[float, T]] = {}
        self._turns: dict[object, asyncio.Lock] = {}

    async def renew(self, question: object, ask: Callable[[], Awaitable[T]]) -> T:
        """The answer of now, remembered for who asks next."""
        async with self._turns.setdefault(question, asyncio.Lock()):
            answer = await ask()
            self._known[question] = (asyncio.get_running_loop().time(), answer)
            return answer

    async def get(self, question: object, ask: Callable[[], Awaitable[T]]) -> T:
        """The answer, at most `seconds` old."""
        async with self._turns.setdefault(question, asyncio.Lock()):
            now = asyncio.get_running_loop().time()
            known = self._known.get(question)
            if known is None or now - known[0] > self._seconds:
                known = (now, await ask())
                self._known[question] = known
            return known[1]
