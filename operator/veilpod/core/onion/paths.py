"""Path selection: which relays a circuit goes through. Pure; chance is an argument.

Every hop belongs to another owner, unless the task says `relays: InCluster`; hops in different /16 networks are preferred, not demanded,
since the services of one cluster share one. A path is never shortened and never bends a rule silently: if the directory does not offer
it, that is a coded refusal. Within these rules relays are drawn by weight (`reputation`), without replacement, and of a few paths drawn
so the likely quickest is taken. Paper step 5.

What taking the best of CANDIDATES costs in anonymity: a path is taken only if it was drawn, so no path and no relay becomes more than
CANDIDATES times as likely as by its weight; at most log2(8) = 3 bits of min-entropy go, whatever is predicted. Predictions come from this
proxy's own measurements alone: a relay cannot claim to be quick, only be quick, and there is nothing a stranger could plant in one
proxy's view to recognise it by. What stays is that a proxy prefers relays that are near it, so its paths say a little of where it is.
"""

import functools
import ipaddress
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from veilpod.core.ids import NodeId
from veilpod.core.onion.directory import RelayEntry, fresh
from veilpod.core.onion.geometry import MAX_HOPS
from veilpod.errors import CircuitFailed, InvalidInput, Refused

MIN_HOPS = 3
CANDIDATES = 8
_SEARCH = 2000  # steps before the wish for different networks is given up

Chance = Callable[[], float]  # uniform in [0, 1)
Weigh = Callable[[Sequence[RelayEntry]], Sequence[float]]  # a positive number for each
Predict = Callable[[Collection[NodeId]], float]  # seconds
Path = tuple[RelayEntry, ...]


def choose_path(
    directory: Iterable[RelayEntry],
    *,
    hops: int,
    now: float,
    chance: Chance,
    weigh: Weigh | None = None,
    predict: Predict | None = None,
    in_cluster: bool = False,
    last: NodeId | None = None,
    guards: Collection[NodeId] = (),
    blame: Mapping[NodeId, int] | None = None,
    not_last: Collection[NodeId] = (),
    avoid: Collection[NodeId] = (),
) -> Path:
    """Choose a path, guard first.

    Without `weigh` every relay weighs the same, without `predict` the first path drawn is taken. `last` fixes the last hop (a rendezvous).
    `guards` are preferred first hops; `blame` counts failures in this very attempt, and the least blamed are taken as long as there is a
    path of them; `not_last` are no last hops (they do not exit), `avoid` no hops at all. Raises InvalidInput("BadHops"),
    Refused("TooFewRelays", "NoDiversePath" or "ClockSkew"), CircuitFailed when `last` is not usable.
    """
    least = 1 if in_cluster else MIN_HOPS
    if not least <= hops <= MAX_HOPS:
        raise InvalidInput("BadHops", f"a circuit has {least} to {MAX_HOPS} hops, not {hops}")
    listed = [entry for entry in directory if entry.node_id not in avoid]
    usable = [entry for entry in listed if fresh(entry, now)]
    if not usable and len(listed) >= hops:
        # Relays do not all stop in one moment and stay listed: the heartbeats or the clock are wrong.
        raise Refused("ClockSkew", "every relay's heartbeat seems to be of an hour ago: set this machine's clock, or renew the directory")
    end = next((entry for entry in usable if entry.node_id == last), None)
    if last is not None and end is None:
        raise CircuitFailed("the meeting relay is not in the directory, or its heartbeat is old")
    if len(usable) < hops:
        raise Refused("TooFewRelays", f"{len(usable)} usable relays where a circuit needs {hops}: add some or wait for their heartbeats")

    weights = [1.0] * len(usable) if weigh is None else weigh(usable)
    faults = {entry.node_id: 0 if entry is end or blame is None else blame.get(entry.node_id, 0) for entry in usable}

    def draw() -> Path | None:
        ordered = weighted_order(usable, weights, chance)
        return _least_blamed(ordered, hops, faults, end=end, guards=guards, in_cluster=in_cluster, not_last=not_last)

    path = draw()
    if path is None:
        owners = len({entry.owner for entry in usable})
        raise Refused("NoDiversePath", f"the usable relays belong to {owners} owners where a circuit needs {hops} different ones")
    if predict is None:
        return path
    others = [other for other in (draw() for _ in range(CANDIDATES - 1)) if other is not None]
    return min((path, *others), key=lambda path: predict([entry.node_id for entry in path]))


