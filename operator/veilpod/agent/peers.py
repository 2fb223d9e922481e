"""Meeting peers: sessions between sandboxes, each side proving that it is the sandbox whose statement is on chain (paper steps 5 and 7).

Sites go to the hub's rendezvous. Inside the session each side sends its statement and a signature over the session's id and both indices,
so that neither a relay nor a stranger who learnt a cookie can stand between. A lost peer is told once and is not the end of the others.
"""

import asyncio
import contextlib
import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from veilpod.agent.accounting import Received, Sent
from veilpod.agent.identity import Identity
from veilpod.agent.link import Hooks, PeerLink
from veilpod.core.agent_messages import Configuration
from veilpod.core.canonical import keccak256, to_hex
from veilpod.core.channel.state import order
from veilpod.core.fields import Fields
from veilpod.core.ids import ServerIndex
from veilpod.core.keys import recover
from veilpod.core.meeting import Descriptor
from veilpod.core.receipt import Transcript
from veilpod.core.statement import Statement, parse_statement, verify_statement
from veilpod.errors import PeerUnavailable, ProtocolViolation, Transient, VeilpodError
from veilpod.net.framing import json_frame, read_json_frame
from veilpod.ports import Onion, RendezvousPoint, Session, Stream

PEER_TAG = b"veilpod.peer.v1"
_HELLO_LIMIT = 64 << 10
_HELLO_SECONDS = 30.0
_RETRIES = (0.2, 0.5, 1.0, 2.0, 5.0)

log = logging.getLogger(__name__)


