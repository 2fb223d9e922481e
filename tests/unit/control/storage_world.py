"""A storage server's release: the real role, the real store and its real link, over a chain and a cluster in memory."""

import asyncio
import contextlib
import hashlib
import pathlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from tests.support import onion_network, stores
from tests.support.worlds import MemoryChain, MemoryCluster

from veilpod.control import config
from veilpod.control.context import Context
from veilpod.control.events import EventRecorder
from veilpod.control.metrics import Metrics
from veilpod.control.role import Key
from veilpod.control.roles.storage import StorageRole
from veilpod.control.tasks import Tasks
from veilpod.core import dataset
from veilpod.core.keys import SigningKey, custody_key, node_keys
from veilpod.core.kinds import DATASETS, PODS, SERVICES
from veilpod.errors import Transient
from veilpod.net.control import connect
from veilpod.net.framing import json_frame, read_json_frame
from veilpod.net.onion import OnionProxy
from veilpod.ports import ControlLink
from veilpod.store.service import Service

NAMESPACE = "hospital"
KEY = SigningKey(secret=b"\x31" * 32)
DATA_KEY = b"k" * 32
PLAINTEXT = b"id,size\n1,2\n" * 120_000


def sealed(*, custodian: SigningKey = KEY, name: str = "north") -> bytes:
    header = dataset.make_header(name=name, custodian=custody_key(custodian).public_bytes, data_key=DATA_KEY, prefix=b"p" * 8)
    return b"".join(dataset.seal_stream([PLAINTEXT], header=header, data_key=DATA_KEY))


class World:
    """What a test looks at."""

    def __init__(self, service: Service, tasks: Tasks) -> None:
        self.service = service
        self.cluster = MemoryCluster(NAMESPACE)
        self.chain = MemoryChain(KEY.address)
        self.queue: asyncio.Queue[Key] = asyncio.Queue()
        labels = {"app": "store"}
        self.cluster.put(SERVICES, "store", spec={"clusterIP": "198.19.0.7", "selector": labels})
        self.cluster.put(PODS, "store-0", metadata={"labels": labels}, status={"phase": "Running", "podIP": "127.0.0.1"})
        self.context = Context(
            config=config.parse(
                {
                    "namespace": NAMESPACE,
                    "roles": ["storage"],
                    "chain": {
                        "rpcUrl": "",
                        "chainId": onion_network.CHAIN_ID,
                        "contracts": dict.fromkeys(("registry", "scheduler", "channels"), onion_network.REGISTRY),
                    },
                    "storage": {"storeService": "store"},
                    "stateDir": "/nowhere",
                    "keyFile": "/nowhere",
                }
            ),
            cluster=self.cluster,  # type: ignore[arg-type]
            reader=self.chain,  # type: ignore[arg-type]
            writer=self.chain,  # type: ignore[arg-type]
            key=KEY,
            node_keys=node_keys(KEY),
            clock=time.time,
            connect=self._connect,
            events=EventRecorder(self.cluster, instance="test", clock=time.time),  # type: ignore[arg-type]
            metrics=Metrics(),
            tasks=tasks,
            enqueue=self.queue.put_nowait,
        )
        self.role = StorageRole(self.context)

    def apply(self, name: str = "north", *, data: bytes, **spec: Any) -> bytes:
        """`kubectl apply` of a Dataset. The digest."""
        digest = hashlib.sha256(data).digest()
        body = {"dataset": name, "digest": f"sha256:{digest.hex()}", "size": len(data), "custody": "Store", **spec}
        self.cluster.put(DATASETS, name, spec=body)
        return digest

    async def upload(self, data: bytes) -> dict[str, Any]:
        """`veilpod dataset put`."""
        request = {"put": "dataset", "digest": "0x" + hashlib.sha256(data).hexdigest(), "size": len(data)}
        async with stores.stream_to(self.service.upload.port) as stream:
            await stream.write(json_frame(request, limit=4096))
            answer = await read_json_frame(stream, limit=4096)
            if answer.get("ok") == {"have": False}:
                await stream.write(data)
                answer = await read_json_frame(stream, limit=4096)
        return answer

    async def reconcile(self, name: str = "north") -> dict[str, Any]:
        """One pass over a Dataset; its conditions as {type: (status, reason)}."""
        await self.role.reconcile(Key(kind=DATASETS.plural, name=name))
        return self.conditions(name)

    def conditions(self, name: str = "north") -> dict[str, Any]:
        status = self.cluster.objects[DATASETS.plural, name].get("status", {})
        return {item["type"]: (item["status"], item["reason"]) for item in status.get("conditions", [])}

    async def until(self, what: Callable[[], Awaitable[bool]]) -> None:
        """Work the queue, as the operator does, until something holds."""
        async with asyncio.timeout(30):
            while not await what():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.2):
                        key = await self.queue.get()
                        with contextlib.suppress(Transient):
                            await self.role.reconcile(key)

    async def _connect(self, host: str, port: int, *, pinned_tls_key: bytes | None = None) -> ControlLink:
        assert (host, port) == ("127.0.0.1", 7443)
        return await connect(host, self.service.control.port, key=self.context.node_keys.control)


@contextlib.asynccontextmanager
async def world(data: pathlib.Path, *, started: bool = True) -> AsyncIterator[World]:
    async with stores.running(data, onion=OnionProxy) as service, Tasks() as tasks:
        here = World(service, tasks)
        if started:
            await here.role.start()
            await here.until(_connected(here))
        yield here


def _connected(here: World) -> Callable[[], Awaitable[bool]]:
    async def connected() -> bool:
        return here.role._link.connected

    return connected
