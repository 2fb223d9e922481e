"""Runs inside a pod of the benched cluster and plays every operator, the chain and a client of the network.

`python3 -c THIS`: it is carried into a relay's image as text, so it imports nothing but what a relay has. It takes commands from standard
input, one JSON object a line ({"do": name, arguments}), and answers each with a line ({"ok": ...} or {"error": ...}).
"""

import asyncio
import base64
import hashlib
import json
import os
import socket
import sys
import time
from typing import Any

from veilpod.core import dataset
from veilpod.core.agent_messages import Configuration, MailboxEntry, NodeKey, Published
from veilpod.core.canonical import from_hex, to_hex
from veilpod.core.grant import make_grant
from veilpod.core.ids import NodeId, PodUid, ResourceId, ServerIndex, TaskId
from veilpod.core.keys import SigningKey, checksum_address, node_keys
from veilpod.core.meeting import ForStore, descriptors_document, open_descriptor, parse_acceptance, parse_descriptors
from veilpod.core.onion.directory import RelayEntry
from veilpod.core.sealing import HybridPrivateKey
from veilpod.core.statement import countersign, parse_statement, statement_nonce
from veilpod.core.store_messages import DeliveryObject, DeliveryOrder, SandboxRef, TaskTerms, grant_document
from veilpod.core.task.spec import Input, TaskSpec, decode_spec
from veilpod.core.typed_data import Domain, sandbox_key_digest
from veilpod.errors import VeilpodError
from veilpod.net.control import Link, connect
from veilpod.net.framing import json_frame, read_json_frame
from veilpod.net.onion import OnionProxy

PIECE = 1 << 20
CONTROL_PORT, RELAY_PORT, STORE_PORT, UPLOAD_PORT, SOURCE_PORT = 7443, 9001, 9101, 9102, 9000
SERVER, OWNER = SigningKey(secret=b"\x31" * 32), SigningKey(secret=b"\x21" * 32)
KEYS = node_keys(SERVER)  # one operator stands for all
SEAL_PUBLIC = KEYS.seal.public_key().public_bytes_raw()
MAILBOX, STORE = NodeId(50), NodeId(51)  # one pod is both
DATASET = "bulk"
RESOURCE = ResourceId(hashlib.sha256(DATASET.encode()).digest())
REGISTRY = checksum_address(b"\x0e" * 20)
DOMAIN = Domain(chain_id=31337, contract=checksum_address(b"\x0c" * 20))
_EVENT_SECONDS, _COMMAND_SECONDS = 120.0, 300.0


