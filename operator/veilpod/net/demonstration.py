"""The one hook for demonstrations: images built for them carry a package `veilpod_demo` that may learn a circuit's path.

Production images do not have the package, and nothing in the environment, the arguments or the configuration can switch this on.
"""

from collections.abc import Callable
from typing import Any

from veilpod.net.circuit import CircuitSummary, Trace

try:
    import veilpod_demo  # type: ignore[import-not-found]
except ImportError:
    veilpod_demo = None


def trace(tell: Callable[[dict[str, Any]], None]) -> Trace | None:
    """Return what an onion proxy may call with its circuits' summaries; None in production."""
    if veilpod_demo is None:
        return None

    def told(summary: CircuitSummary) -> None:
        data: dict[str, Any] = {"number": summary.number, "purpose": summary.purpose, "state": summary.state}
        tell(data | {"relays": [int(relay) for relay in summary.relays], "sent": summary.bytes_sent, "received": summary.bytes_received})

    return told


def show(data: dict[str, Any]) -> None:
    """Hand one circuit's summary to the demonstration; do nothing in production."""
    if veilpod_demo is not None:
        veilpod_demo.show(data)
