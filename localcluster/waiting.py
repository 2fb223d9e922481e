"""The one place where the tool sleeps: between two looks at what the kernel or another program offers no event for."""

import time
from collections.abc import Callable


def until(condition: Callable[[], bool], *, timeout: float, every: float = 0.05) -> bool:
    """Return True as soon as the condition holds, False when it has not within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(every)  # noqa: TID251 - see the module's docstring
    return True


def pause(seconds: float) -> None:
    """Do nothing for a while: for a program that dies at once must not be started again at once."""
    time.sleep(seconds)  # noqa: TID251 - see above
