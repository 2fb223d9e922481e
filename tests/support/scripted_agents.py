"""Agents that keep the protocol with real signatures and no sandbox: what an operator sees of them, and a kubelet around them.

Peer traffic is a few attested receipts; operators' messages are carried from agent to agent; results and notes go to a real mailbox.
"""

import asyncio
import contextlib
import hashlib
import os
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from tests.support import ceremonies
from tests.support.fake_cluster import FakeCluster

from veilpod.agent import ceremony
from veilpod.agent.meeting import collected
from veilpod.core.agent_messages import (
    Configuration,
    Exit,
    Failed,
    Flushed,
    SealedResultInfo,
    make_zeroised,
    parse_configuration,
    parse_published,
)
from veilpod.core.canonical import from_hex, to_hex
from veilpod.core.ceremony.words import Ceremony, parse_post
from veilpod.core.channel.state import order
from veilpod.core.ids import Address, PodUid, ServerIndex, TaskId
from veilpod.core.keys import SigningKey
from veilpod.core.kinds import PODS, Kind
from veilpod.core.meeting import Acceptance, Offer, ResultPiece, make_note, parse_offer, sign_author
from veilpod.core.receipt import Transcript
from veilpod.core.result import result_hash_of_digest
from veilpod.core.sealing import HYBRID_PUBLIC_BYTES
from veilpod.core.statement import Statement, sign_statement
from veilpod.core.task.pods import image_digest
from veilpod.core.typed_data import result_digest
from veilpod.errors import PeerFault, PeerUnavailable, Refused
from veilpod.store.mailbox import Mailbox

MIB = 1 << 20


class Network:
    """What agents and their operators share in a test: the mailbox, who is where, and when programs may end."""

    def __init__(self, mailbox: Mailbox) -> None:
        self.mailbox = mailbox
        self.agents: dict[tuple[TaskId, int], ScriptedAgent] = {}
        self.by_host: dict[str, ScriptedAgent] = {}
        self.may_exit = asyncio.Event()
        self.may_exit.set()
        self.may_end = asyncio.Event()  # between the last transfer and the end of a program
        self.may_end.set()
        self.may_connect = True  # whether operators reach agents
        self.lose_channel_messages = False
        self.liar: int | None = None  # server whose sandbox breaks the key ceremony
        self.fail: dict[int, str] = {}  # server index -> failure code, instead of computing

    async def connect(self, host: str, port: int, *, pinned_tls_key: bytes | None = None) -> "ScriptedLink":
        """A context.Connector."""
        agent = self.by_host.get(host)
        if agent is None or agent.dead or not self.may_connect:
            await asyncio.sleep(0.05)
            raise PeerUnavailable("nobody answers")
        if pinned_tls_key not in (None, agent.tls_key):
            raise Refused("ControlKeyChanged", "another agent")
        return ScriptedLink(agent)


