"""Making the task key with the other sandboxes (docs/protocol/ceremony.md): say a word, get everybody's, three times (paper step 4).

What is said, believed and shown as evidence is decided in `core.ceremony`; this is the conversation with the mailbox that carries it. A
mailbox can withhold and no more: what it shows is signed, and evidence is judged here again.
"""

import asyncio
import logging
import os
from typing import Any, Protocol

from veilpod.core.agent_messages import Configuration
from veilpod.core.canonical import to_hex
from veilpod.core.ceremony import derive, member
from veilpod.core.ceremony.evidence import Evidence, judge, parse_evidence
from veilpod.core.ceremony.member import Member, Progress
from veilpod.core.ceremony.words import Ceremony, Post, Received, parse_received
from veilpod.core.fields import Fields
from veilpod.core.ids import ServerIndex
from veilpod.core.keys import SigningKey
from veilpod.core.meeting import MAX_SERVERS
from veilpod.core.sealing import HybridPrivateKey
from veilpod.errors import PeerFault, PeerUnavailable, ProtocolViolation, Refused
from veilpod.net.pauses import pauses

_PAUSES = (0.05, 0.2, 0.5, 1.0)  # after an answer that is not whole: an honest mailbox has waited itself

log = logging.getLogger(__name__)


class Asks(Protocol):
    """What the ceremony needs of a mailbox client."""

    async def ask(self, op: str, args: dict[str, Any], *, seconds: float) -> dict[str, Any]: ...


def patience(configuration: Configuration) -> float:
    """How long everybody has for all three words, in seconds: half of `inputs`, so that the key is not due before somebody is named."""
    return configuration.spec.deadlines.inputs / 2


async def make_key(client: Asks, ceremony: Ceremony, *, index: ServerIndex, signing: SigningKey, seconds: float) -> SigningKey:
    """Make the task key. Raises PeerFault("CeremonyFault" | "CeremonyTimeout") that names who is to blame, Refused("MeetingTimeout")."""
    own = Member(
        ceremony=ceremony,
        index=index,
        signing=signing,
        contribution=os.urandom(derive.CONTRIBUTION_BYTES),
        key=HybridPrivateKey.generate(),
    )
    talk = _Talk(client, own, seconds)
    try:
        async with asyncio.timeout(seconds):
            return await _stages(talk, own)
    except (TimeoutError, PeerUnavailable) as error:
        # Whom the mailbox shows as silent; if it is ourselves, or the mailbox showed nothing, nobody else is to blame.
        if talk.missing and index not in talk.missing:
            silent = talk.missing[0]
            raise PeerFault("CeremonyTimeout", f"server {silent} fell silent in the key ceremony", peer=silent) from error
        raise Refused("MeetingTimeout", "the mailbox did not carry the key ceremony in time") from error
    except ProtocolViolation as error:
        raise Refused("CeremonyFault", f"the mailbox shows what no sandbox said: {error}") from error


async def _stages(talk: "_Talk", own: Member) -> SigningKey:
    progress = Progress()
    while progress.stage is not None:
        outcome = member.hear(own, progress, await talk.exchange(member.speak(own, progress)))
        if not isinstance(outcome, Progress):
            await talk.accuse(outcome)
        else:
            log.info("ceremony.stage", extra={"done": str(progress.stage)})
            progress = outcome
    assert progress.group is not None
    return progress.group


class _Talk:
    """The conversation of one member with the mailbox. `missing`: who had not spoken when it last answered."""

    def __init__(self, client: Asks, own: Member, seconds: float) -> None:
        self._client, self._own, self._seconds = client, own, seconds
        self.missing: list[ServerIndex] = []

    async def exchange(self, post: Post) -> list[Received]:
        """Say a word and get everybody's, by index."""
        answer = await self._client.ask("put-ceremony", post.document(), seconds=self._seconds)
        for pause in pauses(*_PAUSES):
            words = self._read(answer)
            if not self.missing:
                return words
            await asyncio.sleep(pause)
            query = {"taskId": to_hex(self._own.ceremony.task), "stage": str(post.word.stage), "index": int(self._own.index)}
            answer = await self._client.ask("get-ceremony", query, seconds=self._seconds)
        raise AssertionError  # the pauses have no end

    async def accuse(self, evidence: Evidence) -> None:
        """Leave evidence where everybody finds it, and go. Raises PeerFault."""
        guilty = judge(self._own.ceremony, evidence)
        query = {"taskId": to_hex(self._own.ceremony.task), "evidence": evidence.document()}
        try:
            await self._client.ask("put-evidence", query, seconds=self._seconds)
        except (Refused, PeerUnavailable) as error:
            log.warning("ceremony.evidence_lost", extra={"reason": type(error).__name__})
        raise _guilty(guilty, type(evidence).__name__)

    def _read(self, answer: dict[str, Any]) -> list[Received]:
        fields = Fields(answer, what="ceremony", party="mailbox")
        for document in fields.items("evidence", maximum=MAX_SERVERS):
            evidence = parse_evidence(document, party="mailbox")
            raise _guilty(judge(self._own.ceremony, evidence), type(evidence).__name__)
        count = len(self._own.ceremony.signers)
        missing = [_index(item, count) for item in fields.items("missing", maximum=count)]
        words = [parse_received(item, self._own.index) for item in fields.items("words", maximum=count)]
        fields.done()
        if not missing and len(words) != count:
            raise ProtocolViolation("WordRefused", "the mailbox keeps words back", party="mailbox")
        self.missing = missing
        return words


def _guilty(index: ServerIndex, kind: str) -> PeerFault:
    log.warning("ceremony.broken", extra={"server": int(index), "kind": kind})
    return PeerFault("CeremonyFault", f"server {index} lied in the key ceremony ({kind}); the evidence is kept", peer=index)


def _index(value: Any, count: int) -> ServerIndex:
    return ServerIndex(Fields({"index": value}, what="ceremony", party="mailbox").integer("index", maximum=count - 1))
