"""The operator's hand on its own store or mailbox: every command of the store as a typed method, one link that outlives restarts.

The store is found as the API server names it: the pod behind the release's Service, by its IP. The store's TLS key is new at each start
and pinned for the life of a link; when it changes, the pod is looked up again. What a store may know it is told here, each time: the
node's sealing key (so that it keeps no secret on disk) and the directory of relays.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from veilpod.core import dataset, meeting, store_messages
from veilpod.core.canonical import from_hex, to_hex
from veilpod.core.grant import Grant
from veilpod.core.ids import ResourceId, TaskId
from veilpod.core.kinds import PODS
from veilpod.core.onion.directory import RelayEntry
from veilpod.errors import PeerUnavailable, ProtocolViolation, Refused, VeilpodError
from veilpod.ports import Cluster, ControlLink

CONTROL_PORT = 7443
_DIRECTORY_SECONDS = 30.0

Locate = Callable[[], Awaitable[tuple[str, int]]]
Directory = Callable[[], Awaitable[Sequence[RelayEntry]]]
Connect = Callable[[str, int], Awaitable[ControlLink]]
OnEvent = Callable[[str, dict[str, Any]], Awaitable[None]]

log = logging.getLogger(__name__)


class StoreLink:
    """One store. Give `run` to the operator's background tasks; the other methods raise PeerUnavailable while it is not connected."""

    def __init__(
        self, *, locate: Locate, connect: Connect, seal_key: bytes, directory: Directory, on_event: OnEvent, on_ready: Callable[[], None]
    ) -> None:
        self._locate, self._connect = locate, connect
        self._seal_key, self._read_directory = seal_key, directory
        self._on_event, self._on_ready = on_event, on_ready
        self._link: ControlLink | None = None

    async def run(self) -> None:
        """Connect, configure, hand on events, keep the directory fresh. Ends only with an error: PeerUnavailable, to be started again."""
        host, port = await self._locate()
        try:
            link = await self._connect(host, port)
        except Refused as error:
            raise PeerUnavailable(f"the store refuses its operator: {error}") from error
        try:
            await self._use(link)
        except ExceptionGroup as group:
            # The usual reason is a restarted store with a new key: it has to be found and told everything again.
            _, defects = group.split(VeilpodError)
            if defects is not None:
                raise defects from group
            raise PeerUnavailable("the store changed; looking it up again") from group
        finally:
            self._link = None
            await link.close()

    async def _use(self, link: ControlLink) -> None:
        async with asyncio.TaskGroup() as group:
            await link.call("configure", sealKey=to_hex(self._seal_key), directory=await self._directory())
            self._link = link
            log.info("store.connected")
            self._on_ready()
            group.create_task(self._pump(link))
            group.create_task(self._refresh(link))

    @property
    def connected(self) -> bool:
        """Whether the store is there and configured."""
        return self._link is not None

    # -- data sets -----------------------------------------------------------------------------------------------------------------

    async def announce_dataset(self, digest: bytes, size: int) -> bool:
        """Allow the upload of an object; whether it is there already."""
        return bool((await self._call("announce-dataset", digest=to_hex(digest), size=size)).get("stored"))

    async def forget_dataset(self, digest: bytes) -> None:
        """Remove an object and refuse its upload from now on."""
        await self._call("forget-dataset", digest=to_hex(digest))

    async def header(self, digest: bytes) -> dataset.Header:
        """The header of a stored object. Raises Refused("NotStored")."""
        header = dataset.parse_header(from_hex((await self._call("header", digest=to_hex(digest))).get("header", "")))
        if header is None:
            raise ProtocolViolation("BadObject", "the store gave half a header", party="store")
        return header

    async def deliver(self, order: store_messages.DeliveryOrder) -> str:
        """Start a delivery, or ask for its state: "running", "delivered" or a failure code."""
        # A relay that was restarted since has other keys: a path is chosen from what the chain says now.
        await self._call("directory", directory=await self._directory())
        return str((await self._call("deliver", **order.document())).get("state", ""))

    async def decide(self, sandbox: store_messages.SandboxRef, resource: ResourceId, verdict: Grant | str) -> None:
        """Answer `grant-wanted`: with a grant, or with the code of a refusal."""
        await self._call("grant", **store_messages.grant_document(sandbox, resource, verdict))

    # -- mailbox -------------------------------------------------------------------------------------------------------------------

    async def announce_task(self, terms: store_messages.TaskTerms) -> None:
        """Open a task's box. Repeating it is fine; other terms are Refused("TermsDiffer")."""
        await self._call("announce-task", **terms.document())

    async def offers(self, task: TaskId) -> list[meeting.Offer]:
        """The offers so far, by index; their signatures were checked by the mailbox."""
        return [meeting.parse_offer(item) for item in await self._list("offers", task)]

    async def ceremony(self, task: TaskId) -> store_messages.CeremonyReport:
        """How far the key ceremony is, and the evidence against who broke it."""
        return store_messages.parse_ceremony(await self._call("ceremony", taskId=to_hex(task)))

    async def acceptances(self, task: TaskId) -> list[meeting.Acceptance]:
        """The acceptances so far, by index."""
        return [meeting.parse_acceptance(item) for item in await self._list("acceptances", task)]

    async def notes(self, task: TaskId) -> list[meeting.Note]:
        """The notes so far, by index."""
        return [meeting.parse_note(item) for item in await self._list("notes", task)]

    async def result_info(self, task: TaskId) -> store_messages.ResultInfo | None:
        """The sealed result, once it is whole in the mailbox."""
        result = (await self._call("result-info", taskId=to_hex(task))).get("result")
        return None if result is None else store_messages.parse_result_info(result)

    async def forget_task(self, task: TaskId) -> None:
        """Remove a task's box with everything in it, and end its deliveries."""
        await self._call("forget-task", taskId=to_hex(task))

    # -- the link ------------------------------------------------------------------------------------------------------------------

    async def _call(self, command: str, **args: Any) -> dict[str, Any]:
        link = self._link
        if link is None:
            raise PeerUnavailable("the store is not connected yet", retry_after=2)
        try:
            return await link.call(command, **args)
        except Refused as error:
            if error.reason in ("ControlKeyChanged", "ControlRefused"):
                raise PeerUnavailable("the store changed; looking it up again", retry_after=2) from error
            raise

    async def _list(self, command: str, task: TaskId) -> list[Any]:
        items = (await self._call(command, taskId=to_hex(task))).get(command)
        if not isinstance(items, list):
            raise ProtocolViolation("BadMessage", f"the store's answer to {command} is no list", party="store")
        return items

    async def _pump(self, link: ControlLink) -> None:
        async for sequence, event, data in link.events():
            await self._on_event(event, data)
            await link.acknowledge(sequence)
        raise PeerUnavailable("the link to the store was closed")

    async def _refresh(self, link: ControlLink) -> None:
        while True:
            await asyncio.sleep(_DIRECTORY_SECONDS)
            await link.call("directory", directory=await self._directory())

    async def _directory(self) -> list[dict[str, Any]]:
        return [entry.to_json() for entry in await self._read_directory()]


def locate_pod(cluster: Cluster, *, namespace: str, service: str, port: int = CONTROL_PORT) -> Locate:
    """Find the one pod of a store's StatefulSet (named as its Service), by the API server's word. Raises PeerUnavailable until it runs."""

    async def locate() -> tuple[str, int]:
        pod = await cluster.get(PODS, f"{service}-0", namespace=namespace)
        status = (pod or {}).get("status", {})
        if pod is None or "deletionTimestamp" in pod["metadata"] or status.get("phase") != "Running" or not status.get("podIP"):
            raise PeerUnavailable("the store's pod does not run")
        return status["podIP"], port

    return locate
