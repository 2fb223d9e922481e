"""What every process of ours does at its edges: read where to listen, keep its memory to itself, end on a signal."""

import argparse
import asyncio
import contextlib
import ctypes
import dataclasses
import resource
import signal
from collections.abc import Coroutine
from typing import Any

from veilpod.errors import Refused

_PR_SET_DUMPABLE = 4


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Listen:
    """Where to listen; an empty host is every interface of both families (what asyncio makes of it), port 0 any port."""

    host: str
    port: int


def listen(text: str) -> Listen:
    """Read "host:port", "[v6]:port" or ":port" from a command line. Raises ArgumentTypeError."""
    host, _, port = text.rpartition(":")
    if not (port.isascii() and port.isdecimal()) or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"not host:port: {text!r}")
    return Listen(host=host.strip("[]"), port=int(port))


def keep_memory_private() -> None:
    """Allow no core file and no debugger of the same user: keys are in this memory. Raises Refused("HardeningFailed")."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise Refused("HardeningFailed", "this process cannot be protected from its neighbours")


async def until_told(work: Coroutine[Any, Any, None]) -> None:
    """Run until the work ends, or until SIGTERM or SIGINT cancels it."""
    running = asyncio.ensure_future(work)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, running.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await running