class Said:
    """What a process says on its control stream. Each event is waited for in its order."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._events: asyncio.Queue[tuple[str, dict[str, Any]]] = asyncio.Queue()
        self._listening = asyncio.create_task(self._listen())

    async def until(self, wanted: str) -> dict[str, Any]:
        """Wait for an event, past others. Raises RuntimeError when a failure comes instead, TimeoutError."""
        async with asyncio.timeout(_EVENT_SECONDS):
            while True:
                name, data = await self._events.get()
                if name == wanted:
                    return data
                if name in ("failed", "delivery-failed"):
                    raise RuntimeError(f"{name} instead of {wanted}: {data}")

    async def close(self) -> None:
        self._listening.cancel()
        await self._link.close()

    async def _listen(self) -> None:
        async for sequence, name, data in self._link.events():
            self._events.put_nowait((name, data))
            await self._link.acknowledge(sequence)


class Commands:
    """Each public method is one."""

    store: Link
    store_said: Said
    agent_said: Said

    def __init__(self) -> None:
        self._directory: list[RelayEntry] = []
        self._key = os.urandom(32)

    async def relays(self, hosts: list[str], exits: list[str]) -> dict[str, Any]:
        """Register these relays with each other, and the endpoints they exit to."""
        links = [await connect(host, CONTROL_PORT, key=KEYS.control, timeout=60) for host in hosts]
        self._directory = [await self._entry(number, host, link) for number, (host, link) in enumerate(zip(hosts, links, strict=True), 1)]
        for link in links:
            await link.call("directory", directory=self._documents())
            await link.call("endpoints", endpoints=exits)
            await link.close()
        return {"relays": len(hosts)}

    async def fill(self, host: str, size: int) -> dict[str, Any]:
        """Configure the store and put a sealed object of so many plaintext bytes into it."""
        self._store_host = host
        self.store = await connect(host, CONTROL_PORT, key=KEYS.control, timeout=60)
        self.store_said = Said(self.store)
        await self.store.call("configure", sealKey=to_hex(KEYS.seal.private_bytes_raw()), directory=self._documents())
        custodian = HybridPrivateKey.from_bytes(b"\x08" * 96).public_bytes
        header = dataset.make_header(name=DATASET, custodian=custodian, data_key=self._key, prefix=os.urandom(8))
        sealed = b"".join(dataset.seal_stream((os.urandom(PIECE) for _ in range(size // PIECE)), header=header, data_key=self._key))
        digest = hashlib.sha256(sealed).digest()
        await self.store.call("announce-dataset", digest=to_hex(digest), size=len(sealed))

        reader, writer = await asyncio.open_connection(host, UPLOAD_PORT)
        writer.write(json_frame({"put": "dataset", "digest": to_hex(digest), "size": len(sealed)}, limit=4096))
        await read_json_frame(reader, limit=4096)
        writer.write(sealed)
        answer = await read_json_frame(reader, limit=4096)
        writer.close()
        if answer != {"ok": {"stored": True}}:
            raise RuntimeError(f"the store said {answer}")
        return {"digest": to_hex(digest), "size": len(sealed)}

    async def plain(self, host: str, size: int) -> dict[str, Any]:
        """Take so many bytes over one TCP connection."""

        def take() -> float:
            room = memoryview(bytearray(PIECE))
            with socket.create_connection((host, SOURCE_PORT), 10) as connection:
                begin, left = time.perf_counter(), size
                connection.sendall(size.to_bytes(8, "big"))
                while left and (taken := connection.recv_into(room)):
                    left -= taken
                if left:
                    raise EOFError("the source ended early")
                return time.perf_counter() - begin

        return {"seconds": await asyncio.to_thread(take)}

    async def circuit(self, host: str, size: int) -> dict[str, Any]:
        """Take so many bytes through three relays, of which the last exits to the source."""
        onion = OnionProxy(directory=lambda: self._directory, hops=3, in_cluster=False)
        try:
            stream = await onion.open(host, SOURCE_PORT)
            begin, left = time.perf_counter(), size
            await stream.write(size.to_bytes(8, "big"))
            while left and (piece := await stream.read(PIECE)):
                left -= len(piece)
            if left:
                raise EOFError("the source ended early")
            return {"seconds": time.perf_counter() - begin}
        finally:
            await onion.close()

    async def prepare(self, task: str, ip: str, uid: str, spec: str) -> dict[str, Any]:
        """Bring a fresh sandbox to where it waits for its input: what operators, mailbox and chain do."""
        self._task, self._spec = TaskId(from_hex(task, 32)), decode_spec(base64.b64decode(spec))
        terms = TaskTerms(
            task=self._task, owners=(SERVER.address,), result_from=ServerIndex(0), max_size=self._spec.result.max_size, domain=DOMAIN
        )
        await self.store.call("announce-task", **terms.document())
        agent = await connect(ip, CONTROL_PORT, key=KEYS.control, timeout=60)
        said = self.agent_said = Said(agent)
        await agent.call("configure", **self._configuration(self._task, self._spec, PodUid(uid)).document())
        await said.until("ready")
        statement = parse_statement((await agent.call("statement"))["statement"])
        await agent.call("offer", serverSignature=to_hex(countersign(statement, SERVER)))
        offers = await said.until("offers")
        key = checksum_address(from_hex(offers["key"]))
        digest = sandbox_key_digest(DOMAIN, self._task, key=key, statements_hash=from_hex(offers["statementsHash"]))
        await agent.call("acceptance", signature=to_hex(SERVER.sign(digest)))
        await said.until("accepted")
        answer = await self.store.call("acceptances", taskId=task)
        published = Published(
            key=key, statements=(statement.digest,), descriptors=descriptors_document([parse_acceptance(a) for a in answer["acceptances"]])
        )
        await agent.call("published", **published.document())
        self._statement, self._published = statement, published
        return {}

    async def deliver(self) -> dict[str, Any]:
        """Order the delivery and grant it. The clock stops when the agent says that the plaintext is verified and in its place."""
        (item,) = self._spec.inputs
        sandbox = SandboxRef(task=self._task, index=ServerIndex(0))
        begin = time.perf_counter()
        await self.store.call("deliver", **self._order(sandbox, item).document())
        await self.store_said.until("grant-wanted")
        grant = make_grant(self._key, statement=self._statement, resource=item.resource, digest=item.digest, signer=OWNER)
        await self.store.call("grant", **grant_document(sandbox, item.resource, grant))
        met = time.perf_counter()
        await self.agent_said.until("inputs")
        received = time.perf_counter()
        if (await self.agent_said.until("inputs"))["verified"] != 1:
            raise RuntimeError("the input was not verified")
        verified = time.perf_counter()
        await self.store_said.until("delivered")
        return {"seconds": verified - begin, "meeting": met - begin, "opening": verified - received}

    async def forget(self) -> dict[str, Any]:
        """Let the sandbox go; its pod is deleted by who made it."""
        await self.agent_said.close()
        await self.store.call("forget-task", taskId=to_hex(self._task))
        return {}

    # --- values

    async def _entry(self, number: int, host: str, link: Link) -> RelayEntry:
        owner = checksum_address(bytes([number]) * 20)
        identity = await link.call("identity")
        proved = await link.call("prove", owner=owner.lower(), keyEpoch=1, registry=REGISTRY.lower(), chainId=DOMAIN.chain_id)
        return RelayEntry(
            node_id=NodeId(number), owner=owner, identity_key=from_hex(identity["identityKey"]), onion_key=from_hex(proved["onionKey"]),
            key_epoch=1, host=host, port=RELAY_PORT, proof=from_hex(proved["proof"]), updated_at=int(time.time()),
            registry=REGISTRY, chain_id=DOMAIN.chain_id,
        )  # fmt: skip

    def _documents(self) -> list[dict[str, Any]]:
        return [entry.to_json() for entry in self._directory]

    def _configuration(self, task: TaskId, spec: TaskSpec, uid: PodUid) -> Configuration:
        return Configuration(
            task=task,
            index=ServerIndex(0),
            incarnation=1,
            pod_uid=uid,
            spec=spec,
            servers=(SERVER.address,),
            directory=tuple(self._directory),
            mailbox=MailboxEntry(node=MAILBOX, onion_key=SEAL_PUBLIC, host=self._store_host, port=STORE_PORT),
            stores=(NodeKey(node=STORE, owner=OWNER.address, onion_key=SEAL_PUBLIC),),
            confinement_required=True,
            policy_hash=b"\x06" * 32,
            tier="T0",
            host_access_denied=True,
            agent_image="sha256:" + "c" * 64,
            program_image="sha256:" + "a" * 64,
            nonce=statement_nonce(task=task, pod_uid=uid, incarnation=1, server=SERVER.address),
            domain=DOMAIN,
        )

    def _order(self, sandbox: SandboxRef, item: Input) -> DeliveryOrder:
        sealed = next(found for found in parse_descriptors(self._published.descriptors) if found.to == ForStore(node=STORE))
        descriptor = open_descriptor(sealed, KEYS.seal, task=sandbox.task)
        return DeliveryOrder(
            sandbox=sandbox,
            objects=(DeliveryObject(resource=item.resource, dataset=item.dataset, digest=item.digest, size=item.size),),
            statement=self._statement.digest,
            relay=descriptor.relay,
            cookie=descriptor.cookie,
            service_key=descriptor.service_key,
            constant_rate=0,
            hops=self._spec.hops,
            in_cluster=False,
            seconds=int(_EVENT_SECONDS),
        )


async def main() -> None:
    """Take commands until there are no more."""
    commands = Commands()
    while line := await asyncio.to_thread(sys.stdin.readline):
        command = json.loads(line)
        try:
            async with asyncio.timeout(_COMMAND_SECONDS):
                answer = {"ok": await getattr(commands, command.pop("do"))(**command)}
        except (VeilpodError, RuntimeError, OSError, EOFError, TimeoutError) as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
