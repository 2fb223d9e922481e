"""The store as one value: its parts wired together, the operator's commands and the sandboxes' requests mapped onto them.

Commands (control stream): configure, directory, announce-dataset, forget-dataset, header, deliver, grant, announce-task, offers,
ceremony, acceptances, notes, result-info, forget-task. Events: stored, mailbox, grant-wanted, delivered, delivery-failed. Requests (sealed,
anonymous): put-offer, get-offers, put-ceremony, get-ceremony, put-evidence, put-acceptance, put-note, put-result.
"""

import asyncio
import contextlib
import logging
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from veilpod.core import dataset
from veilpod.core.canonical import to_hex
from veilpod.core.fields import Fields
from veilpod.core.ids import TaskId
from veilpod.core.onion.directory import RelayEntry
from veilpod.core.store_messages import DeliveryOrder, parse_grant_command, parse_order, parse_terms
from veilpod.errors import ProtocolViolation, Refused
from veilpod.net.control import ControlServer, Handler
from veilpod.net.process import Listen
from veilpod.ports import Onion
from veilpod.store import delivery, metrics
from veilpod.store.blobs import Blobs
from veilpod.store.listener import Listener
from veilpod.store.mailbox import Mailbox
from veilpod.store.upload import UploadServer

_MAX_RELAYS = 4096
_OPERATOR = "operator"

log = logging.getLogger(__name__)


class OnionFactory(Protocol):
    """Makes an onion proxy over a directory that may change under it."""

    def __call__(self, *, directory: Callable[[], Sequence[RelayEntry]], hops: int, in_cluster: bool, constant_rate: int) -> Onion: ...


