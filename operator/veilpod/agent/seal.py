"""The pod's one main container: it holds the pod alive until the agent is done, and gives the pod its outcome.

Kubernetes ends native sidecars when the last main container ends, so the agent lives exactly as long as `seal` does: until its operator has
persisted the final channel states and the signed result. Its socket says one word to whoever asks, and takes none. `seal` holds nothing and
does nothing; sealing and signing happen in the agent, which has the keys.
"""

import asyncio
import contextlib
import logging
import pathlib
from typing import Any

from veilpod.agent import hardening
from veilpod.agent.settings import unix_address
from veilpod.core.meeting import FAILURES
from veilpod.errors import ProtocolViolation
from veilpod.net.framing import json_frame, read_json_frame

_LIMIT = 1024
_CONNECT_SECONDS = 30.0
_AT_ONCE = 4
RELEASED = "Released"

log = logging.getLogger(__name__)


class SealSocket:
    """The agent's end: answers one word to everyone who asks, once there is one. Only so many may ask at a time: a program could, too."""

    def __init__(self, socket: str) -> None:
        self._socket = socket
        self._outcome: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._asking = 0

    def release(self, word: str) -> None:
        """Let the pod end: Released or a failure code."""
        if not self._outcome.done():
            self._outcome.set_result(word)

    async def serve(self) -> None:
        """Serve until cancelled."""
        async with asyncio.TaskGroup() as group:
            server = await asyncio.start_unix_server(
                lambda reader, writer: group.create_task(self._answer(reader, writer)) and None, unix_address(self._socket), backlog=4
            )
            async with server:
                await server.serve_forever()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._asking >= _AT_ONCE:
            writer.transport.abort()
            return
        self._asking += 1
        gone = asyncio.ensure_future(_end_of(reader))
        waited: list[asyncio.Future[Any]] = [self._outcome, gone]
        try:
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if self._outcome.done():
                writer.write(json_frame({"outcome": self._outcome.result()}, limit=_LIMIT))
                await writer.drain()
        except OSError:
            pass
        finally:
            self._asking -= 1
            gone.cancel()
            with contextlib.suppress(OSError):
                writer.close()


async def _end_of(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(OSError):
        await reader.read(1)  # who asks says nothing


def run(*, socket: str, termination_log: pathlib.Path | None) -> int:
    """The container: wait for the word. 0 released, 1 the task failed, 2 the agent is gone."""
    try:
        word = asyncio.run(_wait(socket))
    except (OSError, EOFError, TimeoutError, ProtocolViolation):
        word = "SandboxLost"
    log.info("seal.outcome", extra={"outcome": word})
    hardening.say_last_word(termination_log, word)
    return {RELEASED: 0, "SandboxLost": 2}.get(word, 1)


async def _wait(socket: str) -> str:
    async with asyncio.timeout(_CONNECT_SECONDS):
        reader, writer = await asyncio.open_unix_connection(unix_address(socket))
    try:
        message = await read_json_frame(reader, limit=_LIMIT, party="agent")
    finally:
        writer.close()
    word = message.get("outcome")
    if word != RELEASED and word not in FAILURES:
        raise ProtocolViolation("BadOutcome", "the agent says a word outside its vocabulary", party="agent")
    return str(word)
