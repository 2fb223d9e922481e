"""`python -m veilpod.watchtower`: run one tower until SIGTERM."""

import asyncio
import logging
import sys
from collections.abc import Sequence

from veilpod.core.keys import SigningKey, signing_key
from veilpod.errors import InvalidInput, VeilpodError
from veilpod.net import logs
from veilpod.net.process import keep_memory_private, until_told
from veilpod.watchtower import settings as configs
from veilpod.watchtower.service import Tower

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until told to stop. 2 is something that a person must correct, 1 a failure."""
    settings = configs.parse(arguments)
    logs.configure(settings.log_level)
    keep_memory_private()
    try:
        asyncio.run(until_told(Tower(settings, _load_key(settings)).run()))
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


def _load_key(settings: configs.Settings) -> SigningKey:
    try:
        return signing_key(settings.key_file.read_text())
    except OSError as error:
        raise InvalidInput("NoKey", f"cannot read the key file: {error.strerror}") from error


def _first(error: BaseException) -> BaseException:
    return _first(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


if __name__ == "__main__":
    sys.exit(main())
