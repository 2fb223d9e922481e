"""The real ChannelManager beside a model of it: honest, lazy, lying and crashed parties, two channels, time that jumps.

After every step the contract shows what the model says, holds what it owes, and an honest party never gets less than the newest
state that both signed gives it.
"""

import asyncio
import contextlib
import dataclasses
from collections import defaultdict

import pytest
from hypothesis import HealthCheck, assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test
from tests.support import evm
from tests.support.anvil import BINARY, CHAIN_ID, Anvil, account, running
from tests.support.channel_model import LIVE, Channel, Model, State

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
REVERTS = "0x60006000fd"
amounts = st.integers(0, 1000)
parties = st.integers(0, 1)
channels = st.integers(0, 1)


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
    if not BINARY.exists():
        pytest.skip("anvil is not installed: npm ci --prefix contracts")
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
        self.worth = {}  # (channel, party) -> what it had before the channel was settled

    def teardown(self):
        self.undoing.__exit__(None, None, None)

    @initialize(characters=st.tuples(*[st.sampled_from(["honest", "lazy", "lying", "crashed"])] * 2))
    def begin(self, characters):
        self.characters = characters

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

    def close(self, index, s, *, signers, sender=STRANGER):
        consent = {*signers, *(party for party in (0, 1) if PARTIES[party] == sender)} == {0, 1}
        expected = self.settling(index, lambda: self.model.close(self.model.channels[index], s, consent=consent))
        state, signed = self.signatures(index, s, signers, close=True)
        return self.act("close", sender, expected, self.world.place(index), state, *signed)

    def finalize(self, index, sender=STRANGER):
        expected = self.settling(index, lambda: self.model.finalize(self.model.channels[index]))
        return self.act("finalize", sender, expected, self.world.place(index))

    # ------------------------------------------------------------------ opening

    @rule(index=channels, by=parties, deposit=amounts, peers=amounts)
    def open(self, index, by, deposit, peers):
        self.tick()
        c = self.model.channels[index]
        expected = self.model.open(c, by, deposit, peers)
        self.act("open", PARTIES[by], expected, self.world.place(index), deposit, peers, value=deposit if c.asset == "ETH" else 0)

    @rule(index=channels, by=parties, late=st.integers(0, 5).map(lambda n: n == 0))
    def join(self, index, by, late):
        self.tick()
        c = self.model.channels[index]
        epoch, deposit = c.epoch - late, c.balances[by]
        assume(epoch >= 0)
        expected = self.model.join(c, by, epoch)
        self.act("join", PARTIES[by], expected, self.world.place(index), epoch, value=deposit if c.asset == "ETH" else 0)

    @rule(index=channels, by=parties, deposits=st.tuples(amounts, amounts), lead=st.integers(-1, 3), honest=st.booleans())
    def open_both(self, index, by, deposits, lead, honest):
        self.tick()
        c = self.model.channels[index]
        until, epoch = self.model.now + lead, c.epoch + (1 if honest else 0)
        digest = open_digest(
            self.domain, channel_id(*PARTIES, self.world.terms[index]), epoch=epoch, deposit_a=deposits[0], deposit_b=deposits[1], deadline=until
        )  # fmt: skip
        expected = self.model.open_both(c, by, deposits, until=until, peer_signed=honest)
        signature = KEYS[PARTIES[1 - by]].sign(digest)
        value = deposits[by] if c.asset == "ETH" else 0
        self.act("openBoth", PARTIES[by], expected, self.world.place(index), *deposits, until, signature, value=value)

    @rule(index=channels, by=parties)
    def cancel(self, index, by):
        self.tick()
        self.act("cancel", PARTIES[by], self.model.cancel(self.model.channels[index], by), self.world.place(index))

    # ------------------------------------------------------------------ off chain

    @precondition(lambda self: "crashed" not in self.characters and any(c.phase in LIVE for c in self.model.channels))
    @rule(index=channels, share=st.floats(0, 1))
    def agree(self, index, share):
        """Both sign the next state. Who has signed a Close signs no more."""
        c = self.model.channels[index]
        assume(c.phase is ChannelPhase.OPEN and (index, c.epoch) not in self.final)
        total = sum(c.balances)
        mine = int(share * total)
        self.agreed[index, c.epoch].append(State(epoch=c.epoch, sequence=self.newest(index).sequence + 1, balances=(mine, total - mine)))

    @precondition(lambda self: "crashed" not in self.characters)
    @rule(index=channels)
    def agree_to_close(self, index):
        c = self.model.channels[index]
        assume(c.phase in LIVE)
        self.final.setdefault((index, c.epoch), self.newest(index))

    # ------------------------------------------------------------------ each as it is

    @rule(index=channels, by=parties, data=st.data())
    def move(self, index, by, data):
        """A party does what one of its character does."""
        character = self.characters[by]
        if character == "crashed":
            return
        self.tick()
        c, newest = self.model.channels[index], self.newest(index)
        if character == "lying":
            self.lie(index, by, data)
        elif c.phase is ChannelPhase.DISPUTED and self.model.now > c.deadline:
            assert self.finalize(index, PARTIES[by])
        elif (index, c.epoch) in self.final and c.phase in LIVE:
            self.close(index, self.final[index, c.epoch], signers=(1 - by,), sender=PARTIES[by])
        elif character == "honest" and c.phase is ChannelPhase.OPEN and data.draw(st.booleans()):
            assert self.challenge(index, by, newest)
        elif character == "honest" and c.phase is ChannelPhase.DISPUTED and newest.sequence > c.sequence:
            assert self.respond(index, newest, signers=(1 - by, by), sender=PARTIES[by])

    def lie(self, index, by, data):
        """Old states, states of old epochs, states that nobody else signed, states that make money: as a challenge, an answer, a close."""
        c = self.model.channels[index]
        known = [s for (of, _), states in self.agreed.items() if of == index for s in states]
        invented = State(epoch=c.epoch, sequence=data.draw(st.integers(0, 9)), balances=(sum(c.balances), 0)[:: 1 if by == 0 else -1])
        richer = dataclasses.replace(invented, balances=(invented.balances[0] + 1, invented.balances[1]))
        s = data.draw(st.sampled_from([*known[-6:], invented, richer]))
        peer_signed = s in known
        how = data.draw(st.sampled_from(["challenge", "challenge", "respond", "close", "finalize"]))
        if how == "challenge":
            self.challenge(index, by, s, peer_signed=peer_signed)
        elif how == "respond":
            self.respond(index, s, signers=(0, 1) if peer_signed else (by,), sender=STRANGER)
        elif how == "close":
            self.close(index, s, signers=(by,), sender=PARTIES[by])  # a State's signature is none for a Close
        else:
            self.finalize(index, PARTIES[by])

    @rule(index=channels)
    def a_stranger_finishes(self, index):
        self.tick()
        c = self.model.channels[index]
        if (index, c.epoch) in self.final:
            self.close(index, self.final[index, c.epoch], signers=(0, 1))
        else:
            self.finalize(index)

    # ------------------------------------------------------------------ time and money

    @rule(seconds=st.sampled_from([1, 30, 58, 59, 60, 61, 89, 90, 91, 5000]))
    def time_passes(self, seconds):
        self.tick(seconds)

    @rule(by=parties, amount=amounts)
    def deposit_credit(self, by, amount):
        self.tick()
        self.act("depositCredit", PARTIES[by], self.model.deposit_credit(by, amount), value=amount)

    @rule(index=channels, by=parties)
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
    Parties.world = world
    # About 40 s. Raise the examples for a longer search: the test is the same.
    limits = settings(max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(Parties, settings=limits)
