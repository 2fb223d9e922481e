"""The relay owner's role: for each OnionRelay a pod, a stable address, and an entry of the directory on chain that tells the truth.

Level-triggered: each reconciliation applies the manifests, asks the running relay for its public keys over the control stream, takes the
registry one step at a time to where it should be (core.onion.registration), and hands the relay what it may dial and exit to. A relay's
keys die with its pod; the next pod is a new node and the old one is retired. When an OnionRelay is deleted it drains: its circuits end
by themselves, or its time is up; then its nodes are retired on chain, and only then the pod goes. Paper step 0 for onion routers, and
what step 5 stands on.
"""

import asyncio
import base64
import datetime
import logging
from collections.abc import Iterable, Sequence
from typing import Any

from veilpod.control.context import Context
from veilpod.control.directory import relay_directory
from veilpod.control.relay_link import RelayLink
from veilpod.control.role import Key
from veilpod.core.entities import ChainEvent, Node, NodeStatus
from veilpod.core.entities import Role as NodeRole
from veilpod.core.kinds import DEPLOYMENTS, ONION_RELAYS, PODS, SERVICES
from veilpod.core.onion import registration
from veilpod.core.onion.directory import exit_endpoints, spell_endpoint
from veilpod.core.onion.registration import Heartbeat, Move, Register, Retire, Rotate, Running, SetStatus, Step
from veilpod.core.onion.relay_status import Claim, status_of
from veilpod.core.task.manifest import to_bytes
from veilpod.errors import ChainUnavailable, PeerUnavailable, Refused
from veilpod.kube import relay_manifests
from veilpod.net.control_tls import control_certificate

log = logging.getLogger(__name__)
FINALIZER = "veilpod.dev/relay"
_STEPS = 12
_SHOWN_SECONDS = 0.5
_SOON, _LATER = 3.0, 60.0


async def create(context: Context) -> "RelayRole":
    """Make the role."""
    return RelayRole(context)


