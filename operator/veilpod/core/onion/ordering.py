"""A session's messages above its legs: kept until the other end has them, given to the streams once and in order. Pure.

What is under way on which leg is noted with the message; a leg that is lost gives its messages back. Paper step 7.
"""

import collections
import dataclasses
from collections.abc import Iterator

from veilpod.core.onion.messages import Message, RelayCommand
from veilpod.errors import CircuitFailed, ProtocolViolation

_UNCONFIRMED = 4096  # messages that the other end may leave unconfirmed: credit bounds data, this bounds the rest


@dataclasses.dataclass(slots=True)
class Sent:
    """A message that the other end may not have. `leg` is whatever carries it, None while it waits for one."""

    number: int
    command: RelayCommand
    flags: int
    stream_id: int
    data: bytes | memoryview
    leg: object | None = None


class Outbox:
    """Messages from us."""

    def __init__(self) -> None:
        self._newest = 0
        self._unconfirmed: collections.deque[Sent] = collections.deque()
        self._waiting: collections.deque[Sent] = collections.deque()

    def put(self, command: RelayCommand, data: bytes | memoryview, *, flags: int, stream_id: int) -> Sent:
        """Number a message. Raises CircuitFailed when the other end confirms nothing."""
        if len(self._unconfirmed) >= _UNCONFIRMED:
            raise CircuitFailed("the other end confirms nothing")
        self._newest += 1
        sent = Sent(self._newest, command, flags, stream_id, _lasting(data))
        self._unconfirmed.append(sent)
        return sent

    def wait(self, sent: Sent) -> None:
        """There is no leg for it now."""
        self._waiting.append(sent)

    def confirm(self, newest: int) -> None:
        """The other end has everything up to this number. Raises ProtocolViolation when that was never sent."""
        if newest > self._newest:
            raise ProtocolViolation("BadMessage", "a message has arrived that was never sent", party="peer")
        while self._unconfirmed and self._unconfirmed[0].number <= newest:
            self._unconfirmed.popleft().leg = None

    def take_back(self, leg: object) -> int:
        """What was under way on a leg waits for another one. Returns how many."""
        lost = [sent for sent in self._unconfirmed if sent.leg is leg]
        for sent in lost:
            sent.leg = None
        self._waiting.extend(lost)
        return len(lost)

    @property
    def waits(self) -> bool:
        """Whether a message waits that the other end may not have."""
        first = self._unconfirmed[0].number if self._unconfirmed else self._newest + 1
        while self._waiting and self._waiting[0].number < first:
            self._waiting.popleft()
        return bool(self._waiting)

    def next(self) -> Sent:
        """The message that has waited longest, if `waits`."""
        return self._waiting.popleft()


class Inbox:
    """Messages to us. `limit` bounds those that may be ahead of a missing one."""

    def __init__(self, limit: int) -> None:
        self.newest = 0  # every number up to this one was given out
        self._limit = limit
        self._ahead: dict[int, Message] = {}

    def take(self, number: int, message: Message) -> Iterator[Message]:
        """Give out what is in order now; nothing, if it came before. Raises ProtocolViolation("WindowExceeded")."""
        if number <= self.newest or number in self._ahead:
            return
        if number > self.newest + 1:
            if len(self._ahead) >= self._limit:
                raise ProtocolViolation("WindowExceeded", "messages beyond what credit was given for", party="peer")
            self._ahead[number] = dataclasses.replace(message, data=memoryview(bytes(message.data)))
            return
        following: Message | None = message
        while following is not None:
            self.newest += 1
            yield following
            following = self._ahead.pop(self.newest + 1, None)


def _lasting(data: bytes | memoryview) -> bytes | memoryview:
    """Data that nobody changes while it may have to be sent again. A view of immutable bytes is kept as it is."""
    return data if isinstance(data, bytes) or isinstance(data.obj, bytes) else bytes(data)
