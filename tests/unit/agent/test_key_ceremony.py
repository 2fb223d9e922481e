"""Sandboxes make the task key together, and say who kept them from it."""

import asyncio
import pathlib
from typing import Any

import pytest
from tests.support import ceremonies, mailboxes, sandboxes
from tests.support.sandbox_net import TASK, World, free_port, sealed_object, star

from veilpod.agent import ceremony
from veilpod.core.ceremony import member
from veilpod.core.ceremony.evidence import judge
from veilpod.core.ceremony.member import Member, Progress
from veilpod.core.ceremony.words import Ceremony, Post, Reveal
from veilpod.core.ids import ServerIndex
from veilpod.core.keys import SigningKey
from veilpod.core.store_messages import TaskTerms
from veilpod.core.typed_data import statements_hash
from veilpod.errors import PeerFault, Refused
from veilpod.store.mailbox import Mailbox

KEYS = [sandboxes.keys(number) for number in range(1, 17)]
honest_speech = member.speak


def lie(own: Member, progress: Progress) -> Post:
    """Server 1 gives server 0 a share that it did not commit to."""
    post = honest_speech(own, progress)
    lies = own.index == 1 and isinstance(post.word, Reveal)
    return ceremonies.broken_share(post, own.signing, victim=0) if lies else post


class Group:
    """Members of one task around a real mailbox, without circuits."""

    def __init__(self, directory: pathlib.Path, count: int) -> None:
        self.count, self.mailbox = count, Mailbox(directory)
        self.offers = [sandboxes.offer(KEYS[index], index=index) for index in range(count)]
        self.silent: set[tuple[int, str]] = set()  # (server, stage)
        self.asked = 0
        owners = tuple(keys.server.address for keys in KEYS[:count])
        self.mailbox.announce(
            TaskTerms(task=sandboxes.TASK, owners=owners, result_from=ServerIndex(0), max_size=1, domain=mailboxes.DOMAIN)
        )
        self.ceremony = Ceremony(
            task=sandboxes.TASK,
            statements=statements_hash([offer.statement.digest for offer in self.offers]),
            signers=tuple(keys.signing.address for keys in KEYS[:count]),
        )

    async def ask(self, op: str, args: dict[str, Any], *, seconds: float) -> dict[str, Any]:
        self.asked += 1
        word = args.get("word", {})
        if (word.get("index"), word.get("stage")) in self.silent:
            await asyncio.Event().wait()
        return await getattr(self.mailbox, op.replace("-", "_"))(args) or {}

    async def hold(self, *, seconds: float = 30) -> list[SigningKey | BaseException]:
        for offer in self.offers:
            await self.mailbox.put_offer(offer.document())
        making = [
            ceremony.make_key(self, self.ceremony, index=ServerIndex(index), signing=KEYS[index].signing, seconds=seconds)
            for index in range(self.count)
        ]
        return await asyncio.gather(*making, return_exceptions=True)


@pytest.mark.parametrize("count", [1, 2, 16])
async def test_everybody_gets_the_same_key_in_three_questions_each(tmp_path: pathlib.Path, count: int) -> None:
    group = Group(tmp_path, count)
    keys = await group.hold()
    assert all(isinstance(key, SigningKey) for key in keys)
    assert len({key.address for key in keys if isinstance(key, SigningKey)}) == 1
    assert group.asked == 3 * count
    assert group.mailbox.ceremony(sandboxes.TASK).stage == "done"


async def test_a_liar_is_named_by_everybody_and_the_evidence_survives_a_restart(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(member, "speak", lie)
    group = Group(tmp_path, 3)
    ends = await group.hold()
    assert [(end.reason, end.peer) for end in ends if isinstance(end, PeerFault)] == [("CeremonyFault", 1)] * 3
    [evidence] = Mailbox(tmp_path).ceremony(sandboxes.TASK).evidence
    assert judge(group.ceremony, evidence) == 1


@pytest.mark.parametrize("stage", ["commit", "reveal", "confirm"])
async def test_who_falls_silent_is_named_by_the_others_and_blames_nobody(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    monkeypatch.setattr("veilpod.store.mailbox._HOLD_SECONDS", 0.05)
    group = Group(tmp_path, 3)
    group.silent = {(1, stage)}
    first, silent, last = await group.hold(seconds=2)
    for end in (first, last):
        assert isinstance(end, PeerFault)
        assert (end.reason, end.peer) == ("CeremonyTimeout", 1)
    assert isinstance(silent, Refused)
    assert silent.reason == "MeetingTimeout"
    report = group.mailbox.ceremony(sandboxes.TASK)
    assert (report.stage, report.missing) == (stage, (1,))


async def test_a_mailbox_that_shows_what_nobody_said_is_found_out(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group = Group(tmp_path, 2)
    stranger = ceremonies.member(group.ceremony, 1, SigningKey(secret=b"\x66" * 32))
    forged = honest_speech(stranger, Progress())

    async def watch(box: Any, stage: Any, reader: ServerIndex) -> dict[str, Any]:
        own = box.bulletin._posts[stage, reader]
        return {"missing": [], "words": [own.to(reader).document(), forged.to(reader).document()], "evidence": []}

    monkeypatch.setattr(group.mailbox, "_watch", watch)
    end, _ = await group.hold()
    assert isinstance(end, Refused)
    assert end.reason == "CeremonyFault"


async def test_a_lying_sandbox_is_named_in_the_failure_of_the_others(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(member, "speak", lie)
    await world.start(star([sealed_object("north", b"n"), sealed_object("south", b"s")], port=free_port()))
    await world.assemble()
    for sandbox in world.sandboxes:
        assert await sandbox.until("failed") == {"code": "CeremonyFault", "fatal": True, "peer": 1}
        assert "offers" not in sandbox.events  # no operator is asked to sign a key
    while (told := await world.mailbox.event("mailbox"))["what"] != "evidence":
        pass
    assert told["index"] == 1
    [evidence] = (await world.mailbox.link.ceremony(TASK)).evidence
    signers = tuple(offer.statement.signing_key for offer in await world.mailbox.link.offers(TASK))
    hashed = statements_hash([offer.statement.digest for offer in await world.mailbox.link.offers(TASK)])
    assert judge(Ceremony(task=TASK, statements=hashed, signers=signers), evidence) == 1
