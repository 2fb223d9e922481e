"""Who may hand in what, how often, and what they are told. A chain in memory."""

import dataclasses

import pytest
from tests.support import towers
from tests.support.channels import DOMAIN, KEYS
from tests.support.towers import DEPOSIT

from veilpod.core.entities import ChainChannel, ChannelPhase, Node, NodeStatus, Role
from veilpod.core.guard import request_document
from veilpod.core.keys import SigningKey
from veilpod.errors import ChainUnavailable, ProtocolViolation, Terminal
from veilpod.watchtower import admission
from veilpod.watchtower.admission import Admission
from veilpod.watchtower.guards import Guards

PAIR = towers.pair(DOMAIN, *KEYS.values())
CHANNEL = PAIR.place.channel
TOWER = SigningKey(secret=b"\x07" * 32)
KEEP = 30 * 86_400


class Chain:
    """As much of a reader as admission asks."""

    def __init__(self):
        self.time, self.asked, self.down = 1000, 0, False
        self.nodes = [self.node(PAIR.place.a)]
        self.view = ChainChannel(
            id=CHANNEL, phase=ChannelPhase.OPEN, epoch=1, sequence=0, deadline=0, balance_a=DEPOSIT, balance_b=DEPOSIT
        )  # fmt: skip

    @staticmethod
    def node(owner, status=NodeStatus.ACTIVE):
        return Node(
            id=1, owner=owner, roles=Role.COMPUTE, status=status, key_epoch=1, updated_at=0, capacity=1, identity_key=b"", onion_key=b"",
            endpoint="", proof=b"",
        )  # fmt: skip

    async def now(self):
        return self.time

    async def directory(self, roles):
        assert roles is Role.COMPUTE
        return self.nodes

    async def channel(self, channel):
        self.asked += 1
        if self.down:
            raise ChainUnavailable("down")
        return self.view


class World:
    def __init__(self, directory, **options):
        self.chain, self.clock, self.told, self.over = Chain(), 0.0, [], set()
        self.guards = Guards.open(directory, DOMAIN)
        self.admission = Admission(
            guards=self.guards, reader=self.chain, domain=DOMAIN, key=TOWER, keep=KEEP, parties=options.get("parties", ()),
            on_guarded=self.told.append, is_over=lambda channel: channel in self.over, clock=lambda: self.clock,
        )  # fmt: skip

    async def hand_in(self, guarded, remote="1.2.3.4"):
        try:
            outcome = await self.admission.guard(request_document(DOMAIN, guarded), remote=remote)
        except Terminal as error:
            return error.reason
        outcome.receipt.check(DOMAIN, TOWER.address)
        return (outcome.refusal.reason if outcome.refusal else "ok"), outcome.receipt


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


async def test_a_receipt_is_for_what_is_on_the_disk(world, tmp_path):
    said, receipt = await world.hand_in(PAIR.agreed(5))
    assert (said, receipt.until) == ("ok", 1000 + KEEP)
    world.guards.close()
    assert Guards.open(tmp_path, DOMAIN).find(CHANNEL).held == PAIR.agreed(5)
    assert world.told == [CHANNEL]


async def test_no_receipt_leaves_when_the_disk_is_full(world, monkeypatch):
    def full(*_):
        raise OSError(28, "no space")

    monkeypatch.setattr("veilpod.watchtower.guards.write_atomically", full)
    with pytest.raises(OSError, match="no space"):
        await world.hand_in(PAIR.agreed(5))
    assert not world.guards.all


async def test_a_session_is_checked_on_chain_once(world):
    for sequence in range(1, 6):
        assert (await world.hand_in(PAIR.agreed(sequence)))[0] == "ok"
    assert world.chain.asked == 1
    world.chain.down = True
    assert (await world.hand_in(PAIR.agreed(9)))[0] == "ok", "a known session needs no chain"


async def test_an_unreachable_chain_is_no_refusal_and_no_admission(world):
    world.chain.down = True
    with pytest.raises(ChainUnavailable):
        await world.hand_in(PAIR.agreed(5))
    assert not world.guards.all


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"phase": ChannelPhase.NONE}, "UnknownChannel"),
        ({"phase": ChannelPhase.OPENING}, "UnknownChannel"),
        ({"phase": ChannelPhase.CLOSED}, "UnknownChannel"),
        ({"epoch": 2}, "WrongEpoch"),
        ({"epoch": 0}, "WrongEpoch"),
        ({"balance_a": DEPOSIT + 1}, "WrongTotal"),
        ({"phase": ChannelPhase.DISPUTED, "deadline": 999}, "TooLate"),
    ],
)
async def test_a_channel_that_cannot_be_answered_for_gets_no_receipt(world, change, reason):
    world.chain.view = dataclasses.replace(world.chain.view, **change)
    assert await world.hand_in(PAIR.agreed(5)) == reason
    assert not world.guards.all


