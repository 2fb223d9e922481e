"""Why no circuit can be made, as codes that tell a person what to do next. None names a relay, an address or a place. Pure.

What is worth a code is what somebody does something else about: more relays, relays of more owners, relays that answer, relays with room,
a clock. Waiting may help with each, so none of them ends anything before its deadline, and none is answered with fewer hops.
"""

from collections.abc import Iterable

from veilpod.core.onion.directory import RelayEntry, fresh
from veilpod.core.onion.messages import DestroyReason
from veilpod.core.onion.paths import choose_path
from veilpod.errors import CircuitFailed, InvalidInput, Refused, VeilpodError

TOO_FEW, NOT_DIVERSE, CLOCK = "TooFewRelays", "NoDiversePath", "ClockSkew"  # Refused by `choose_path`
UNREACHABLE, FULL = "RelaysUnreachable", "RelaysFull"
TROUBLES = frozenset({TOO_FEW, NOT_DIVERSE, CLOCK, UNREACHABLE, FULL})
_FULL = tuple(f": {reason.name.lower()}" for reason in (DestroyReason.RESOURCE, DestroyReason.DRAINING))


def trouble_of(error: VeilpodError) -> str:
    """The code of a failed attempt at a circuit; "" when it is no trouble with relays."""
    if isinstance(error, Refused):
        return error.reason if error.reason in TROUBLES else ""
    if isinstance(error, CircuitFailed):
        return FULL if str(error).endswith(_FULL) else UNREACHABLE
    return ""


def find_trouble(directory: Iterable[RelayEntry], *, hops: int, in_cluster: bool, now: float) -> Refused | InvalidInput | None:
    """What the directory alone shows: that it offers no path. `now` is the chain's time, by which its heartbeats are dated."""
    try:
        choose_path([entry for entry in directory if fresh(entry, now)], hops=hops, now=now, chance=lambda: 0.5, in_cluster=in_cluster)
    except (Refused, InvalidInput) as refused:
        return refused
    return None
