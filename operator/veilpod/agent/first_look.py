"""netguard's first look: it begins with the process, and the process does not listen before it has seen isolation.

In a thread, because what else an agent imports takes as long as a look: with a fifth of a processor a second either way.
"""

import asyncio
import concurrent.futures
import threading
import time
from collections.abc import Sequence

from veilpod.agent import netguard
from veilpod.agent.netguard import Endpoint, Observation
from veilpod.core.canary import Canary

_FRESH_SECONDS = 10.0  # how old an observation may be when keys are born


class FirstLook:
    """An observation under way. Ends with isolation, or with the refusal of `wait_isolated`."""

    def __init__(self, allow: Sequence[Endpoint], canaries: Sequence[Canary], *, seconds: float, probe_seconds: float) -> None:
        self._outcome: concurrent.futures.Future[tuple[Observation, float]] = concurrent.futures.Future()
        self._outcome.set_running_or_notify_cancel()  # who stops waiting does not stop the look

        def look() -> None:
            try:
                seen = asyncio.run(netguard.wait_isolated(allow, canaries, seconds=seconds, probe_seconds=probe_seconds))
                self._outcome.set_result((seen, time.monotonic()))
            except Exception as error:  # noqa: BLE001 - raised to whoever waits
                self._outcome.set_exception(error)

        # A daemon: a process that is told to end does not wait for a fence that does not stand.
        threading.Thread(target=look, name="netguard", daemon=True).start()

    async def passed(self) -> None:
        """Wait until isolation was seen. Raises Refused("CanaryReachable" | "PeerUnreachable" | "ProbeFailed")."""
        await asyncio.wrap_future(self._outcome)

    def recent(self) -> Observation | None:
        """What it saw, unless that is not known or too long ago to make keys on."""
        if not self._outcome.done() or self._outcome.exception() is not None:
            return None
        seen, at = self._outcome.result()
        return seen if time.monotonic() - at < _FRESH_SECONDS else None
