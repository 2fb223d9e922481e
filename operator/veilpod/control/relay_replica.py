"""One replica of an OnionRelay: a relay of its own, with keys, an address, and an entry of the directory on chain.

Level-triggered, one look at a time: `serve` takes it to where it should be, `leave` lets its circuits end and takes it away. Both return
what was seen, for the status. The next pod is the same node if the owner keeps its identity key in a Secret, which is mounted there and
never read here; else it is a new node and the old one is retired. Paper step 0 for onion routers, and what step 5 stands on.
"""

import asyncio
import base64
import dataclasses
import logging
from typing import Any

from veilpod.control.context import Context
from veilpod.control.directory import relay_directory
from veilpod.control.relay_identities import Identities, IdentityRefused, without_identity
from veilpod.control.relay_link import RelayLink
from veilpod.core.endpoint import spell_endpoint
from veilpod.core.entities import Node, NodeStatus
from veilpod.core.entities import Role as NodeRole
from veilpod.core.kinds import DEPLOYMENTS, PODS, SERVICES, Kind
from veilpod.core.onion import registration, relay_identity
from veilpod.core.onion.directory import claimed_capacity, exit_endpoints
from veilpod.core.onion.registration import Claim, Heartbeat, Move, Register, Retire, Rotate, Running, SetStatus, Step
from veilpod.core.onion.relay_status import Replica
from veilpod.core.task.manifest import to_bytes
from veilpod.errors import ChainUnavailable, PeerUnavailable, Refused, VeilpodError
from veilpod.kube import relay_manifests
from veilpod.net.control_tls import control_certificate

log = logging.getLogger(__name__)
_STEPS = 12
_SHOWN_SECONDS = 0.5

Seen = tuple[Replica | None, VeilpodError | None]  # None is gone; with what went wrong, if something did


