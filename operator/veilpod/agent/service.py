"""The agent as one value: the control stream's commands mapped onto one life, and its end (paper steps 4 to 10).

    command -> allowed now? -> tell the life -> answer      the life does the work and emits events
    release -> say goodbye to peers, let `seal` end         the operator has everything that must outlive the sandbox
    zeroise -> stop, leave the network, wipe, sign, forget  the sandbox key's last signature

It holds no chain key and knows no Kubernetes. What it must never do is go on after a doubt: any defect ends the process, and the marker
keeps it ended.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from veilpod.agent import state, volumes
from veilpod.agent.first_look import FirstLook
from veilpod.agent.life import Life, MakeOnion
from veilpod.agent.program import Program
from veilpod.agent.seal import RELEASED, SealSocket
from veilpod.agent.settings import Settings
from veilpod.agent.state import Phase
from veilpod.core.agent_messages import Configuration, Zeroised, parse_configuration, parse_published
from veilpod.core.canonical import to_hex
from veilpod.core.evidence import NoTee
from veilpod.core.fields import Fields
from veilpod.core.ids import ServerIndex
from veilpod.core.keys import SIGNATURE_BYTES, recover
from veilpod.core.sealing import recipient_bytes
from veilpod.core.statement import verify_countersignature
from veilpod.core.task.spec import check_ports
from veilpod.core.typed_data import sandbox_key_digest, statements_hash
from veilpod.errors import InvalidInput, ProtocolViolation, Refused
from veilpod.net.control import ControlServer, Handler
from veilpod.ports import Tee

_GOODBYE_SECONDS = 10.0
_NOTES_SECONDS = 5.0
_LEAVE_SECONDS = 1.0

log = logging.getLogger(__name__)


class Service:
    """One agent process. `run` serves until cancelled, and wipes."""

    def __init__(self, settings: Settings, make_onion: MakeOnion, tee: Tee | None = None, first_look: FirstLook | None = None) -> None:
        self._settings = settings
        self._tee = tee or NoTee()
        self.control = ControlServer(settings.operator_cert, self._commands())
        self._program = Program(settings.program_socket)
        self._seal = SealSocket(settings.seal_socket)
        self.life = Life(settings, self.control, self._program, make_onion, first_look)
        self.ready_port = 0
        self._living: asyncio.Task[None] | None = None
        self._zeroised: Zeroised | None = None
        self._end_turn = asyncio.Lock()
        self._group: asyncio.TaskGroup

    async def run(self) -> None:
        """Serve until cancelled; then leave nothing behind."""
        volumes.install(self._settings.launcher, self._settings.binaries / "launch")
        volumes.hide_termination_message(self._settings.binaries)
        await self._program.listen()
        try:
            async with asyncio.TaskGroup() as self._group:
                group = self._group
                group.create_task(self.control.serve(*self._settings.control), name="control")
                group.create_task(self._seal.serve(), name="seal")
                group.create_task(self._open_when_verified(), name="ready")
                self._living = group.create_task(self.life.run(), name="life")
                await self.control.listening.wait()
                log.info("agent.listening")
        finally:
            # Wiping comes before courtesy: the kubelet's patience is a few seconds.
            await self._program.close()
            volumes.wipe(self._secret_roots)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LEAVE_SECONDS):
                    await self.life.close()
            log.info("agent.ended")

    # --- commands

    def _commands(self) -> dict[str, Handler]:
        return {
            "configure": self._allowed("configure", self._configure),
            "statement": self._allowed("statement", self._statement),
            "offer": self._allowed("offer", self._offer),
            "acceptance": self._allowed("acceptance", self._acceptance),
            "published": self._allowed("published", self._published),
            "channel": self._allowed("channel", self._channel),
            "credit": self._allowed("credit", self._credit),
            "release": self._allowed("release", self._release),
            "zeroise": self._allowed("zeroise", self._zeroise),
        }

    def _allowed(self, name: str, handler: Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]) -> Handler:
        async def checked(args: dict[str, Any]) -> dict[str, Any]:
            state.allows(self.life.state, name)
            return await handler(args)

        return checked

    async def _configure(self, args: dict[str, Any]) -> dict[str, Any]:
        configuration = parse_configuration(args)
        self._check(configuration)
        # Relays come and go during a long task: a repetition may bring another directory and nothing else.
        known = self.life.configuration.get() if self.life.configuration.known else None
        if known is not None and _without_directory(known) == _without_directory(configuration):
            self.life.directory = configuration
        else:
            self.life.configuration.tell(configuration)
        return {}

    async def _statement(self, args: dict[str, Any]) -> dict[str, Any]:
        Fields(args, what="statement command", party="operator").done()
        while self.life.identity is None or self.life.state.phase < Phase.READY:
            if not self.life.state.going:
                raise Refused(self.life.state.failure or "Zeroised", "this sandbox will make no statement")
            self.life.moved.clear()
            await self.life.moved.wait()
        own = self.life.identity
        evidence = self._tee.collect(own.statement.report_data)
        return {"statement": own.statement.document(), "signature": to_hex(own.signature), "evidence": to_hex(evidence)}

    async def _offer(self, args: dict[str, Any]) -> dict[str, Any]:
        fields = Fields(args, what="offer command", party="operator")
        signature = fields.data("serverSignature", SIGNATURE_BYTES)
        fields.done()
        configuration = self.life.configuration.get()
        assert self.life.identity is not None
        verify_countersignature(self.life.identity.statement, signature, configuration.servers[configuration.index], party="operator")
        self.life.server_signature.tell(signature)
        return {}

    async def _acceptance(self, args: dict[str, Any]) -> dict[str, Any]:
        fields = Fields(args, what="acceptance command", party="operator")
        signature = fields.data("signature", SIGNATURE_BYTES)
        fields.done()
        configuration, offers = self.life.configuration.get(), self.life.offers
        assert self.life.identity is not None
        key = self.life.identity.group.address
        digests = [offer.statement.digest for offer in offers]
        digest = sandbox_key_digest(configuration.domain, configuration.task, key=key, statements_hash=statements_hash(digests))
        if recover(digest, signature) != configuration.servers[configuration.index]:
            raise ProtocolViolation("AcceptanceRefused", "this is not our server's signature over the task key", party="operator")
        self.life.acceptance.tell(signature)
        return {}

    async def _published(self, args: dict[str, Any]) -> dict[str, Any]:
        self.life.published.tell(parse_published(args))
        return {}

    async def _channel(self, args: dict[str, Any]) -> dict[str, Any]:
        fields = Fields(args, what="channel command", party="operator")
        peer, payload = self._peer(fields), fields.take("payload")
        fields.done()
        if self.life.peers is None:
            raise Refused("TooEarly", "peers are met after the key is published")
        await self.life.peers.tell(peer, payload)
        return {}

    async def _credit(self, args: dict[str, Any]) -> dict[str, Any]:
        fields = Fields(args, what="credit command", party="operator")
        peer, paid = self._peer(fields), fields.integer("bytes")
        fields.done()
        if self.life.peers is not None:
            self.life.peers.credit(peer, paid)
        return {}

    async def _release(self, args: dict[str, Any]) -> dict[str, Any]:
        Fields(args, what="release command", party="operator").done()
        async with self._end_turn:
            if self.life.state.phase < Phase.RELEASED:
                self.life.released()
                if self.life.notes is not None:
                    self.life.notes.put("FinalStateSigned")
                if self.life.peers is not None:
                    self.life.peers.leave()
                    await self.life.peers.left(seconds=_GOODBYE_SECONDS)
                if self.life.notes is not None:
                    await self.life.notes.sent(seconds=_NOTES_SECONDS)
                # The operator's next word is zeroise; a pod that has ended could not answer it.
                self._group.create_task(self._end_pod(asyncio.sleep(self._settings.release_seconds)))
                log.info("agent.released")
        return {}

    async def _zeroise(self, args: dict[str, Any]) -> dict[str, Any]:
        Fields(args, what="zeroise command", party="operator").done()
        async with self._end_turn:
            if self._zeroised is None:
                if self.life.identity is None:
                    raise Refused("NoKeys", "no key was ever made here: there is nothing to wipe")
                await self._end()
                self._zeroised = self.life.identity.zeroise(self.life.configuration.get())
                self.life.zeroised()
                self.control.emit("zeroised", self._zeroised.document())
                self._group.create_task(self._end_pod(self.control.flushed()))
                log.info("agent.zeroised")
        return self._zeroised.document()

    async def _end_pod(self, after: Awaitable[None]) -> None:
        """Let `seal` end the pod, after something that is waited for with a bound."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.release_seconds):
                await after
        self._seal.release(self.life.state.failure or RELEASED)

    async def _end(self) -> None:
        """Stop everything that could still write, then wipe."""
        await self._program.close()
        if self._living is not None:
            self._living.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([self._living], timeout=_GOODBYE_SECONDS)
        await self.life.close()
        await asyncio.to_thread(volumes.wipe, self._secret_roots)

    # --- small things

    @property
    def _secret_roots(self) -> tuple[Any, ...]:
        return self._settings.inputs, self._settings.outputs, self._settings.scratch

    def _check(self, configuration: Configuration) -> None:
        if self._settings.pod_uid.read_text().strip() != configuration.pod_uid:
            raise ProtocolViolation("WrongPod", "this configuration is for another pod", party="operator")
        if configuration.spec.topology.type == "Mesh":
            raise Refused("TopologyUnsupported", "sandboxes carry the topologies None and Star")
        settings = self._settings
        check_ports(configuration.spec, [port for _, port in (*settings.allow, settings.control, settings.ready)])
        if configuration.spec.result.sender == configuration.index:
            try:
                recipient_bytes(configuration.spec.result.recipient)
            except InvalidInput as error:
                raise Refused("InvalidRecipient", str(error)) from error

    def _peer(self, fields: Fields) -> ServerIndex:
        configuration = self.life.configuration.get()
        peer = ServerIndex(fields.integer("peer", maximum=15))
        if peer not in configuration.spec.peers(configuration.index):
            raise ProtocolViolation("NoSuchPeer", "this sandbox has no link to that server", party="operator")
        return peer

    async def _open_when_verified(self) -> None:
        """The startup probe: a port that opens when the program may start."""
        await self.life.verified.wait()
        server = await asyncio.start_server(lambda _, writer: writer.transport.abort(), *self._settings.ready, backlog=4)
        async with server:
            self.ready_port = server.sockets[0].getsockname()[1]
            await server.serve_forever()


def _without_directory(configuration: Configuration) -> dict[str, Any]:
    return configuration.document() | {"directory": []}