def weighted_order(entries: Sequence[RelayEntry], weights: Sequence[float], chance: Chance) -> list[RelayEntry]:
    """All entries as if drawn one after the other, each time by weight among those left.

    Efraimidis and Spirakis, Weighted random sampling with a reservoir, 2006: in falling order of u^(1/w); of log(u) / w, so that small
    weights do not all come to zero.
    """
    keys = [math.log(1.0 - chance()) / weight for weight in weights]
    return [entries[index] for index in sorted(range(len(entries)), key=keys.__getitem__, reverse=True)]


def _least_blamed(
    usable: Sequence[RelayEntry],
    hops: int,
    faults: Mapping[NodeId, int],
    *,
    end: RelayEntry | None,
    guards: Collection[NodeId],
    in_cluster: bool,
    not_last: Collection[NodeId],
) -> Path | None:
    for bound in sorted(set(faults.values())):
        candidates = [entry for entry in usable if faults[entry.node_id] <= bound]
        ends = [entry for entry in candidates if entry.node_id not in not_last] if end is None and not_last else [end]
        for last_hop in ends:
            path = _search(candidates, hops, end=last_hop, guards=guards, in_cluster=in_cluster)
            if path is not None:
                return path
    return None


def _search(
    candidates: Sequence[RelayEntry], hops: int, *, end: RelayEntry | None, guards: Collection[NodeId], in_cluster: bool
) -> Path | None:
    preferred = [entry for entry in candidates if entry.node_id in guards and entry is not end]
    for first in (*preferred, None):
        fixed = [entry for entry in (first, end) if entry is not None]
        if len(fixed) > hops or (len(fixed) == 2 and not in_cluster and fixed[0].owner == fixed[1].owner):
            continue
        for networks in (True, False):
            middle = _fill(candidates, fixed, hops - len(fixed), networks=networks, in_cluster=in_cluster)
            if middle is not None:
                return tuple([first] if first is not None else []) + middle + tuple([end] if end is not None else [])
    return None


def _fill(candidates: Sequence[RelayEntry], fixed: Sequence[RelayEntry], count: int, *, networks: bool, in_cluster: bool) -> Path | None:
    """Find `count` relays that get along with each other and with the fixed ones: depth first, bounded."""
    steps = _SEARCH + len(candidates)
    if networks and len({network(entry) for entry in fixed}) < len(fixed):
        return None

    def agree(a: RelayEntry, b: RelayEntry) -> bool:
        if a.node_id == b.node_id or (not in_cluster and (a.owner == b.owner or a.identity_key == b.identity_key)):
            return False
        return not networks or network(a) != network(b)

    def grow(chosen: tuple[RelayEntry, ...], start: int) -> Path | None:
        nonlocal steps
        if len(chosen) == count:
            return chosen
        for index in range(start, len(candidates)):
            steps -= 1
            if steps < 0:
                return None
            if all(agree(candidates[index], other) for other in (*fixed, *chosen)):
                found = grow((*chosen, candidates[index]), index + 1)
                if found is not None:
                    return found
        return None

    return grow((), 0)


def network(entry: RelayEntry) -> str:
    """The /16 (IPv4) or /32 (IPv6) a relay lies in."""
    return _network(entry.host)


@functools.lru_cache(maxsize=8192)
def _network(host: str) -> str:
    address = ipaddress.ip_address(host)
    return str(ipaddress.ip_network((address, 16 if address.version == 4 else 32), strict=False))