class RelayReplica:
    """The replica with one ordinal. It keeps the control link to its pod between looks."""

    def __init__(self, context: Context, ordinal: int, identities: Identities) -> None:
        self._context, self._ordinal, self._identities = context, ordinal, identities
        self._link: RelayLink | None = None

    async def serve(self, relay: dict[str, Any], was: Replica) -> Seen:
        """Take one look and bring everything a step further. An error is returned, not raised: other replicas go on."""
        was = dataclasses.replace(was, leaving_since=None)
        try:
            bandwidth, burst = bounds(relay)
            endpoint = await self._apply(relay)
            link = await self._dial(relay)
            if link is None:
                return dataclasses.replace(was, ready="PodPending"), None
            await link.carry(bandwidth=bandwidth, burst=burst)
            draining, capacity = bool(relay["spec"].get("draining", False)), claimed_capacity(bandwidth)
            running = await link.running(endpoint=endpoint, capacity=capacity, draining=draining, now=self._context.clock())
            if not self._identities.claim(running.identity_key, self):
                return without_identity(was, relay_identity.SHARED), None
            entry = await self._register(link, running)
            await self._inform(relay, link)
        except PeerUnavailable as error:
            await self.drop()
            return dataclasses.replace(was, ready="RelayUnavailable"), error
        except ChainUnavailable as error:
            return dataclasses.replace(was, registered="ChainUnavailable"), error
        except IdentityRefused as error:
            return without_identity(was, error.reason), None
        except VeilpodError as error:
            return was, error
        seen = dataclasses.replace(was, ready="Draining" if draining else "Serving", registered=_registered(entry))
        if entry is not None:
            seen = dataclasses.replace(seen, node_id=entry.id, key_epoch=entry.key_epoch)
        return seen, None

    async def leave(self, relay: dict[str, Any], was: Replica) -> Seen:
        """Take no new circuits, tell the directory, and go when those that are there have ended or `drainSeconds` are over.

        Its nodes are retired on chain before its objects go; the Service is the last of them, so that a look after a crash finds it.
        """
        now = self._context.clock()
        since = int(now) if was.leaving_since is None else was.leaving_since
        leaving = dataclasses.replace(was, ready="Draining", leaving_since=since)
        try:
            nodes = await self._own_nodes(relay, was)
            if now - since < drain_seconds(relay) and await self._busy(relay):
                for node in nodes:
                    if node.status is NodeStatus.ACTIVE:
                        await self._context.writer.set_status(node.id, NodeStatus.DRAINING)
                return leaving, None
            for node in nodes:
                await self._context.writer.set_status(node.id, NodeStatus.RETIRED)
                log.info("relay.retired")
            await self.drop()
            self._identities.release(self)
            await self._delete(DEPLOYMENTS, relay)
            await self._delete(SERVICES, relay)
        except VeilpodError as error:
            return leaving, error
        return None, None

    async def drop(self) -> None:
        """End the control link."""
        link, self._link = self._link, None
        if link is not None:
            await link.close()

    # --- the pod

    async def _apply(self, relay: dict[str, Any]) -> str:
        """Apply the manifests, the Service first (see `leave`). Returns the relay's endpoint."""
        config, namespace, spec = self._context.config, relay["metadata"]["namespace"], relay["spec"]
        image, port = config.images.get("relay"), int(spec.get("port", 9001))
        if not image:
            raise Refused("NoRelayImage", "set images.relay in the operator's configuration")
        deployment = relay_manifests.deployment(
            relay,
            self._ordinal,
            release=config.release,
            image=image,
            port=port,
            drain=drain_seconds(relay),
            operator_cert=base64.b64encode(control_certificate(self._context.node_keys.control)).decode(),
            log_level=config.log_level,
            identity_secret=spec.get("identitySecretName"),
        )
        service = relay_manifests.service(relay, self._ordinal, release=config.release, port=port)
        applied = await self._context.cluster.apply(SERVICES, service, namespace=namespace)
        await self._context.cluster.apply(DEPLOYMENTS, deployment, namespace=namespace)
        return spell_endpoint(applied["spec"]["clusterIP"], port)

    async def _dial(self, relay: dict[str, Any]) -> RelayLink | None:
        """The control link to the replica's one running pod; None while there is none. Raises IdentityRefused when it has no identity."""
        metadata = relay["metadata"]
        labels = relay_manifests.labels(release=self._context.config.release, relay=metadata["name"], ordinal=self._ordinal)
        found = await self._context.cluster.list_all(PODS, namespace=metadata["namespace"], labels=labels)
        live = [item for item in found if "deletionTimestamp" not in item["metadata"] and item.get("status", {}).get("phase") == "Running"]
        if len(live) != 1 or not live[0]["status"].get("podIP"):
            return None
        uid = live[0]["metadata"]["uid"]
        if self._link is not None and self._link.pod_uid == uid:
            return self._link
        await self.drop()
        refused = relay_identity.refusal(live[0])
        if refused is not None and not relay_identity.runs(live[0]):
            raise IdentityRefused(refused)
        try:
            link = await self._context.connect(live[0]["status"]["podIP"], relay_manifests.CONTROL_PORT)
        except PeerUnavailable as error:
            if refused is not None:
                raise IdentityRefused(refused) from error  # it has been started again, and ended again before we knew
            raise
        except Refused as error:
            raise PeerUnavailable(f"the relay refuses its operator: {error}") from error
        self._link = RelayLink(link, pod_uid=uid, now=self._context.clock())
        return self._link

    async def _busy(self, relay: dict[str, Any]) -> bool:
        """Tell the relay to drain. Returns whether circuits are left."""
        try:
            link = await self._dial(relay)
            return link is not None and await link.drain() > 0
        except (PeerUnavailable, IdentityRefused):
            return False  # it is gone, and its circuits with it

    async def _inform(self, relay: dict[str, Any], link: RelayLink) -> None:
        everywhere = relay["spec"].get("exit", {}).get("allow", "Registered") == "Registered"
        services = await self._context.reader.directory(NodeRole.STORAGE | NodeRole.PROVIDER) if everywhere else ()
        await link.inform(await relay_directory(self._context), exit_endpoints(services))

    # --- the registry

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
                    capacity=running.capacity,
                    identity_key=running.identity_key,
                    onion_key=running.onion_key,
                    endpoint=running.endpoint,
                    proof=await self._prove(link, running, 1),
                )
            case Rotate(node, key_epoch):
                await writer.rotate_key(node, onion_key=running.onion_key, proof=await self._prove(link, running, key_epoch))
            case Move(node):
                await writer.set_endpoint(node, running.endpoint)
            case Claim(node):
                await writer.set_capacity(node, running.capacity)
            case SetStatus(node, status):
                await writer.set_status(node, status)
            case Heartbeat(node):
                await writer.heartbeat(node)

    async def _prove(self, link: RelayLink, running: Running, key_epoch: int) -> bytes:
        chain, owner = self._context.config.chain, self._context.writer.address
        return await link.prove(running.onion_key, owner=owner, key_epoch=key_epoch, registry=chain.registry, chain_id=chain.chain_id)

    # --- the end

    async def _own_nodes(self, relay: dict[str, Any], was: Replica) -> list[Node]:
        """The nodes on chain that are this replica's: the recorded one, and any at its address."""
        nodes, endpoint = registration.own_relays(await self._context.reader.directory(NodeRole.RELAY), self._context.writer.address), None
        service = await self._owned(SERVICES, relay)
        if service is not None and service["spec"].get("clusterIP"):
            endpoint = spell_endpoint(service["spec"]["clusterIP"], service["spec"]["ports"][0]["port"])
        return [node for node in nodes if node.id == was.node_id or node.endpoint == endpoint]

    async def _owned(self, kind: Kind, relay: dict[str, Any]) -> dict[str, Any] | None:
        """The replica's object of a kind, if it is this OnionRelay's."""
        metadata = relay["metadata"]
        name = relay_manifests.object_name(metadata["name"], self._ordinal)
        found = await self._context.cluster.get(kind, name, namespace=metadata["namespace"])
        return found if found is not None and owned_by(found, relay) else None

    async def _delete(self, kind: Kind, relay: dict[str, Any]) -> None:
        if (found := await self._owned(kind, relay)) is not None:
            metadata = found["metadata"]
            await self._context.cluster.delete(kind, metadata["name"], uid=metadata["uid"], namespace=metadata["namespace"])


def owned_by(found: dict[str, Any], relay: dict[str, Any]) -> bool:
    """Whether an object is of this OnionRelay's, not of an earlier one of its name."""
    return any(owner["uid"] == relay["metadata"]["uid"] for owner in found["metadata"].get("ownerReferences", ()))


def drain_seconds(relay: dict[str, Any]) -> int:
    """How long circuits may go on."""
    return int(relay["spec"].get("drainSeconds", 60))


def bounds(relay: dict[str, Any]) -> tuple[int, int]:
    """How many bytes a second a replica carries at most, and how many at once after a pause. Raises InvalidInput."""
    bandwidth = to_bytes(relay["spec"].get("bandwidth", "10Mi"))
    return bandwidth, to_bytes(relay["spec"].get("burst", bandwidth))


def _registered(entry: Node | None) -> str:
    if entry is None:
        return "Registering"
    return "Suspended" if entry.status is NodeStatus.SUSPENDED else "Listed"
