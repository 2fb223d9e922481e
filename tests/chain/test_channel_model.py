"""The real ChannelManager beside a model of it: honest, lazy, lying and crashed parties, two channels, time that jumps.

After every step the contract shows what the model says, holds what it owes, and an honest party never gets less than the newest
state that both signed gives it.
"""

import asyncio
import contextlib
import dataclasses
from collections import Counter, defaultdict
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test
from tests.support import evm
from tests.support.anvil import CHAIN_ID, Anvil, account, running
from tests.support.channel_model import FREE, LIVE, Channel, Model, State

from veilpod.chain import contracts
from veilpod.core.channel.state import ChannelState, channel_id, order, pack_terms
from veilpod.core.entities import ChannelPhase, ChannelTerms
from veilpod.core.typed_data import Domain, open_digest

pytestmark = pytest.mark.chain

MANAGER = contracts.contract("ChannelManager").functions
BALANCE_OF = bytes.fromhex("70a08231")
KEYS = {account(index).address: account(index) for index in (1, 2)}
PARTIES = order(*KEYS)
STRANGER = account(3).address
RICH = 10**21
SEEN = ("open", "join", "openBoth", "cancel", "close", "challenge", "respond", "finalize", "withdrawCredit")
REVERTS = "0x60006000fd"
amounts = st.integers(0, 1000)
parties = st.integers(0, 1)
unknown = st.data()
splits = st.lists(st.integers(0, 100), min_size=1, max_size=4)


@dataclasses.dataclass
class World:
    """The node, the two channels as the contract knows them, and where everybody began."""

    node: Anvil
    token: str
    terms: tuple[ChannelTerms, ChannelTerms]
    now: int

    @property
    def manager(self) -> str:
        return self.node.addresses.channels

    def place(self, channel):
        return (*PARTIES, pack_terms(self.terms[channel]))

    def shown(self):
        """What the contract shows of both channels, then what everybody has of either asset: a, b, credits of a and b, the contract."""
        questions = [evm.call(self.manager, MANAGER["channel"].encode(channel_id(*PARTIES, terms))) for terms in self.terms]
        for asset in (terms.asset for terms in self.terms):
            questions += [self.balance(party, asset) for party in PARTIES]
            questions += [evm.call(self.manager, MANAGER["credit"].encode(party, asset)) for party in PARTIES]
            questions.append(self.balance(self.manager, asset))
        answers = evm.ask(self.node, questions)
        views = [MANAGER["channel"].decode(bytes.fromhex(answer[2:]))[0] for answer in answers[:2]]
        return views, [int(answer, 16) for answer in answers[2:]]

    def balance(self, who, asset):
        if int(asset, 16) == 0:
            return "eth_getBalance", [who, "latest"]
        return evm.call(asset, BALANCE_OF + bytes(12) + bytes.fromhex(who[2:]))


@pytest.fixture(scope="module")
def world():
    with running() as node, contextlib.ExitStack() as stack:
        asyncio.run(node.deploy_contracts())
        stack.enter_context(evm.by_hand(node))
        token = evm.mock(node, STRANGER, "Token")
        now = int(node.rpc("eth_getBlockByNumber", "latest", False)["timestamp"], 16)
        for party in PARTIES:
            node.rpc("anvil_setBalance", party, hex(RICH))
            now += 1
            assert evm.send(node, party, token, bytes.fromhex("40c10f19") + _words(party, RICH), at=now)  # mint
            assert evm.send(node, party, token, bytes.fromhex("095ea7b3") + _words(node.addresses.channels, RICH), at=now + 1)  # approve
            now += 1
        ether = ChannelTerms(asset="0x" + "0" * 40, lane=1, challenge_period=60, penalty_bps=1000)
        yield World(node, token, (ether, dataclasses.replace(ether, asset=token, challenge_period=90, penalty_bps=10_000)), now)


def _words(account_, amount):
    return bytes(12) + bytes.fromhex(account_[2:]) + amount.to_bytes(32, "big")


