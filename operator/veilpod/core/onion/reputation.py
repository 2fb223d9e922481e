"""What one onion proxy has learnt of the relays it used: whom to draw more often, and which path is likely quick. Pure.

A relay's weight in the draw is bandwidth x trust. Nothing here is told to anybody or taken from anybody but the directory: a proxy acts on
its own circuits only, so nobody can talk a relay up or down. It never demotes a relay that only watches, and what a lying reporter can do
is bounded by what its lie costs itself (it counts half). Paper step 5 and its future work, the learned choice of onion routers.

Trust: the mean of a Beta posterior over "a circuit through it works" (Ismail and Josang, The Beta Reputation System, 2002), to the power
of SHARPNESS, since a circuit needs every one of its relays. The prior is optimistic and light: a newcomer is drawn almost like a relay
that is known to be good, and one failure says much. Outcomes fade with time, so that whoever was away comes back, and with newer
outcomes, so that good deeds cannot be saved up for a bad day.
"""

import dataclasses
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence

from veilpod.core.ids import NodeId
from veilpod.core.onion.directory import RelayEntry

HALF_LIFE = 300.0  # seconds until an outcome counts half
SHARE = 2.0  # times its fair share of the draws is the most that a claimed capacity brings
SHARPNESS = 4.0
_PRIOR = (0.9, 0.1)  # worth one outcome together
_MEMORY = 4.0  # outcomes that are remembered of one relay, however many there were
_HALF = 0.5  # of a failure, for the nearer end (it has at least told us, or else a dead relay drags its neighbours down) and for suspects
_RATE = 0.25  # of a surprise is believed at once
_MOST = 8192  # relays that are remembered


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Outcomes:
    good: float = 0.0
    bad: float = 0.0
    at: float = 0.0

    def aged(self, now: float) -> "_Outcomes":
        left = 0.5 ** (max(0.0, now - self.at) / HALF_LIFE)
        return _Outcomes(good=self.good * left, bad=self.bad * left, at=max(now, self.at))

    def plus(self, *, good: float = 0.0, bad: float = 0.0, now: float) -> "_Outcomes":
        old = self.aged(now)
        kept = (1 - 1 / _MEMORY) ** (good + bad)
        return _Outcomes(good=old.good * kept + good, bad=old.bad * kept + bad, at=old.at)


class Reputation:
    """One proxy's experience. `now` is any clock in seconds that does not jump."""

    def __init__(self) -> None:
        self._outcomes: dict[NodeId, _Outcomes] = {}
        self._seconds: dict[NodeId, float] = {}

    def worked(self, path: Iterable[NodeId], *, now: float) -> None:
        """A circuit over these relays brought something back, and nothing was wrong with it."""
        for node in path:
            self._add(node, good=1.0, now=now)

    def failed(self, blamed: tuple[int, int], *, now: float) -> None:
        """A circuit failed at this link, nearer end first; 0 is ourselves."""
        for node, share in zip(blamed, (_HALF, 1.0), strict=True):
            if node:
                self._add(NodeId(node), bad=share, now=now)

    def suspected(self, path: Iterable[NodeId], *, now: float) -> None:
        """A circuit over these relays fell silent. Nobody can be blamed; whoever does it again and again is on all of them."""
        for node in path:
            self._add(node, bad=_HALF, now=now)

    def built(self, path: Collection[NodeId], *, seconds: float) -> None:
        """A circuit over these relays took so long to build: each of them answers for an equal part of what was unexpected."""
        known, surprise = self._known(path), (seconds - self.predict(path)) / len(path)
        rate = _RATE if self._seconds else 1.0
        for node in path:
            self._seconds.pop(node, None)
            self._seconds[node] = max(0.0, known[node] + rate * surprise)
        _forget(self._seconds)

    @property
    def measured(self) -> bool:
        """Whether anything was measured, so that predictions differ."""
        return bool(self._seconds)

    def predict(self, path: Collection[NodeId]) -> float:
        """Seconds that a circuit over these relays likely takes to build; one that was never measured counts like the mean."""
        return sum(self._known(path).values())

    def trust(self, node: NodeId, *, now: float) -> float:
        """The mean of the posterior, 0 to 1."""
        good, bad = _PRIOR
        seen = self._outcomes.get(node)
        if seen is None:
            return good
        seen = seen.aged(now)
        return (good + seen.good) / (good + bad + seen.good + seen.bad)

    def weights(self, entries: Sequence[RelayEntry], *, now: float) -> list[float]:
        """How often each relay is drawn, in proportion: bandwidth x trust."""
        bandwidths = capped([entry.capacity for entry in entries])
        return [each * self.trust(entry.node_id, now=now) ** SHARPNESS for entry, each in zip(entries, bandwidths, strict=True)]

    def _add(self, node: NodeId, *, good: float = 0.0, bad: float = 0.0, now: float) -> None:
        # Taken out and put in again, so that the dictionary is in the order of use.
        self._outcomes[node] = self._outcomes.pop(node, _Outcomes(at=now)).plus(good=good, bad=bad, now=now)
        _forget(self._outcomes)

    def _known(self, path: Collection[NodeId]) -> Mapping[NodeId, float]:
        mean = statistics.fmean(self._seconds.values()) if self._seconds else 0.0
        return {node: self._seconds.get(node, mean) for node in path}


def capped(claims: Sequence[int]) -> list[float]:
    """Bandwidths from claimed capacities: none is more than SHARE times the mean of all.

    A claim costs nothing and nobody measures it, so it must not buy much: without a cap, one relay that registers the largest number
    would be on nearly every circuit. With it, a relay has at most SHARE / n of the draws among n relays of equal trust, and k relays of one
    attacker at most k * SHARE / n, whatever they claim. Who claims nothing (0) counts like the median of those who do.
    """
    made = [claim for claim in claims if claim > 0]
    usual = statistics.median_low(made) if made else 1
    bandwidths = [float(claim or usual) for claim in claims]
    total, highest = len(bandwidths), sorted(bandwidths, reverse=True)
    # The cap lowers the mean that it is a multiple of. With the k highest at the cap c: n * c = SHARE * (k * c + rest).
    rest = sum(highest)
    cap = 0.0
    for count, value in enumerate(highest):
        cap = SHARE * rest / (total - SHARE * count)
        if cap >= value:
            break  # always before half of them: what is left is then no less than its greatest
        rest -= value
    return [min(each, cap) for each in bandwidths]


def _forget(known: dict[NodeId, float] | dict[NodeId, _Outcomes]) -> None:
    while len(known) > _MOST:
        del known[next(iter(known))]