class Service:
    """One store process. `run` serves until cancelled."""

    def __init__(self, *, data: pathlib.Path, quota: int, operator_cert: bytes, onion: OnionFactory) -> None:
        self._make_onion = onion
        self._relays: list[RelayEntry] = []
        self._proxies: dict[tuple[int, bool, int], Onion] = {}
        self.blobs = Blobs(data / "objects", quota=quota)
        self.mailbox = Mailbox(data / "mailbox", changed=self._mailbox_changed)
        self.deliveries = delivery.Deliveries(self.blobs, onion=self._onion, emit=self._emit)
        self.listener = Listener(self._request)
        self.upload = UploadServer(self.blobs, self.mailbox, stored=lambda digest: self._emit("stored", {"digest": to_hex(digest)}))
        self.control = ControlServer(operator_cert, self._commands())

    async def run(self, *, listen: Listen, control: Listen, upload: Listen, metrics_at: Listen | None) -> None:
        """Serve on all ports until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.control.serve(control.host, control.port))
                group.create_task(self.listener.serve(listen.host, listen.port))
                group.create_task(self.upload.serve(upload.host, upload.port))
                group.create_task(self.deliveries.run())
                if metrics_at is not None:
                    group.create_task(
                        metrics.serve(metrics_at.host, metrics_at.port, read=self._measure, ready=lambda: self.listener.unlocked)
                    )
        finally:
            for proxy in self._proxies.values():
                with contextlib.suppress(Exception):  # closing on the way out must not hide why we go
                    await proxy.close()

    # -- the operator's commands ---------------------------------------------------------------------------------------------------

    def _commands(self) -> dict[str, Handler]:
        return {
            "configure": self._configure,
            "directory": self._directory,
            "announce-dataset": self._announce_dataset,
            "forget-dataset": self._forget_dataset,
            "header": self._header,
            "deliver": self._deliver,
            "grant": self._grant,
            "announce-task": self._announce_task,
            "offers": self._offers,
            "ceremony": self._ceremony,
            "acceptances": self._acceptances,
            "notes": self._notes,
            "result-info": self._result_info,
            "forget-task": self._forget_task,
        }

    async def _configure(self, args: dict[str, Any]) -> dict[str, Any]:
        # The node's sealing key is derived from the operator's chain key, and comes over this authenticated stream each time the
        # store starts: so the store's volume never holds a secret, and a stolen disk opens no request.
        fields = Fields(args, what="configuration", party=_OPERATOR)
        key = X25519PrivateKey.from_private_bytes(fields.data("sealKey", 32))
        self._use_directory(fields)
        fields.done()
        self.listener.unlock(key)
        log.info("store.configured")
        return {"tasks": [to_hex(task) for task in self.mailbox.tasks()]}

    async def _directory(self, args: dict[str, Any]) -> dict[str, Any]:
        fields = Fields(args, what="directory", party=_OPERATOR)
        self._use_directory(fields)
        fields.done()
        return {}

    def _use_directory(self, fields: Fields) -> None:
        self._relays = [RelayEntry.from_json(item) for item in fields.items("directory", maximum=_MAX_RELAYS)]

    async def _announce_dataset(self, args: dict[str, Any]) -> dict[str, Any]:
        fields = Fields(args, what="dataset", party=_OPERATOR)
        stored = self.blobs.announce(fields.data("digest", 32), fields.integer("size", minimum=1))
        fields.done()
        return {"stored": stored}

    async def _forget_dataset(self, args: dict[str, Any]) -> dict[str, Any]:
        self.blobs.forget(Fields(args, what="dataset", party=_OPERATOR).data("digest", 32))
        return {}

    async def _header(self, args: dict[str, Any]) -> dict[str, Any]:
        digest = Fields(args, what="dataset", party=_OPERATOR).data("digest", 32)
        header = dataset.parse_header(self.blobs.head(digest, dataset.MAX_HEADER + 64))
        if header is None:
            raise ProtocolViolation("BadObject", "the object ends within its header", party="owner")
        return {"header": to_hex(header.raw)}

    async def _deliver(self, args: dict[str, Any]) -> dict[str, Any]:
        return {"state": self.deliveries.deliver(parse_order(args))}

    async def _grant(self, args: dict[str, Any]) -> dict[str, Any]:
        self.deliveries.decide(*parse_grant_command(args))
        return {}

    async def _announce_task(self, args: dict[str, Any]) -> dict[str, Any]:
        self.mailbox.announce(parse_terms(args))
        return {}

    async def _offers(self, args: dict[str, Any]) -> dict[str, Any]:
        return {"offers": [offer.document() for offer in self.mailbox.offers(_task(args))]}

    async def _ceremony(self, args: dict[str, Any]) -> dict[str, Any]:
        return self.mailbox.ceremony(_task(args)).document()

    async def _acceptances(self, args: dict[str, Any]) -> dict[str, Any]:
        return {"acceptances": [acceptance.document() for acceptance in self.mailbox.acceptances(_task(args))]}

    async def _notes(self, args: dict[str, Any]) -> dict[str, Any]:
        return {"notes": [note.document() for note in self.mailbox.notes(_task(args))]}

    async def _result_info(self, args: dict[str, Any]) -> dict[str, Any]:
        info = self.mailbox.result(_task(args))
        return {"result": info.document() if info else None}

    async def _forget_task(self, args: dict[str, Any]) -> dict[str, Any]:
        task = _task(args)
        self.deliveries.forget(task)
        await self.mailbox.forget(task)
        return {}

    # -- the sandboxes' requests ---------------------------------------------------------------------------------------------------

    async def _request(self, op: str, args: dict[str, Any]) -> dict[str, Any]:
        if op == "put-offer":
            await self.mailbox.put_offer(args)
        elif op == "get-offers":
            return await self._offers(args)
        elif op == "put-ceremony":
            return await self.mailbox.put_ceremony(args)
        elif op == "get-ceremony":
            return await self.mailbox.get_ceremony(args)
        elif op == "put-evidence":
            await self.mailbox.put_evidence(args)
        elif op == "put-acceptance":
            await self.mailbox.put_acceptance(args)
        elif op == "put-note":
            await self.mailbox.put_note(args)
        elif op == "put-result":
            return await self.mailbox.put_result(args)
        else:
            raise ProtocolViolation("UnknownRequest", f"no request {op[:40]!r} here", party="agent")
        return {}

    # -- the rest ------------------------------------------------------------------------------------------------------------------

    def _emit(self, event: str, data: Mapping[str, Any]) -> None:
        try:
            self.control.emit(event, data)
        except Refused as error:
            # Nobody has listened for long. Events are hints: the operator asks for everything when it is back.
            log.warning("event.lost", extra={"event": event, "reason": error.reason})

    def _mailbox_changed(self, task: TaskId, what: str, index: int) -> None:
        self._emit("mailbox", {"taskId": to_hex(task), "what": what, "index": index})

    def _onion(self, order: DeliveryOrder) -> Onion:
        # One proxy for each kind of path, made at its first delivery: a mailbox never needs one.
        kind = (order.hops, order.in_cluster, order.constant_rate)
        if kind not in self._proxies:
            hops, in_cluster, rate = kind
            self._proxies[kind] = self._make_onion(directory=lambda: self._relays, hops=hops, in_cluster=in_cluster, constant_rate=rate)
        return self._proxies[kind]

    def _measure(self) -> dict[str, float]:
        return {"used_bytes": self.blobs.used(), "tasks": len(self.mailbox.tasks()), "deliveries": self.deliveries.active}


def _task(args: dict[str, Any]) -> TaskId:
    fields = Fields(args, what="command")
    task = TaskId(fields.data("taskId", 32))
    fields.done()
    return task
