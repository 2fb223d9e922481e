"""How often somebody may ask: token buckets per key, for a bounded number of keys."""

import collections
import dataclasses
from collections.abc import Callable


@dataclasses.dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


class Limit:
    """`burst` at once, `rate` a second afterwards, for each key by itself. The key that asked longest ago is forgotten first."""

    def __init__(self, *, rate: float, burst: int, clock: Callable[[], float], keys: int = 65_536) -> None:
        self._rate, self._burst, self._clock, self._keys = rate, burst, clock, keys
        self._buckets: collections.OrderedDict[str, _Bucket] = collections.OrderedDict()

    def allows(self, key: str) -> bool:
        """Whether there is a token left, without taking it."""
        return self._bucket(key).tokens >= 1

    def take(self, key: str) -> bool:
        """Take a token. False: there was none."""
        bucket = self._bucket(key)
        if bucket.tokens < 1:
            return False
        bucket.tokens -= 1
        return True

    def _bucket(self, key: str) -> _Bucket:
        now = self._clock()
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = _Bucket(tokens=self._burst, at=now)
            if len(self._buckets) > self._keys:
                self._buckets.popitem(last=False)
        bucket.tokens = min(self._burst, bucket.tokens + (now - bucket.at) * self._rate)
        bucket.at = now
        self._buckets.move_to_end(key)
        return bucket