async def test_a_dispute_that_still_runs_is_taken(world):
    world.chain.view = dataclasses.replace(world.chain.view, phase=ChannelPhase.DISPUTED, deadline=1000)
    assert (await world.hand_in(PAIR.agreed(5)))[0] == "ok"


async def test_the_known_session_keeps_its_total(world):
    await world.hand_in(PAIR.agreed(5))
    said, receipt = await world.hand_in(PAIR.signed(dataclasses.replace(PAIR.state(6), balance_a=0)))
    assert (said, receipt.version) == ("WrongTotal", PAIR.state(5).version)


@pytest.mark.parametrize(("status", "said"), [(NodeStatus.RETIRED, "UnknownParty"), (NodeStatus.SUSPENDED, "ok")])
async def test_parties_are_those_of_the_registry(world, status, said):
    world.chain.nodes = [Chain.node(PAIR.place.b, status)]
    answer = await world.hand_in(PAIR.agreed(5))
    assert said in (answer, answer[0])


async def test_parties_that_the_owner_lists_replace_the_registry(tmp_path):
    listed = World(tmp_path / "listed", parties=[PAIR.place.b])
    listed.chain.nodes = []
    assert (await listed.hand_in(PAIR.agreed(5)))[0] == "ok"
    others = World(tmp_path / "others", parties=[TOWER.address])
    assert await others.hand_in(PAIR.agreed(5)) == "UnknownParty"


async def test_a_full_tower_says_so_and_keeps_taking_newer_states(world, monkeypatch):
    await world.hand_in(PAIR.agreed(5))
    monkeypatch.setattr(admission, "CAPACITY", 1)
    assert (await world.hand_in(PAIR.agreed(6)))[0] == "ok"
    other = towers.pair(DOMAIN, *KEYS.values(), terms=dataclasses.replace(towers.PENALISED, lane=99))
    assert await world.hand_in(other.agreed(5)) == "TowerFull"


async def test_a_closed_session_takes_nothing(world):
    await world.hand_in(PAIR.agreed(5))
    world.over.add(CHANNEL)
    world.chain.view = dataclasses.replace(world.chain.view, phase=ChannelPhase.CLOSED)
    assert await world.hand_in(PAIR.agreed(6)) == "UnknownChannel"


async def test_asking_again_renews_the_promise_and_writes_only_what_is_worth_it(world, monkeypatch):
    _, first = await world.hand_in(PAIR.agreed(5))
    world.chain.time += 60
    _, again = await world.hand_in(PAIR.agreed(5))
    assert again.until == first.until, "a minute is not worth two fsyncs"
    world.chain.time += 7200
    _, later = await world.hand_in(PAIR.agreed(5))
    assert later.until == world.chain.time + KEEP


async def test_wrong_requests_are_limited_by_where_they_come_from(world):
    forged = PAIR.signed(PAIR.state(5), key_b=TOWER)
    for _ in range(60):
        assert await world.hand_in(forged, remote="9.9.9.9") == "BadSignature"
    assert await world.hand_in(forged, remote="9.9.9.9") == "TooOften"
    assert (await world.hand_in(PAIR.agreed(5), remote="1.1.1.1"))[0] == "ok", "others are not touched"
    world.clock += 5
    assert (await world.hand_in(PAIR.agreed(6), remote="9.9.9.9"))[0] == "ok", "nor is it for ever"


async def test_a_peer_that_replays_what_it_has_cannot_keep_newer_states_out(world):
    await world.hand_in(PAIR.agreed(5))
    said = [await world.hand_in(PAIR.agreed(5), remote="9.9.9.9") for _ in range(100)]
    assert "TooOften" in said
    said = [await world.hand_in(PAIR.agreed(4), remote="9.9.9.9") for _ in range(200)]
    assert {answer[0] for answer in said} == {"OlderState"}
    assert (await world.hand_in(PAIR.agreed(6)))[0] == "ok"


async def test_a_channel_that_comes_too_often_is_told_and_the_newest_state_gets_in_a_second_later(world):
    said = [await world.hand_in(PAIR.agreed(sequence)) for sequence in range(1, 40)]
    assert said[-1] == "TooOften"
    world.clock += 1
    assert (await world.hand_in(PAIR.agreed(40)))[0] == "ok"


async def test_a_request_of_another_chain_never_reaches_the_disk(world):
    document = request_document(dataclasses.replace(DOMAIN, chain_id=1), PAIR.agreed(5))
    with pytest.raises(ProtocolViolation) as caught:
        await world.admission.guard(document, remote="")
    assert caught.value.reason == "WrongChain"