class Peers:
    """Every peer link of this sandbox."""

    def __init__(
        self,
        configuration: Configuration,
        *,
        identity: Identity,
        statements: Sequence[Statement],
        loopback: str,
        hooks: Hooks,
        lost: Callable[[ServerIndex], object],
    ) -> None:
        self._configuration, self._identity, self._statements = configuration, identity, statements
        self._loopback = loopback
        self._hooks, self._lost = dataclasses.replace(hooks, flushed=self._flushed), lost
        self._links: dict[ServerIndex, PeerLink] = {}
        self._counts: dict[ServerIndex, tuple[int, int]] = {}
        self._credits: dict[ServerIndex, int] = {}
        self._finishing = False
        self._leaving = False
        self._lost_peers: set[ServerIndex] = set()
        self._missed = asyncio.Event()
        self._settled = asyncio.Event()
        self._ended = asyncio.Event()

    async def run(self, points: Mapping[ServerIndex, RendezvousPoint], descriptors: Mapping[ServerIndex, Descriptor], onion: Onion) -> None:
        """Meet everybody and carry everything; returns when every peer has left or is lost."""
        self._counts = dict.fromkeys([*points, *descriptors], (0, 0))
        async with asyncio.TaskGroup() as group:
            for peer, point in points.items():
                group.create_task(self._keep(peer, point.accept, guest=False))
            for peer, descriptor in descriptors.items():
                group.create_task(self._keep(peer, functools.partial(_connect, onion, descriptor), guest=True))
        self._ended.set()

    def _flushed(self, peer: ServerIndex) -> None:
        log.info("peer.flushed", extra={"peer": peer})
        self._look()

    async def settled(self) -> None:
        """Wait until every link is flushed or lost."""
        self._look()
        await self._settled.wait()

    def leave(self) -> None:
        """Our operator has all it needs."""
        self._leaving = True
        for link in self._links.values():
            link.leave()

    async def left(self, *, seconds: float) -> None:
        """Wait a little until every peer has left, too."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ended.wait()

    async def missed(self, *, seconds: float) -> None:
        """Wait a little for a peer to be lost: one that ends takes its streams along, and programs notice that first."""
        if self._counts:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._missed.wait()

    def finish(self) -> None:
        """Our program has ended."""
        self._finishing = True
        for link in self._links.values():
            link.finish()

    async def tell(self, peer: ServerIndex, payload: Any) -> None:
        """Carry our operator's words to a peer's. Raises PeerUnavailable while the peer is not met."""
        link = self._links.get(peer)
        if link is None:
            raise PeerUnavailable("this peer is not met")
        await link.tell(payload)

    def credit(self, peer: ServerIndex, paid: int) -> None:
        """What the peer's server has paid for, in bytes since the start of the link."""
        self._credits[peer] = max(paid, self._credits.get(peer, 0))
        if peer in self._links:
            self._links[peer].sent.credit(paid)

    def counts(self) -> list[tuple[ServerIndex, int, int]]:
        """(peer, bytes sent, bytes received) with receipts, of every link there was."""
        for peer, link in self._links.items():
            self._counts[peer] = (link.sent.attested, link.received.attested)
        return [(peer, *self._counts[peer]) for peer in sorted(self._counts)]

    async def _keep(self, peer: ServerIndex, meet: Callable[[], Any], *, guest: bool) -> None:
        session: Session | None = None
        try:
            session = await meet()
            # The host greets once its operator has handed over, and an operator may be on its way back from a restart.
            async with asyncio.timeout(self._configuration.spec.deadlines.inputs if guest else _HELLO_SECONDS):
                channel = await (self._greet(session, peer) if guest else self._be_greeted(session, peer))
            link = self._links[peer] = self._link(peer, session, channel, guest=guest)
            link.sent.credit(self._credits.get(peer, 0))
            if self._finishing:
                link.finish()
            if self._leaving:
                link.leave()
            log.info("peer.connected", extra={"peer": peer})
            await link.run()
            log.info("peer.left", extra={"peer": peer})
        except (VeilpodError, OSError, EOFError, TimeoutError) as error:
            log.warning("peer.lost", extra={"peer": peer, "reason": type(error).__name__})
            self._lost_peers.add(peer)
            self._lost(peer)
            self._missed.set()
        finally:
            if session is not None:
                with contextlib.suppress(VeilpodError, OSError):
                    await session.close()
            self._look()

    def _look(self) -> None:
        ended = {peer for peer, link in self._links.items() if link.flushed} | self._lost_peers
        if ended >= set(self._counts):
            self._settled.set()

    async def _greet(self, session: Session, peer: ServerIndex) -> Stream:
        hello = await session.open_stream("hello")
        await hello.write(json_frame(self._hello(session, peer), limit=_HELLO_LIMIT))
        self._check(session, peer, await read_json_frame(hello, limit=_HELLO_LIMIT, party="peer"))
        await hello.close()
        return await session.open_stream("channel")

    async def _be_greeted(self, session: Session, peer: ServerIndex) -> Stream:
        hello = await _expect(session, "hello")
        self._check(session, peer, await read_json_frame(hello, limit=_HELLO_LIMIT, party="peer"))
        await hello.write(json_frame(self._hello(session, peer), limit=_HELLO_LIMIT))
        channel = await _expect(session, "channel")
        await hello.close()
        return channel

    def _hello(self, session: Session, peer: ServerIndex) -> dict[str, Any]:
        return {
            "statement": self._identity.statement.document(),
            "signature": to_hex(self._identity.signature),
            "proof": to_hex(self._identity.signing.sign(peer_digest(session.id, self._configuration.index, peer))),
        }

    def _check(self, session: Session, peer: ServerIndex, message: dict[str, Any]) -> None:
        fields = Fields(message, what="hello", party="peer")
        statement = parse_statement(fields.take("statement"), party="peer")
        signature, proof = fields.data("signature", 65), fields.data("proof", 65)
        fields.done()
        expected = self._statements[peer]
        if statement.digest != expected.digest:
            raise ProtocolViolation("StatementRefused", "the peer is not the sandbox whose statement is on chain", party="peer")
        verify_statement(statement, signature, party="peer")
        if recover(peer_digest(session.id, peer, self._configuration.index), proof) != expected.signing_key:
            raise ProtocolViolation("StatementRefused", "the peer does not hold the sandbox key", party="peer")

    def _link(self, peer: ServerIndex, session: Session, channel: Stream, *, guest: bool) -> PeerLink:
        configuration, own = self._configuration, self._configuration.index
        pair = (min(own, peer), max(own, peer))
        # Direction 0: account `a` of the channel, the lower one, received.
        a, _ = order(configuration.servers[own], configuration.servers[peer])
        we_are_a = a == configuration.servers[own]
        inbound = Transcript(task=configuration.task, link=pair, direction=0 if we_are_a else 1)
        outbound = Transcript(task=configuration.task, link=pair, direction=1 if we_are_a else 0)
        return PeerLink(
            peer,
            session,
            channel,
            guest=guest,
            ports=configuration.spec.topology.ports,
            loopback=self._loopback,
            sent=Sent(outbound, self._statements[peer].signing_key, priced=configuration.spec.payment.per_transfer_mib > 0),
            received=Received(inbound, self._identity.signing),
            hooks=self._hooks,
        )


def peer_digest(session: bytes, own: ServerIndex, peer: ServerIndex) -> bytes:
    """What a sandbox signs to show itself to a peer in one session. 32 bytes."""
    return keccak256(PEER_TAG + b"\0" + session + own.to_bytes(4, "big") + peer.to_bytes(4, "big"))


async def _connect(onion: Onion, descriptor: Descriptor) -> Session:
    for pause in _RETRIES:
        try:
            return await onion.connect(relay=descriptor.relay, cookie=descriptor.cookie, service_key=descriptor.service_key)
        except Transient:
            await asyncio.sleep(pause)
    return await onion.connect(relay=descriptor.relay, cookie=descriptor.cookie, service_key=descriptor.service_key)


async def _expect(session: Session, label: str) -> Stream:
    found, stream = await session.accept_stream()
    if found != label:
        raise ProtocolViolation("BadLabel", "the peer speaks before it has shown itself", party="peer")
    return stream
