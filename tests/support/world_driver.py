"""Runs inside a pod: an operator driving sandboxes from configuration to zeroisation. Prints what it saw of each as one JSON line.

Arguments: the directory, and the sandboxes as a list of `{"ip", "uid", "task" (hex), "spec" (canonical JSON in base64)}`, both as JSON.
They are driven at once. The mailbox is at POD_IP. A task that fails is torn down like any other; what it failed with is among the events.
"""

import asyncio
import base64
import json
import os
import sys
from typing import Any

from veilpod.core.agent_messages import Configuration, MailboxEntry, Published
from veilpod.core.canonical import from_hex, to_hex
from veilpod.core.ids import PodUid, ServerIndex, TaskId
from veilpod.core.keys import SigningKey, checksum_address, node_keys
from veilpod.core.meeting import descriptors_document, parse_acceptance
from veilpod.core.onion.directory import RelayEntry
from veilpod.core.statement import countersign, parse_statement, statement_nonce
from veilpod.core.store_messages import TaskTerms
from veilpod.core.task.spec import decode_spec
from veilpod.core.typed_data import Domain, sandbox_key_digest
from veilpod.net.control import Link, connect
from veilpod.net.framing import json_frame, read_json_frame

CHAIN_KEY = SigningKey(secret=b"\x31" * 32)
KEYS = node_keys(CHAIN_KEY)
DOMAIN = Domain(chain_id=31337, contract=checksum_address(b"\x0c" * 20))


class Failed(Exception):
    """The agent said so."""


class Events:
    """What the agent has said so far."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self.seen: dict[str, dict[str, Any]] = {}
        self.order: list[str] = []
        self._heard = asyncio.Event()

    async def listen(self) -> None:
        async for sequence, name, data in self._link.events():
            self.seen[name] = data
            self.order.append(name)
            await self._link.acknowledge(sequence)
            self._heard.set()

    async def until(self, name: str) -> dict[str, Any]:
        async with asyncio.timeout(90):
            while name not in self.seen:
                if "failed" in self.seen and name != "flushed":
                    raise Failed(f"{self.seen['failed']} after {self.order}")
                self._heard.clear()
                await self._heard.wait()
        return self.seen[name]


async def main() -> None:
    directory, sandboxes = json.loads(sys.argv[1]), json.loads(sys.argv[2])
    mailbox = await connect(os.environ["POD_IP"], 7443, key=KEYS.control)
    await mailbox.call("configure", sealKey=to_hex(KEYS.seal.private_bytes_raw()), directory=directory)
    print(json.dumps(await asyncio.gather(*(drive(mailbox, directory, sandbox) for sandbox in sandboxes))))


async def drive(mailbox: Link, directory: list[Any], sandbox: dict[str, str]) -> dict[str, Any]:
    ip, uid, task = sandbox["ip"], PodUid(sandbox["uid"]), TaskId(bytes.fromhex(sandbox["task"]))
    spec = decode_spec(base64.b64decode(sandbox["spec"]))
    terms = TaskTerms(task=task, owners=(CHAIN_KEY.address,), result_from=spec.result.sender, max_size=spec.result.max_size, domain=DOMAIN)
    await mailbox.call("forget-task", taskId=to_hex(task))  # an earlier test's
    await mailbox.call("announce-task", **terms.document())

    link = await connect(ip, 7443, key=KEYS.control, timeout=60)
    events = Events(link)
    listening = asyncio.create_task(events.listen())
    configuration = Configuration(
        task=task,
        index=ServerIndex(0),
        incarnation=1,
        pod_uid=uid,
        spec=spec,
        servers=(CHAIN_KEY.address,),
        directory=tuple(RelayEntry.from_json(entry) for entry in directory),
        mailbox=MailboxEntry(
            node=spec.result.mailbox, onion_key=KEYS.seal.public_key().public_bytes_raw(), host=os.environ["POD_IP"], port=9101
        ),
        stores=(),
        policy_hash=b"\x06" * 32,
        tier="T0",
        host_access_denied=True,
        confinement_required=True,
        agent_image="sha256:" + "c" * 64,
        program_image="sha256:" + "a" * 64,
        nonce=statement_nonce(task=task, pod_uid=uid, incarnation=1, server=CHAIN_KEY.address),
        domain=DOMAIN,
    )
    await link.call("configure", **configuration.document())
    answer = await link.call("statement")
    statement = parse_statement(answer["statement"])
    await link.call("offer", serverSignature=to_hex(countersign(statement, CHAIN_KEY)))
    offers = await events.until("offers")
    key = checksum_address(from_hex(offers["key"]))
    digest = sandbox_key_digest(DOMAIN, task, key=key, statements_hash=from_hex(offers["statementsHash"]))
    await link.call("acceptance", signature=to_hex(CHAIN_KEY.sign(digest)))
    await events.until("accepted")
    acceptances = (await mailbox.call("acceptances", taskId=to_hex(task)))["acceptances"]
    published = Published(
        key=key,
        statements=(statement.digest,),
        descriptors=descriptors_document([parse_acceptance(item) for item in acceptances]),
    )
    await link.call("published", **published.document())
    sealed = b""
    try:
        for name in ("started", "exited", "result", "delivered"):
            await events.until(name)
        sealed = await download(task)
    except Failed:
        pass
    await events.until("flushed")
    await link.call("release")
    zeroised = await link.call("zeroise")
    listening.cancel()
    said = {"order": events.order, "events": events.seen, "zeroised": zeroised, "statement": answer}
    return {**said, "sealed": base64.b64encode(sealed).decode()}


async def download(task: TaskId) -> bytes:
    reader, writer = await asyncio.open_connection(os.environ["POD_IP"], 9102)
    writer.write(json_frame({"get": "result", "taskId": to_hex(task)}, limit=4096))
    message = await read_json_frame(reader, limit=4096)
    sealed = await reader.readexactly(message["ok"]["size"])
    writer.close()
    return sealed


asyncio.run(main())