class Parties(RuleBasedStateMachine):
    """Everything a party may try, allowed or not: the model says which."""

    world: World
    seen: ClassVar[Counter] = Counter()  # how often each function went through, and was refused

    def __init__(self):
        super().__init__()
        self.undoing = evm.undone(self.world.node)
        self.undoing.__enter__()
        self.domain = Domain(chain_id=CHAIN_ID, contract=self.world.manager)
        pair = zip(("ETH", "token"), self.world.terms, strict=True)
        self.model = Model(
            channels=tuple(Channel(asset=name, period=terms.challenge_period, penalty_bps=terms.penalty_bps) for name, terms in pair),
            now=self.world.now,
        )
        self.agreed = defaultdict(list)  # (channel, epoch) -> the states both signed, oldest first
        self.final = {}  # (channel, epoch) -> the state both signed a Close for, after which they sign no other

    def teardown(self):
        self.undoing.__exit__(None, None, None)

    @initialize(characters=st.tuples(*[st.sampled_from(["honest", "honest", "lazy", "lying", "lying"])] * 2))
    def begin(self, characters):
        self.characters = list(characters)

    def one(self, phases, data):
        """One of the channels in these phases; the rule's precondition says that there is one."""
        return data.draw(st.sampled_from([index for index, c in enumerate(self.model.channels) if c.phase in phases]))

    def some(self, *phases):
        return any(c.phase in phases for c in self.model.channels)

    # ------------------------------------------------------------------ doing the same twice

    def tick(self, seconds=1):
        """Time passes. An honest party, or its watchtower, answers a stale dispute before it is too late."""
        for index, c in enumerate(self.model.channels):
            newest = self.newest(index)
            stale = c.phase is ChannelPhase.DISPUTED and newest.sequence > c.sequence
            if stale and "honest" in self.characters and self.model.now <= c.deadline < self.model.now + seconds + 2:
                assert self.respond(index, newest, signers=(0, 1))
        self.model.now += seconds

    def act(self, name, sender, expected, *args, value=0):
        done = evm.send(self.world.node, sender, self.world.manager, MANAGER[name].encode(*args), value=value, at=self.model.now)
        assert done == expected, f"{name} {'went through' if done else 'reverted'}"
        self.seen[name, done] += 1
        return done

    def settling(self, index, operation):
        """Run an operation of the model; if it pays out, nobody honest gets less than it should."""
        c, newest = self.model.channels[index], self.newest(index)
        live, epoch = c.phase in LIVE, c.epoch
        before = [self.model.moved[party, c.asset] + self.model.credit[party, c.asset] for party in (0, 1)]
        done = operation()
        if live and c.phase is ChannelPhase.CLOSED:
            for party in (0, 1):
                got = self.model.moved[party, c.asset] + self.model.credit[party, c.asset] - before[party]
                assert self.characters[party] != "honest" or got >= newest.balances[party], f"epoch {epoch}: honest and poorer"
        return done

    def newest(self, index):
        c = self.model.channels[index]
        states = self.agreed[index, c.epoch]
        return states[-1] if states else State(epoch=c.epoch, sequence=c.sequence, balances=c.balances)

    def signatures(self, index, s, signers, *, close=False):
        """One per party; who is not among the signers is forged by its peer."""
        real = ChannelState(version=s.epoch << 40 | s.sequence, balance_a=s.balances[0], balance_b=s.balances[1], data_hash=bytes(32))
        cid = channel_id(*PARTIES, self.world.terms[index])
        digest = real.close_digest(self.domain, cid) if close else real.digest(self.domain, cid)
        signed = [KEYS[PARTIES[party if party in signers else 1 - party]].sign(digest) for party in (0, 1)]
        return (real.version, *s.balances, real.data_hash), signed

    def respond(self, index, s, *, signers, sender=STRANGER):
        expected = self.model.respond(self.model.channels[index], s, consent=len(signers) == 2)
        state, signed = self.signatures(index, s, signers)
        return self.act("respond", sender, expected, self.world.place(index), state, *signed)

    def challenge(self, index, by, s, *, peer_signed=True):
        expected = self.model.challenge(self.model.channels[index], by, s, peer_signed=peer_signed)
        state, signed = self.signatures(index, s, (0, 1) if peer_signed else (by,))
        return self.act("challenge", PARTIES[by], expected, self.world.place(index), state, signed[1 - by])

    def close(self, index, s, *, signers, sender=STRANGER, ordinary=False):
        """With `ordinary`, what they signed was a State: no consent to a Close, but for the sender's own."""
        own = {party for party in (0, 1) if PARTIES[party] == sender}
        consent = own | (set() if ordinary else set(signers)) == {0, 1}
        expected = self.settling(index, lambda: self.model.close(self.model.channels[index], s, consent=consent))
        state, signed = self.signatures(index, s, signers, close=not ordinary)
        return self.act("close", sender, expected, self.world.place(index), state, *signed)

    def finalize(self, index, sender=STRANGER):
        fined = self.model.channels[index].fined
        expected = self.settling(index, lambda: self.model.finalize(self.model.channels[index]))
        self.seen["fine", expected and fined] += 1
        return self.act("finalize", sender, expected, self.world.place(index))

    # ------------------------------------------------------------------ opening

    def value(self, index, amount):
        return amount if self.model.channels[index].asset == "ETH" else 0

    def open(self, index, by, deposits):
        self.tick()
        own, peers = deposits[by], deposits[1 - by]
        expected = self.model.open(self.model.channels[index], by, own, peers)
        return self.act("open", PARTIES[by], expected, self.world.place(index), own, peers, value=self.value(index, own))

    def join(self, index, by, epoch):
        self.tick()
        c = self.model.channels[index]
        value = self.value(index, c.balances[by])
        return self.act("join", PARTIES[by], self.model.join(c, by, epoch), self.world.place(index), epoch, value=value)

    def open_both(self, index, by, deposits, *, lead, signed):
        self.tick()
        c = self.model.channels[index]
        until, epoch, cid = self.model.now + lead, c.epoch + signed, channel_id(*PARTIES, self.world.terms[index])
        digest = open_digest(self.domain, cid, epoch=epoch, deposit_a=deposits[0], deposit_b=deposits[1], deadline=until)
        expected = self.model.open_both(c, by, deposits, until=until, peer_signed=signed)
        args = (self.world.place(index), *deposits, until, KEYS[PARTIES[1 - by]].sign(digest))
        return self.act("openBoth", PARTIES[by], expected, *args, value=self.value(index, deposits[by]))

    def cancel(self, index, by):
        self.tick()
        return self.act("cancel", PARTIES[by], self.model.cancel(self.model.channels[index], by), self.world.place(index))

    @precondition(lambda self: self.some(*FREE))
    @rule(
        data=unknown, by=parties, deposits=st.tuples(amounts, amounts), shares=splits,
        how=st.sampled_from(["two", "two", "two", "one", "alone", "late"]),
    )  # fmt: skip
    def a_session_begins(self, data, by, deposits, shares, how):
        index = self.one(FREE, data)
        if how == "one":
            self.deposit_credit(1 - by, deposits[1 - by])
            assert self.open_both(index, by, deposits, lead=0, signed=True)
            self.sign(index, shares)
            return
        if how == "late":
            assert not self.open_both(index, by, deposits, lead=-1, signed=True)
            return
        assert self.open(index, by, deposits)
        if how == "two":
            assert self.join(index, 1 - by, self.model.channels[index].epoch)
            self.sign(index, shares)

    @precondition(lambda self: self.some(ChannelPhase.OPENING))
    @rule(data=unknown, by=parties, how=st.sampled_from(["join", "join late", "cancel"]))
    def a_session_begins_or_not(self, data, by, how):
        index = self.one((ChannelPhase.OPENING,), data)
        c = self.model.channels[index]
        if how == "cancel":
            self.cancel(index, by)
        else:
            self.join(index, by, c.epoch - (how == "join late"))

    @precondition(lambda self: self.some(*LIVE))
    @rule(data=unknown, by=parties, deposits=st.tuples(amounts, amounts), what=st.sampled_from(["open", "join", "openBoth", "cancel"]))
    def somebody_is_out_of_turn(self, data, by, deposits, what):
        index = self.one(LIVE, data)
        c = self.model.channels[index]
        if what == "open":
            assert not self.open(index, by, deposits)
        elif what == "join":
            assert not self.join(index, by, c.epoch)
        elif what == "openBoth":
            assert not self.open_both(index, by, deposits, lead=9, signed=True)
        else:
            assert not self.cancel(index, by)

    # ------------------------------------------------------------------ off chain

    @precondition(lambda self: self.both_sign(ChannelPhase.OPEN))
    @rule(data=unknown, shares=splits)
    def both_sign_the_next_states(self, data, shares):
        self.sign(self.one((ChannelPhase.OPEN,), data), shares)

    def sign(self, index, shares):
        """Move money between them, state by state. Who has signed a Close signs no more, and who has crashed nothing."""
        c = self.model.channels[index]
        if (index, c.epoch) in self.final or "crashed" in self.characters:
            return
        total = sum(c.balances)
        for share in shares:
            mine = total * share // 100
            state = State(epoch=c.epoch, sequence=self.newest(index).sequence + 1, balances=(mine, total - mine))
            self.agreed[index, c.epoch].append(state)

    @precondition(lambda self: self.both_sign(*LIVE))
    @rule(data=unknown, willing=st.integers(0, 3))
    def both_sign_a_close(self, data, willing):
        index = self.one(LIVE, data)
        c = self.model.channels[index]
        if willing == 3:
            self.final.setdefault((index, c.epoch), self.newest(index))

    def both_sign(self, *phases):
        return "crashed" not in self.characters and self.some(*phases)

    @precondition(lambda self: "lazy" in self.characters)
    @rule(unlucky=st.integers(0, 4))
    def one_crashes(self, unlucky):
        """For good: it signs, sends and answers nothing any more."""
        if not unlucky:
            self.characters[self.characters.index("lazy")] = "crashed"

    # ------------------------------------------------------------------ each as it is

    @precondition(lambda self: self.some(*LIVE))
    @rule(data=unknown, by=parties)
    def move(self, data, by):
        """A party does what one of its character does."""
        index = self.one(LIVE, data)
        character, c, newest = self.characters[by], self.model.channels[index], self.newest(index)
        if character == "crashed":
            return
        self.tick()
        if character == "lying":
            self.lie(index, by, data)
        elif c.phase is ChannelPhase.DISPUTED and self.model.now > c.deadline:
            assert self.finalize(index, PARTIES[by])
        elif (index, c.epoch) in self.final:
            self.close(index, self.final[index, c.epoch], signers=(1 - by,), sender=PARTIES[by])
        elif character == "honest" and c.phase is ChannelPhase.OPEN and data.draw(st.booleans()):
            assert self.challenge(index, by, newest)
        elif character == "honest" and c.phase is ChannelPhase.DISPUTED and newest.sequence > c.sequence:
            assert self.respond(index, newest, signers=(1 - by, by), sender=PARTIES[by])

    def lie(self, index, by, data):
        """Old states, states of old epochs, states that nobody else signed, states that make money: as a challenge, an answer, a close."""
        c = self.model.channels[index]
        old = [s for (of, epoch), states in self.agreed.items() if of == index and epoch != c.epoch for s in states[-1:]]
        known = self.agreed[index, c.epoch] + old
        invented = State(epoch=c.epoch, sequence=data.draw(st.integers(0, 9)), balances=(sum(c.balances), 0)[:: 1 if by == 0 else -1])
        richer = dataclasses.replace(invented, balances=(invented.balances[0] + 1, invented.balances[1]))
        s = data.draw(st.sampled_from([*known, invented, richer]))
        peer_signed = s in known
        how = data.draw(st.sampled_from(["challenge"] * 4 + ["respond", "close", "finalize"]))
        if how == "challenge":
            self.challenge(index, by, s, peer_signed=peer_signed)
        elif how == "respond":
            self.respond(index, s, signers=(0, 1) if peer_signed else (by,), sender=STRANGER)
        elif how == "close":
            self.close(index, s, signers=(0, 1) if peer_signed else (by,), sender=PARTIES[by], ordinary=True)
        else:
            self.finalize(index, PARTIES[by])

    @precondition(lambda self: "lying" in self.characters and self.stale_states())
    @rule(data=unknown, again=st.booleans(), patient=st.booleans())
    def a_liar_shows_an_old_state_and_is_answered(self, data, again, patient):
        """What leads to a fine, or just not: rare among random moves, so it is a move of its own."""
        index, old = data.draw(st.sampled_from(self.stale_states()))
        states = self.agreed[index, old.epoch]
        self.tick()
        assert self.challenge(index, self.characters.index("lying"), old)
        for _ in range(1 + again):
            newer = [s for s in states if s.sequence > self.model.channels[index].sequence]
            if newer:
                self.tick()
                assert self.respond(index, data.draw(st.sampled_from(newer)), signers=(0, 1))
        if patient:
            self.tick(self.model.channels[index].period)
            assert self.finalize(index)

    def stale_states(self):
        """What both signed in an open channel and have replaced since."""
        live = [(index, c.epoch) for index, c in enumerate(self.model.channels) if c.phase is ChannelPhase.OPEN]
        return [(index, s) for index, epoch in live for s in self.agreed[index, epoch][:-1]]

    @precondition(lambda self: self.some(ChannelPhase.DISPUTED))
    @rule(data=unknown)
    def a_stranger_finishes(self, data):
        index = self.one((ChannelPhase.DISPUTED,), data)
        c = self.model.channels[index]
        self.tick()
        if (index, c.epoch) in self.final:
            self.close(index, self.final[index, c.epoch], signers=(0, 1))
        else:
            self.finalize(index)

    # ------------------------------------------------------------------ time and money

    @precondition(lambda self: self.some(ChannelPhase.DISPUTED))
    @rule(data=unknown, around=st.integers(-2, 2))
    def time_passes_until_a_deadline(self, data, around):
        index = self.one((ChannelPhase.DISPUTED,), data)
        c = self.model.channels[index]
        if c.deadline + around > self.model.now:
            self.tick(c.deadline + around - self.model.now)

    @rule(seconds=st.sampled_from([1, 30, 59, 60, 61, 89, 90, 91, 5000]))
    def time_passes(self, seconds):
        self.tick(seconds)

    def deposit_credit(self, by, amount):
        self.tick()
        self.act("depositCredit", PARTIES[by], self.model.deposit_credit(by, amount), value=amount)

    @precondition(lambda self: any(self.model.credit.values()))
    @rule(index=parties, by=parties)
    def withdraw_credit(self, index, by):
        self.tick()
        expected = self.model.withdraw_credit(by, self.model.channels[index].asset)
        self.act("withdrawCredit", PARTIES[by], expected, self.world.terms[index].asset)

    @rule(by=parties, asset=st.sampled_from(["ETH", "token"]))
    def refuse_or_not(self, by, asset):
        """An account that takes no money for a while: code that reverts, or a token that blocks it."""
        self.tick()
        self.model.refusing ^= {(by, asset)}
        refusing = (by, asset) in self.model.refusing
        if asset == "ETH":
            self.world.node.rpc("anvil_setCode", PARTIES[by], REVERTS if refusing else "0x")
        else:
            blocking = bytes.fromhex("000af2a1") + _words(PARTIES[by], int(refusing))
            assert evm.send(self.world.node, STRANGER, self.world.token, blocking, at=self.model.now)

    # ------------------------------------------------------------------ what is always true

    @invariant()
    def the_contract_shows_what_the_model_says_and_holds_what_it_owes(self):
        views, money = self.world.shown()
        assert [tuple(view) for view in views] == [c.view for c in self.model.channels]
        expected = []
        for asset in ("ETH", "token"):
            expected += [RICH + self.model.moved[party, asset] for party in (0, 1)]
            expected += [self.model.credit[party, asset] for party in (0, 1)]
            expected.append(self.model.held(asset))
        assert money == expected


def test_the_contract_does_what_the_model_says_whoever_the_parties_are(world):
    Parties.world, Parties.seen = world, Counter()
    # About 40 s, and always the same walks. More examples are a longer search and the same test.
    limits = settings(max_examples=400, stateful_step_count=50, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(Parties, settings=limits)
    missed = [(name, done) for name in (*SEEN, "fine") for done in (True, False) if not Parties.seen[name, done]]
    assert not missed, "a search that never saw these shows nothing about them"
