"""What our key has sent, on disk: transactions that are not settled yet, and the history of those that are.

A signed transaction is here before it leaves, so a crash can neither forget it nor pay twice. One file per nonce (rewritten by
rename when the fee is raised), one line per settled transaction in `history.jsonl`. A lock on the directory keeps a second sender
with the same key out: two would race for nonces. Talks to no node.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

from veilpod.chain.files import DirectoryLock, private_directory, sync_directory, write_atomically
from veilpod.core.ids import Address
from veilpod.errors import InvalidInput


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One signed form of a transaction; forms of one nonce differ in the fee only. Fees in wei per gas."""

    hash: str
    raw: str
    max_fee: int
    priority_fee: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """A transaction that left, or was about to. `intent` says what for, uniquely among those that are not settled."""

    nonce: int
    intent: str
    purpose: str
    to: str
    value: int
    data: str
    gas: int
    attempts: tuple[Attempt, ...]

    def same_call(self, to: str, value: int, data: str) -> bool:
        """Whether it does exactly this."""
        return (self.to.lower(), self.value, self.data) == (to.lower(), value, data)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """A line of the history: a transaction with a receipt at depth. Fees in wei."""

    hash: str
    nonce: int
    sender: str
    purpose: str
    intent: str
    block: int
    succeeded: bool
    gas_used: int
    fee: int
    value: int


class Outbox:
    """The directory of one key."""

    def __init__(self, directory: pathlib.Path, lock: DirectoryLock, pending: dict[int, Pending], history: list[Settled]) -> None:
        self._directory = directory
        self._lock = lock
        self._pending = pending
        self._history = history

    @classmethod
    def open(cls, state_dir: pathlib.Path, sender: Address) -> "Outbox":
        """Lock and load. Raises Refused("SenderActive") when another sender holds the directory, InvalidInput("StateUnreadable")."""
        directory = private_directory(state_dir / f"sender-{sender.lower()}")
        private_directory(directory / "pending")
        lock = DirectoryLock(directory, reason="SenderActive")
        try:
            pending = [_load(file) for file in sorted((directory / "pending").glob("*.json"))]
            history = _load_history(directory / "history.jsonl")
        except BaseException:
            lock.release()
            raise
        return cls(directory, lock, {entry.nonce: entry for entry in pending}, history)

    @property
    def pending(self) -> Sequence[Pending]:
        """What is not settled, lowest nonce first."""
        return [self._pending[nonce] for nonce in sorted(self._pending)]

    @property
    def history(self) -> Sequence[Settled]:
        """Every settled transaction of this key and state directory, oldest first."""
        return tuple(self._history)

    def put(self, entry: Pending) -> None:
        """Write or rewrite an entry. It is on the disk when this returns."""
        write_atomically(self._file(entry.nonce), json.dumps(dataclasses.asdict(entry)).encode())
        self._pending[entry.nonce] = entry

    def drop(self, nonce: int) -> None:
        """Forget an entry that the node refused, or whose nonce another transaction used."""
        self._file(nonce).unlink(missing_ok=True)
        sync_directory(self._directory / "pending")
        self._pending.pop(nonce, None)

    def settle(self, settled: Settled) -> None:
        """Write the history's line first: a crash in between settles once more, and the line is recognised."""
        if not any(line.hash == settled.hash for line in self._history[-64:]):
            with open(self._directory / "history.jsonl", "ab") as file:
                file.write(json.dumps(dataclasses.asdict(settled)).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            self._history.append(settled)
        self.drop(settled.nonce)

    def close(self) -> None:
        """Give the lock back."""
        self._lock.release()

    def _file(self, nonce: int) -> pathlib.Path:
        return self._directory / "pending" / f"{nonce:012d}.json"


def _load(file: pathlib.Path) -> Pending:
    try:
        document: dict[str, Any] = json.loads(file.read_bytes())
        attempts = tuple(Attempt(**attempt) for attempt in document.pop("attempts"))
        return Pending(**document, attempts=attempts)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidInput("StateUnreadable", f"the pending transaction {file.name} cannot be read") from error


def _load_history(file: pathlib.Path) -> list[Settled]:
    if not file.exists():
        return []
    data = file.read_bytes()
    if not data.endswith(b"\n"):  # a crash tore the last line; its transaction is still pending and writes it again
        data = data[: data.rfind(b"\n") + 1]
        write_atomically(file, data)
    try:
        return list(_lines(data))
    except (ValueError, TypeError) as error:
        raise InvalidInput("StateUnreadable", "history.jsonl in the state directory cannot be read") from error


def _lines(data: bytes) -> Iterable[Settled]:
    for line in data.splitlines():
        yield Settled(**json.loads(line))
