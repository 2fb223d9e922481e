"""Relays that misbehave on purpose: what RelayCircuit does is changed for those that are listed, from the moment on when they are."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from veilpod.core.onion.geometry import HEADER
from veilpod.core.onion.messages import DestroyReason
from veilpod.core.onion.reports import Side
from veilpod.relay.circuit import RelayCircuit

DELAY = 30.0  # seconds; longer than anybody waits for a leg
Pass = Callable[[RelayCircuit, Callable[..., None], memoryview, tuple[Any, ...]], None]


def _drop(circuit: RelayCircuit, onward: Callable[..., None], cell: memoryview, before: tuple[Any, ...]) -> None:
    pass


def _tamper(circuit: RelayCircuit, onward: Callable[..., None], cell: memoryview, before: tuple[Any, ...]) -> None:
    # Forward its own layer does not open then, and it accuses the relay before it; backward the client sees which layer it was.
    altered = memoryview(bytearray(cell))
    altered[HEADER + 100] ^= 1
    onward(circuit, *before, altered)


def _replay(circuit: RelayCircuit, onward: Callable[..., None], cell: memoryview, before: tuple[Any, ...]) -> None:
    again = memoryview(bytearray(cell))
    onward(circuit, *before, cell)
    onward(circuit, *before, again)


def _delay(circuit: RelayCircuit, onward: Callable[..., None], cell: memoryview, before: tuple[Any, ...]) -> None:
    late = memoryview(bytearray(cell))
    asyncio.get_running_loop().call_later(DELAY, lambda: onward(circuit, *before, late))


def _truncate(circuit: RelayCircuit, onward: Callable[..., None], cell: memoryview, before: tuple[Any, ...]) -> None:
    circuit.destroy(DestroyReason.FINISHED, Side.NONE)


def _accuse(circuit: RelayCircuit, onward: Callable[..., None], cell: memoryview, before: tuple[Any, ...]) -> None:
    circuit.destroy(DestroyReason.LINK_LOST, Side.NEXT)


WAYS: dict[str, Pass] = {
    "drops": _drop,
    "tampers": _tamper,
    "replays": _replay,
    "delays": _delay,
    "truncates": _truncate,
    "accuses": _accuse,
}
NAMED = ("tampers", "replays", "truncates", "accuses")  # of these, an end learns a link that the relay is an end of


@contextlib.contextmanager
def evil() -> Iterator[dict[object, str]]:
    """Give a table of relays and the way in which each fails; empty at first."""
    table: dict[object, str] = {}
    forward, backward = RelayCircuit.on_layered, RelayCircuit.send_back

    def misbehave(self: RelayCircuit, onward: Callable[..., None], cell: memoryview, *before: Any) -> None:
        way = table.get(self._router)
        if way is None:
            onward(self, *before, cell)
        else:
            WAYS[way](self, onward, cell, before)

    def on_layered(self: RelayCircuit, header: Any, cell: memoryview) -> None:
        misbehave(self, forward, cell, header)

    def send_back(self: RelayCircuit, cell: memoryview) -> None:
        misbehave(self, backward, cell)

    with mock.patch.object(RelayCircuit, "on_layered", on_layered), mock.patch.object(RelayCircuit, "send_back", send_back):
        yield table
