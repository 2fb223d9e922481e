"""The memory of CREATE ephemerals: one per onion key, so that a recorded CREATE cannot be played again while its key is accepted.

It is bounded, and full means refuse: the operator sees `fill` and rotates the onion key, which starts an empty one. Nothing is ever
evicted, since an evicted entry could be replayed. Paper step 5.
"""

import hashlib

LIMIT = 1 << 18


class ReplayCache:
    """Ephemerals seen under one onion key."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._seen: set[bytes] = set()
        self._limit = limit

    @property
    def fill(self) -> float:
        """How full it is, 0 to 1."""
        return len(self._seen) / self._limit

    @property
    def full(self) -> bool:
        """Whether it can take no more."""
        return len(self._seen) >= self._limit

    def first_time(self, ephemeral: bytes) -> bool:
        """Remember an ephemeral (32 bytes). False when it was seen before."""
        # Half a hash is enough: 2^18 entries collide with probability 2^-93, and a collision only refuses.
        mark = hashlib.sha256(ephemeral).digest()[:16]
        if mark in self._seen:
            return False
        self._seen.add(mark)
        return True
