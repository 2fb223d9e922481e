"""How long to wait between attempts at something that may work later."""

import itertools
from collections.abc import Iterator


def pauses(*seconds: float) -> Iterator[float]:
    """Give each pause once, and the last one for ever."""
    return itertools.chain(seconds, itertools.repeat(seconds[-1]))
