"""The cluster as the person at the keyboard sees it: everything goes through their own `kubectl`, with its context, plugins and rights.

Reads are `kubectl -o json`; streams are `kubectl port-forward`. There is no second way in.
"""

import asyncio
import contextlib
import dataclasses
import json
import re
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any

from veilpod.errors import ClusterUnavailable, InvalidInput, Refused

_READ_SECONDS = 60.0
_FORWARD_SECONDS = 20.0
_FORWARDING = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+)")
_NOBODY = re.compile(r"connection refused|no such host|i/o timeout|TLS handshake|was refused|EOF", re.IGNORECASE)

Object = dict[str, Any]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a kubectl command said."""

    code: int
    stdout: str
    stderr: str


class Kubectl:
    """kubectl with a namespace and a context; None leaves the kubeconfig's choice."""

    def __init__(self, *, namespace: str | None = None, context: str | None = None) -> None:
        self._program = shutil.which("kubectl")
        self._options = [*(["--namespace", namespace] if namespace else []), *(["--context", context] if context else [])]
        self.namespace, self.context = namespace, context

    async def run(self, *arguments: str, text: str | None = None, timeout: float = _READ_SECONDS) -> Outcome:
        """Run to the end, whatever it says. Raises ClusterUnavailable after `timeout` seconds."""
        process = await self._start(*arguments, stdin=asyncio.subprocess.PIPE if text is not None else asyncio.subprocess.DEVNULL)
        try:
            async with asyncio.timeout(timeout):
                out, err = await process.communicate(text.encode() if text is not None else None)
        except TimeoutError as error:
            raise ClusterUnavailable(f"kubectl {arguments[0]} gave no answer in {timeout:.0f} s") from error
        finally:
            await _end(process)
        return Outcome(code=process.returncode or 0, stdout=out.decode(errors="replace"), stderr=err.decode(errors="replace"))

    async def ask(self, *arguments: str, text: str | None = None, timeout: float = _READ_SECONDS) -> str:
        """Run and give stdout. Raises Refused, InvalidInput or ClusterUnavailable with kubectl's own words."""
        outcome = await self.run(*arguments, text=text, timeout=timeout)
        if outcome.code:
            raise _failure(outcome.stderr or outcome.stdout)
        return outcome.stdout

    async def get(self, resource: str, name: str) -> Object | None:
        """One object, or None when the API server says that it is not there."""
        outcome = await self.run("get", resource, name, "--output", "json")
        if outcome.code and "(NotFound)" in outcome.stderr:
            return None
        if outcome.code:
            raise _failure(outcome.stderr)
        found: Object = json.loads(outcome.stdout)
        return found

    async def list_all(self, resource: str, *, labels: Mapping[str, str] | None = None) -> list[Object]:
        """Every object of a kind with these labels."""
        selector = ["--selector", ",".join(f"{key}={value}" for key, value in labels.items())] if labels else []
        items: list[Object] = json.loads(await self.ask("get", resource, *selector, "--output", "json"))["items"]
        return items

    async def raw(self, path: str) -> Object | None:
        """A path of the API, or None when it is not served."""
        outcome = await self.run("get", "--raw", path)
        if outcome.code and "NotFound" in outcome.stderr:
            return None
        if outcome.code:
            raise _failure(outcome.stderr)
        found: Object = json.loads(outcome.stdout)
        return found

    async def watch(self, resource: str, name: str) -> AsyncGenerator[Object, None]:
        """One object, now and each time it changes, until the API server ends the watch. Raises when there was nothing to watch.

        Use it with `contextlib.aclosing`, or its kubectl outlives the loop.
        """
        process = await self._start("get", resource, name, "--output", "json", "--watch")
        assert process.stdout is not None
        assert process.stderr is not None
        decoder, text, seen = json.JSONDecoder(), "", False
        try:
            while piece := await process.stdout.read(65536):
                text = (text + piece.decode(errors="replace")).lstrip()
                while text:
                    try:
                        found, end = decoder.raw_decode(text)
                    except ValueError:
                        break  # half an object: the rest is on its way
                    seen, text = True, text[end:].lstrip()
                    yield found
            if not seen:
                raise _failure((await process.stderr.read()).decode(errors="replace"))
        finally:
            await _end(process)

    async def follow_log(self, pod: str) -> AsyncGenerator[str, None]:
        """A pod's log, line by line, until it ends or the caller stops. With `contextlib.aclosing`, too."""
        process = await self._start("logs", pod, "--follow")
        assert process.stdout is not None
        try:
            async for line in process.stdout:
                yield line.decode(errors="replace").rstrip("\n")
        finally:
            await _end(process)

    @contextlib.asynccontextmanager
    async def forward(self, target: str, port: int) -> AsyncIterator[int]:
        """Forward a free local port to `pod/NAME` or `service/NAME`. Raises ClusterUnavailable or Refused when it cannot be had."""
        process = await self._start("port-forward", target, f":{port}")
        try:
            yield await _forwarded_port(process, target)
        finally:
            await _end(process)

    async def _start(self, *arguments: str, stdin: int = asyncio.subprocess.DEVNULL) -> asyncio.subprocess.Process:
        if self._program is None:
            raise InvalidInput("NoKubectl", "kubectl is not on the PATH: install it and point it at the cluster")
        return await asyncio.create_subprocess_exec(
            self._program, *self._options, *arguments, stdin=stdin, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )


async def _forwarded_port(process: asyncio.subprocess.Process, target: str) -> int:
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async with asyncio.timeout(_FORWARD_SECONDS):
            while line := await process.stdout.readline():
                if found := _FORWARDING.search(line.decode(errors="replace")):
                    return int(found.group(1))
            said = (await process.stderr.read()).decode(errors="replace")
    except TimeoutError as error:
        raise ClusterUnavailable(f"no port-forward to {target} in {_FORWARD_SECONDS:.0f} s") from error
    raise _failure(said or f"port-forward to {target} ended")


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        # The pipes are read to their end, or the transport would outlive the loop.
        await process.communicate()


def _failure(said: str) -> Exception:
    text = " ".join(said.split())[:500]
    if "Forbidden" in said or "forbidden" in said:
        return Refused("Forbidden", f"the cluster does not allow this to you: {text}")
    if "(NotFound)" in said or "not found" in said:
        return InvalidInput("NotFound", f"the cluster does not have it (is the namespace right?): {text}")
    if _NOBODY.search(said):
        return ClusterUnavailable(f"the cluster does not answer: {text}")
    return ClusterUnavailable(text or "kubectl failed without a word")
