"""What a relay grants a stranger: numbers, and the bucket that meters CREATEs. Values only."""

import dataclasses
from collections.abc import Callable


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one relay process. Each refuses; none makes anybody wait without end."""

    links: int = 1024
    handshaking: int = 1024
    handshake_seconds: float = 10.0
    circuits: int = 16384
    circuits_per_link: int = 1024  # an anonymous link; links between relays carry many clients
    circuits_per_relay_link: int = 16384
    creates_per_second: float = 50.0  # per anonymous link; relays get RELAY_FACTOR times as many
    create_burst: int = 200
    all_creates_per_second: float = 1000.0
    extend_seconds: float = 12.0  # shorter than a client's wait, so that the client learns which link failed
    exit_seconds: float = 10.0
    exits: int = 4096
    queued_bytes: int = 192 << 20
    unread_bytes: int = 64 << 20  # at all exits together, for services that do not read
    bandwidth: int = 0  # bytes a second over all links, 0 for no bound, until the operator says another


RELAY_FACTOR = 20


class Bucket:
    """A token bucket."""

    def __init__(self, *, rate: float, burst: int, clock: Callable[[], float]) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._tokens, self._at = float(burst), clock()

    def take(self) -> bool:
        """Take a token, if there is one."""
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