class RelayRole:
    """Implements control.role.Role."""

    name = "relay"
    kinds: Sequence[str] = (ONION_RELAYS.plural,)

    def __init__(self, context: Context) -> None:
        self._context = context
        self._links: dict[str, RelayLink] = {}
        self._names: set[str] = set()

    async def start(self) -> None: ...

    async def stop(self) -> None:
        for name in list(self._links):
            await self._drop(name)

    def interested(self, event: ChainEvent) -> Iterable[Key]:
        if event.contract == "NodeRegistry" and event.name.startswith("Node"):
            return [Key(kind=ONION_RELAYS.plural, name=name) for name in sorted(self._names)]
        return ()

    async def resync(self) -> Iterable[Key]:
        found = await self._context.cluster.list_all(ONION_RELAYS, namespace=self._context.config.namespace)
        self._names = {item["metadata"]["name"] for item in found}
        return [Key(kind=ONION_RELAYS.plural, name=name) for name in sorted(self._names)]

    async def reconcile(self, key: Key) -> float | None:
        relay = await self._context.cluster.get(ONION_RELAYS, key.name, namespace=self._context.config.namespace)
        if relay is None:
            await self._drop(key.name)
            self._names.discard(key.name)
            return None
        self._names.add(key.name)
        finalizers = relay["metadata"].get("finalizers", [])
        if "deletionTimestamp" in relay["metadata"]:
            return await self._remove(relay) if FINALIZER in finalizers else None
        if FINALIZER not in finalizers:
            relay = await self._set_finalizers(relay, [*finalizers, FINALIZER]) or relay
        return await self._serve(relay)

    # --- serving

    async def _serve(self, relay: dict[str, Any]) -> float:
        endpoint = await self._apply(relay)
        try:
            link = await self._link(relay)
            if link is None:
                await self._report(relay, ready=Claim(status="False", reason="PodPending", message="the relay's pod is not running yet"))
                return _SOON
            draining = bool(relay["spec"].get("draining", False))
            running = await link.running(endpoint=endpoint, draining=draining, now=self._context.clock())
            entry = await self._register(link, running)
            await self._inform(relay, link)
        except PeerUnavailable:
            await self._drop(relay["metadata"]["name"])
            silent = Claim(status="Unknown", reason="RelayUnavailable", message="the relay does not answer its operator")
            await self._report(relay, ready=silent)
            raise
        except ChainUnavailable:
            silent = Claim(status="Unknown", reason="ChainUnavailable", message="the chain did not answer")
            await self._report(relay, registered=silent)
            raise
        await self._report(relay, ready=_ready(running), registered=_registered(entry), entry=entry)
        return _LATER if entry is not None else _SOON

    async def _apply(self, relay: dict[str, Any]) -> str:
        """Apply the manifests. Returns the relay's endpoint."""
        config, namespace, port = self._context.config, relay["metadata"]["namespace"], _port(relay)
        image = config.images.get("relay")
        if not image:
            raise Refused("NoRelayImage", "set images.relay in the operator's configuration")
        deployment = relay_manifests.deployment(
            relay,
            release=config.release,
            image=image,
            port=port,
            bandwidth=to_bytes(relay["spec"].get("bandwidth", "10Mi")),
            drain=_drain_seconds(relay),
            operator_cert=base64.b64encode(control_certificate(self._context.node_keys.control)).decode(),
            log_level=config.log_level,
        )
        service = relay_manifests.service(relay, release=config.release, port=port)
        await self._context.cluster.apply(DEPLOYMENTS, deployment, namespace=namespace)
        applied = await self._context.cluster.apply(SERVICES, service, namespace=namespace)
        return spell_endpoint(applied["spec"]["clusterIP"], port)

    async def _link(self, relay: dict[str, Any]) -> RelayLink | None:
        """The control link to the relay's one running pod; None while there is none."""
        name = relay["metadata"]["name"]
        labels = relay_manifests.labels(release=self._context.config.release, relay=name)
        found = await self._context.cluster.list_all(PODS, namespace=relay["metadata"]["namespace"], labels=labels)
        live = [item for item in found if "deletionTimestamp" not in item["metadata"] and item.get("status", {}).get("phase") == "Running"]
        if len(live) != 1 or not live[0]["status"].get("podIP"):
            return None
        uid, known = live[0]["metadata"]["uid"], self._links.get(name)
        if known is not None and known.pod_uid == uid:
            return known
        await self._drop(name)
        try:
            link = await self._context.connect(live[0]["status"]["podIP"], relay_manifests.CONTROL_PORT)
        except Refused as error:
            raise PeerUnavailable(f"the relay refuses its operator: {error}") from error
        self._links[name] = RelayLink(link, pod_uid=uid, now=self._context.clock())
        return self._links[name]

    async def _register(self, link: RelayLink, running: Running) -> Node | None:
        """Take the registry to where it should be. Returns the relay's node once it is there."""
        reader, writer = self._context.reader, self._context.writer
        last: Step | None = None
        for _ in range(_STEPS):
            mine = registration.own_relays(await reader.directory(NodeRole.RELAY), writer.address)
            step = registration.next_step(mine, running, now=await reader.now())
            if step is None:
                return registration.entry_of(mine, running)
            if step == last:
                # Done, but the reader does not show it yet; doing it again would register twice.
                await asyncio.sleep(_SHOWN_SECONDS)
                continue
            await self._do(step, link, running)
            last = step
            log.info("relay.directory_changed", extra={"step": type(step).__name__})
        return None

    async def _do(self, step: Step, link: RelayLink, running: Running) -> None:
        writer = self._context.writer
        match step:
            case Retire(node):
                await writer.set_status(node, NodeStatus.RETIRED)
            case Register():
                await writer.register(
                    roles=NodeRole.RELAY,
                    capacity=0,
                    identity_key=running.identity_key,
                    onion_key=running.onion_key,
                    endpoint=running.endpoint,
                    proof=await self._prove(link, running, 1),
                )
            case Rotate(node, key_epoch):
                await writer.rotate_key(node, onion_key=running.onion_key, proof=await self._prove(link, running, key_epoch))
            case Move(node):
                await writer.set_endpoint(node, running.endpoint)
            case SetStatus(node, status):
                await writer.set_status(node, status)
            case Heartbeat(node):
                await writer.heartbeat(node)

    async def _prove(self, link: RelayLink, running: Running, key_epoch: int) -> bytes:
        chain, owner = self._context.config.chain, self._context.writer.address
        return await link.prove(running.onion_key, owner=owner, key_epoch=key_epoch, registry=chain.registry, chain_id=chain.chain_id)

    async def _inform(self, relay: dict[str, Any], link: RelayLink) -> None:
        everywhere = relay["spec"].get("exit", {}).get("allow", "Registered") == "Registered"
        services = await self._context.reader.directory(NodeRole.STORAGE | NodeRole.PROVIDER) if everywhere else ()
        await link.inform(await relay_directory(self._context), exit_endpoints(services))

    # --- the end

    async def _remove(self, relay: dict[str, Any]) -> float | None:
        """Retire the relay's nodes on chain once it is drained, then let the object go; its pod follows by its owner reference."""
        nodes = await self._own_nodes(relay)
        if await self._busy(relay):
            for node in nodes:
                if node.status is NodeStatus.ACTIVE:
                    await self._context.writer.set_status(node.id, NodeStatus.DRAINING)
            await self._report(relay, ready=_draining("it goes when those that are there have ended"))
            return _SOON
        for node in nodes:
            await self._context.writer.set_status(node.id, NodeStatus.RETIRED)
            log.info("relay.retired")
        await self._drop(relay["metadata"]["name"])
        await self._set_finalizers(relay, [name for name in relay["metadata"]["finalizers"] if name != FINALIZER])
        return None

    async def _busy(self, relay: dict[str, Any]) -> bool:
        """Whether circuits are left that still have time to end by themselves."""
        asked = datetime.datetime.fromisoformat(relay["metadata"]["deletionTimestamp"]).timestamp()
        if self._context.clock() - asked >= _drain_seconds(relay):
            return False
        try:
            link = await self._link(relay)
            return link is not None and await link.drain() > 0
        except PeerUnavailable:
            return False  # it is gone, and its circuits with it

    async def _own_nodes(self, relay: dict[str, Any]) -> list[Node]:
        """The nodes on chain that are this relay's: the recorded one, and any at its address."""
        metadata, endpoint = relay["metadata"], None
        nodes = registration.own_relays(await self._context.reader.directory(NodeRole.RELAY), self._context.writer.address)
        service = await self._context.cluster.get(SERVICES, relay_manifests.object_name(metadata["name"]), namespace=metadata["namespace"])
        if service is not None and service["spec"].get("clusterIP"):
            endpoint = spell_endpoint(service["spec"]["clusterIP"], _port(relay))
        recorded = relay.get("status", {}).get("nodeId")
        return [node for node in nodes if node.id == recorded or node.endpoint == endpoint]

    async def _set_finalizers(self, relay: dict[str, Any], names: list[str]) -> dict[str, Any] | None:
        metadata = relay["metadata"]
        return await self._context.cluster.set_finalizers(
            ONION_RELAYS,
            metadata["name"],
            names,
            resource_version=metadata["resourceVersion"],
            uid=metadata["uid"],
            namespace=metadata["namespace"],
        )

    async def _drop(self, name: str) -> None:
        if (link := self._links.pop(name, None)) is not None:
            await link.close()

    async def _report(
        self, relay: dict[str, Any], *, ready: Claim | None = None, registered: Claim | None = None, entry: Node | None = None
    ) -> None:
        """Write the status if it differs."""
        old, metadata = relay.get("status", {}), relay["metadata"]
        status = status_of(
            old,
            {kind: claim for kind, claim in (("Ready", ready), ("Registered", registered)) if claim is not None},
            now=self._context.clock(),
            generation=metadata.get("generation", 0),
            node_id=entry.id if entry else old.get("nodeId"),
            key_epoch=entry.key_epoch if entry else old.get("keyEpoch"),
        )
        if status != old:
            await self._context.cluster.patch_status(ONION_RELAYS, metadata["name"], status, namespace=metadata["namespace"])


def _port(relay: dict[str, Any]) -> int:
    return int(relay["spec"].get("port", 9001))


def _draining(what_next: str) -> Claim:
    return Claim(status="False", reason="Draining", message=f"no new circuits are taken; {what_next}")


def _drain_seconds(relay: dict[str, Any]) -> int:
    return int(relay["spec"].get("drainSeconds", 60))


def _ready(running: Running) -> Claim:
    if running.draining:
        return _draining("set draining to false to serve again")
    return Claim(status="True", reason="Serving")


def _registered(entry: Node | None) -> Claim:
    if entry is None:
        return Claim(status="False", reason="Registering", message="the directory on chain does not say yet what it should")
    if entry.status is NodeStatus.SUSPENDED:
        return Claim(status="False", reason="Suspended", message="the registry's guardian suspended this relay")
    return Claim(status="True", reason="Listed")
