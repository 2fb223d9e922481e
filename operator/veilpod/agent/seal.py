"""The pod's one main container: it holds the pod alive until the agent is done, and gives the pod its outcome.

Kubernetes ends native sidecars when the last main container ends, so the agent lives exactly as long as `seal` does: until its operator has
persisted the final channel states and the signed result. Its socket says one word to whoever asks, and takes none. `seal` holds nothing and
does nothing; sealing and signing happen in the agent, which has the keys.
"""

import asyncio
import contextlib
import logging
import pathlib

from veilpod.agent import hardening
from veilpod.agent.settings import unix_address
from veilpod.core.meeting import FAILURES
from veilpod.errors import ProtocolViolation
from veilpod.net.framing import json_frame, read_json_frame

_LIMIT = 1024
_CONNECT_SECONDS = 30.0
RELEASED = "Released"

log = logging.getLogger(__name__)


class SealSocket:
    """The agent's end: answers one word to everyone who asks, once there is one."""

    def __init__(self, socket: str) -> None:
        self._socket = socket
        self._outcome: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def release(self, word: str) -> None:
        """Let the pod end: Released or a failure code."""
        if not self._outcome.done():
            self._outcome.set_result(word)

    async def serve(self) -> None:
        """Serve until cancelled."""
        async with asyncio.TaskGroup() as group:
            server = await asyncio.start_unix_server(
                lambda _, writer: group.create_task(self._answer(writer)) and None, unix_address(self._socket), backlog=4
            )
            async with server:
                await server.serve_forever()

    async def _answer(self, writer: asyncio.StreamWriter) -> None:
        try:
            word = await asyncio.shield(self._outcome)
            writer.write(json_frame({"outcome": word}, limit=_LIMIT))
            await writer.drain()
        except OSError:
            pass
        finally:
            with contextlib.suppress(OSError):
                writer.close()


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