class ScriptedAgent:
    """One sandbox's agent: born with its pod, knows only what the protocol tells it."""

    def __init__(self, network: Network, uid: PodUid, release: Callable[[], None]) -> None:
        self._network, self._uid, self._release = network, uid, release
        self.tls_key, self.signing = os.urandom(32), SigningKey(secret=os.urandom(32))
        self.dead = False
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.changed = asyncio.Event()
        self.log: list[str] = []
        self._configuration: Configuration | None = None
        self.statement: Statement | None = None
        self._offers: list[Offer] = []
        self.group: SigningKey | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended: dict[int, asyncio.Event] = {}

    async def call(self, command: str, args: dict[str, Any]) -> dict[str, Any]:
        if self.dead:
            raise PeerUnavailable("the agent does not answer")
        self.log.append(command)
        return await getattr(self, f"_on_{command}")(args) or {}

    def kill(self) -> None:
        self.dead = True
        for task in self._tasks:
            task.cancel()

    def emit(self, event: str, data: dict[str, Any]) -> None:
        self.events.append((event, data))
        self.changed.set()

    # -- commands

    async def _on_configure(self, args: dict[str, Any]) -> None:
        configuration = parse_configuration(args)
        if self._configuration is not None:
            return
        self._configuration = configuration
        self._network.agents[configuration.task, configuration.index] = self
        self.statement = Statement(
            task=configuration.task,
            index=configuration.index,
            incarnation=configuration.incarnation,
            pod_uid=self._uid,
            agent_image=configuration.agent_image,
            program_image=configuration.program_image,
            encryption_key=bytes(HYBRID_PUBLIC_BYTES),
            onion_key=bytes(32),
            signing_key=self.signing.address,
            tls_key=self.tls_key,
            policy_hash=configuration.policy_hash,
            tier=configuration.tier,
            host_access_denied=configuration.host_access_denied,
            program_confined=True,
            allowed=1,
            blocked=1,
            nonce=configuration.nonce,
        )
        self.emit("netguard", {"allowed": 1, "blocked": 1})
        self.emit("ready", {})

    async def _on_statement(self, args: dict[str, Any]) -> dict[str, Any]:
        assert self.statement
        return {"statement": self.statement.document(), "signature": to_hex(sign_statement(self.statement, self.signing))}

    async def _on_offer(self, args: dict[str, Any]) -> None:
        if "offer" not in self.log[:-1]:  # an operator that died repeats it; who met twice would break the ceremony
            self._later(self._meet(from_hex(args["serverSignature"], 65)))

    async def _meet(self, signature: bytes) -> None:
        assert self.statement
        configuration, statement = self._told, self.statement
        offer = Offer(statement=statement, signature=sign_statement(statement, self.signing), server_signature=signature)
        while not self._offers:
            with contextlib.suppress(Refused):  # not announced yet
                await self._network.mailbox.put_offer(offer.document())
                found = [parse_offer(_document(item)) for item in self._network.mailbox.offers(configuration.task)]
                if len(found) == len(configuration.servers):
                    self._offers = found
                    break
            await asyncio.sleep(0.02)
        which = Ceremony.of(configuration.task, self._offers)
        try:
            self.group = await ceremony.make_key(self, which, index=configuration.index, signing=self.signing, seconds=30)
        except PeerFault as fault:
            self.emit("failed", Failed(code=fault.reason, peer=ServerIndex(fault.peer)).document())
            await self._note("Failed", fault.reason)
            return
        self.emit("offers", collected(self._offers, self.group.address).document())

    async def ask(self, op: str, args: dict[str, Any], *, seconds: float) -> dict[str, Any]:
        """A mailbox client without a circuit."""
        if self._network.liar == self._told.index and args.get("word", {}).get("stage") == "reveal":
            args = ceremonies.broken_share(parse_post(args), self.signing, victim=0).document()
        return await getattr(self._network.mailbox, op.replace("-", "_"))(args) or {}

    async def _on_acceptance(self, args: dict[str, Any]) -> None:
        configuration = self._told
        acceptance = Acceptance(
            task=configuration.task, index=configuration.index, signature=from_hex(args["signature"], 65), descriptors=()
        )
        await self._network.mailbox.put_acceptance(acceptance.document())
        self.emit("accepted", {})

    async def _on_published(self, args: dict[str, Any]) -> None:
        parse_published(args)
        if "published" not in self.log[:-1]:
            self._later(self._compute())

    async def _on_channel(self, args: dict[str, Any]) -> None:
        peer = self._network.agents[self._told.task, args["peer"]]
        if self._network.lose_channel_messages:
            return
        if peer.dead:
            raise PeerUnavailable("the peer is gone")
        peer.emit("channel", {"peer": int(self._told.index), "payload": args["payload"]})

    async def _on_credit(self, args: dict[str, Any]) -> None: ...

    async def _on_release(self, args: dict[str, Any]) -> None:
        await self._note("FinalStateSigned")
        self._release()

    async def _on_zeroise(self, args: dict[str, Any]) -> dict[str, Any]:
        if self._configuration is None:
            raise Refused("NoKeys", "nothing to wipe")
        return make_zeroised(self._told.task, self._uid, self.signing).document()

    # -- the program

    async def _compute(self) -> None:
        configuration, own = self._told, int(self._told.index)
        total = sum(1 for item in configuration.spec.inputs if item.to == own)
        self.emit("inputs", {"received": total, "verified": total, "total": total})
        await self._note("InputsDelivered")
        await self._note("InputsVerified")
        self.emit("started", {})
        if code := self._network.fail.get(own):
            self.emit("exited", Exit(how="Exited", code=1).document())
            self.emit("failed", {"code": code, "fatal": True})
            await self._note("Failed", code)
            return
        await self._network.may_exit.wait()
        links = [await self._talk(peer) for peer in configuration.spec.peers(configuration.index)]
        await self._network.may_end.wait()
        self.emit("exited", Exit(how="Exited", code=0).document())
        await self._note("Computed")
        if configuration.spec.result.sender == own:
            await self._deliver()
        self.emit("flushed", Flushed(links=tuple(links)).document())

    async def _talk(self, peer: ServerIndex) -> tuple[ServerIndex, int, int]:
        """The site's side sends 3 MiB; the hub's sandbox attests them; both agents tell their operators."""
        configuration = self._told
        own, hub = configuration.index, configuration.spec.links[0][0]
        other = self._network.agents[configuration.task, peer]
        done = self._ended.setdefault(int(peer), asyncio.Event())
        if own != hub:
            await done.wait()
            return peer, 3 * MIB, 0
        link = (min(own, peer), max(own, peer))
        we_are_a = order(configuration.servers[own], configuration.servers[peer])[0] == configuration.servers[own]
        transcript = Transcript(task=configuration.task, link=link, direction=0 if we_are_a else 1)
        for _ in range(3):
            transcript, receipt = transcript.append(MIB, os.urandom(32), self.signing)
            self.emit("receipt", {"peer": int(peer), "receipt": receipt.document()})
            other.emit("receipt", {"peer": int(own), "receipt": receipt.document()})
            await asyncio.sleep(0)
        other._ended.setdefault(int(own), asyncio.Event()).set()
        return peer, 0, 3 * MIB

    async def _deliver(self) -> None:
        configuration, sealed = self._told, os.urandom(5000)
        digest = hashlib.sha256(sealed).digest()
        hashed = result_hash_of_digest(configuration.task, digest)
        assert self.group
        signature = self.group.sign(result_digest(configuration.domain, configuration.task, result_hash=hashed))
        info = SealedResultInfo(result_hash=hashed, digest=digest, size=len(sealed), signature=signature)
        self.emit("result", info.document())
        author = sign_author(configuration.task, digest, self.signing)
        piece = ResultPiece(
            task=configuration.task, offset=0, total=len(sealed), digest=digest, signature=signature, author=author, chunk=sealed
        )
        await self._network.mailbox.put_result(piece.document())
        self.emit("delivered", {})
        await self._note("ResultDelivered")

    async def _note(self, event: str, code: str = "") -> None:
        if self._configuration is None:
            return
        note = make_note(task=self._told.task, index=self._told.index, event=event, code=code, time=int(time.time()), key=self.signing)
        with contextlib.suppress(Refused):
            await self._network.mailbox.put_note(note.document())

    @property
    def _told(self) -> Configuration:
        assert self._configuration
        return self._configuration

    def _later(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class ScriptedLink:
    """A ports.ControlLink to a scripted agent: every event from the first, as after `resume`."""

    def __init__(self, agent: ScriptedAgent) -> None:
        self._agent, self._closed = agent, False
        self.tls_key = agent.tls_key
        self.acknowledged = 0

    async def call(self, command: str, **args: Any) -> dict[str, Any]:
        return await self._agent.call(command, args)

    async def events(self) -> AsyncIterator[tuple[int, str, dict[str, Any]]]:
        at = 0
        while not self._closed:
            while at < len(self._agent.events):
                event, data = self._agent.events[at]
                at += 1
                yield at, event, data
            self._agent.changed.clear()
            await self._agent.changed.wait()

    async def acknowledge(self, sequence: int) -> None:
        self.acknowledged = sequence

    async def close(self) -> None:
        self._closed = True


class Kubelet:
    """The node of one cluster's sandboxes: starts agents, reports statuses, ends pods with grace."""

    def __init__(self, cluster: FakeCluster, network: Network, *, prefix: str) -> None:
        self._cluster, self._network, self._prefix = cluster, network, prefix
        self._agents: dict[str, ScriptedAgent] = {}
        self._count = 0
        self.created: list[str] = []
        cluster.listeners.append(self._changed)

    def agent_of(self, uid: str) -> ScriptedAgent:
        return self._agents[uid]

    def _changed(self, change: str, kind: Kind, body: dict[str, Any]) -> None:
        if kind is not PODS:
            return
        loop = asyncio.get_running_loop()
        metadata = body["metadata"]
        if change == "ADDED":
            self.created.append(metadata["uid"])
            loop.call_later(0.02, self._start, metadata["namespace"], metadata["name"], metadata["uid"])
        elif "deletionTimestamp" in metadata and metadata.get("deletionGracePeriodSeconds"):
            if any("running" in item["state"] for item in body["status"].get("initContainerStatuses", [])):
                loop.call_later(0.02, self._terminate, metadata["namespace"], metadata["name"])
            else:
                loop.call_later(0.02, self._final_delete, metadata["namespace"], metadata["name"])

    def _start(self, namespace: str, name: str, uid: str) -> None:
        pod = self._cluster.objects.get((PODS.plural, namespace, name))
        if pod is None or "deletionTimestamp" in pod["metadata"]:
            return  # deleted before any node took it
        self._count += 1
        host = f"{self._prefix}.{self._count}"
        agent = ScriptedAgent(self._network, PodUid(uid), lambda: self._succeed(namespace, name))
        self._agents[uid] = self._network.by_host[host] = agent

        def running(body: dict[str, Any]) -> None:
            body["spec"]["nodeName"] = "node"
            body["status"] = {
                "phase": "Pending",
                "podIP": host,
                "initContainerStatuses": [
                    _status("agent", body, {"running": {}}),
                    {"name": "program", "state": {"waiting": {}}, "restartCount": 0, "imageID": ""},
                ],
                "containerStatuses": [{"name": "seal", "state": {"waiting": {}}, "restartCount": 0, "imageID": ""}],
            }

        self._cluster.modify(PODS, name, running, namespace=namespace)

    def _succeed(self, namespace: str, name: str) -> None:
        self._cluster.modify(PODS, name, lambda body: body["status"].update(phase="Succeeded"), namespace=namespace)

    def _terminate(self, namespace: str, name: str) -> None:
        def dead(body: dict[str, Any]) -> None:
            if body["metadata"]["uid"] in self._agents:
                self._agents[body["metadata"]["uid"]].kill()
            for item in body["status"]["initContainerStatuses"]:
                if "running" in item["state"]:
                    item["state"] = {"terminated": {"exitCode": 0}}

        self._cluster.modify(PODS, name, dead, namespace=namespace)

    def _final_delete(self, namespace: str, name: str) -> None:
        def done(body: dict[str, Any]) -> None:
            body["metadata"]["deletionGracePeriodSeconds"] = 0

        self._cluster.modify(PODS, name, done, namespace=namespace)


def _status(name: str, body: dict[str, Any], state: dict[str, Any]) -> dict[str, Any]:
    image = next(item["image"] for item in body["spec"]["initContainers"] if item["name"] == name)
    return {
        "name": name,
        "state": state,
        "restartCount": 0,
        "imageID": f"registry/any@{image_digest(image)}",
        "containerID": f"containerd://{name}",
    }


def _document(offer: Any) -> dict[str, Any]:
    return offer.document() if hasattr(offer, "document") else offer


__all__ = ["Address", "Kubelet", "Network", "ScriptedAgent"]
