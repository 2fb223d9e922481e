"""`python -m veilpod.watchtower`: run one tower until SIGTERM."""

import asyncio
import contextlib
import ctypes
import logging
import resource
import signal
import sys
from collections.abc import Sequence

from veilpod.core.keys import SigningKey, signing_key
from veilpod.errors import InvalidInput, VeilpodError
from veilpod.net import logs
from veilpod.watchtower import settings as configs
from veilpod.watchtower.service import Tower

_PR_SET_DUMPABLE = 4

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until told to stop. 2 is something that a person must correct, 1 a failure."""
    settings = configs.parse(arguments)
    logs.configure(settings.log_level)
    _keep_memory_private()
    try:
        asyncio.run(_serve(settings, _load_key(settings)))
    except (VeilpodError, BaseExceptionGroup) as raised:
        error = _first(raised)
        if not isinstance(error, VeilpodError):
            raise
        if isinstance(error, InvalidInput):
            print(f"veilpod.watchtower: {error.reason}: {error}", file=sys.stderr)
            return 2
        log.error("tower.failed", extra={"error": type(error).__name__, "why": str(error)})
        return 1
    return 0


async def _serve(settings: configs.Settings, key: SigningKey) -> None:
    serving = asyncio.create_task(Tower(settings, key).run())
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, serving.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await serving


def _load_key(settings: configs.Settings) -> SigningKey:
    try:
        return signing_key(settings.key_file.read_text())
    except OSError as error:
        raise InvalidInput("NoKey", f"cannot read the key file: {error.strerror}") from error


def _keep_memory_private() -> None:
    # The hot key is in this memory: no core file, no debugger of the same user.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def _first(error: BaseException) -> BaseException:
    return _first(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


if __name__ == "__main__":
    sys.exit(main())
