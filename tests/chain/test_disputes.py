"""Two operators, their journals and the real ChannelManager: what was co-signed off chain is what the chain pays."""

import dataclasses

import pytest
from tests.support.anvil import CHAIN_ID, account, caught_up
from tests.support.channels import MIB, SANDBOXES, TASK, TERMS, Agents, paid

from veilpod.chain.journal import Journal
from veilpod.control.metrics import Metrics
from veilpod.control.money import exposure, show
from veilpod.core.channel import dispute
from veilpod.core.channel.machine import Machine, Party, Persist, Send
from veilpod.core.channel.rules import Link
from veilpod.core.channel.state import channel_id, opening_state, order
from veilpod.core.entities import ChannelPhase
from veilpod.core.ids import ServerIndex
from veilpod.core.typed_data import Domain
from veilpod.errors import ChainRejected

pytestmark = pytest.mark.chain

DEPOSIT = 10**9
PRICE = 1000
PENALISED = dataclasses.replace(TERMS, penalty_bps=1000, challenge_period=60)


@dataclasses.dataclass
class Operator:
    chain: object
    machine: Machine
    journal: Journal

    def perform(self, effects, peer=None):
        """Like an operator's shell. Without a peer, what is sent gets lost."""
        for effect in effects:
            if isinstance(effect, Persist):
                self.journal.append(effect.record)
            elif isinstance(effect, Send) and peer is not None:
                peer.perform(peer.machine.on_message(effect.payload), self)


@dataclasses.dataclass
class Pair:
    node: object
    a: Operator
    b: Operator
    link: Link
    agents: Agents

    @property
    def place(self):
        return self.link.a, self.link.b, PENALISED

    def transfer(self, direction, mib=1, *, lost=False):
        receipt = self.agents.transfer(direction, mib * MIB)
        self.a.perform(self.a.machine.on_receipt(receipt), None if lost else self.b)

    async def on_chain(self, reader=None):
        chain = (reader or self.a).chain
        await caught_up(chain, self.node)
        return await chain.reader.channel(self.link.channel)

    async def paid(self):
        """What closing paid to both, from the event."""
        return paid(self.node, self.link.channel)


@pytest.fixture
async def pair(anvil, open_chain, tmp_path):
    keys = {account(index).address: index for index in (1, 2)}
    a, b = order(*keys)
    chains = [await open_chain(keys[party]) for party in (a, b)]
    channel = channel_id(a, b, PENALISED)
    await chains[0].writer.open_channel(a, b, PENALISED, deposit=DEPOSIT, peer_deposit=DEPOSIT)
    await chains[1].writer.join_channel(a, b, PENALISED, epoch=1, deposit=DEPOSIT)
    link = Link(
        channel=channel, domain=Domain(chain_id=CHAIN_ID, contract=anvil.addresses.channels), task=TASK,
        servers=(ServerIndex(0), ServerIndex(1)), a=a, b=b, sandbox_a=SANDBOXES[0].address, sandbox_b=SANDBOXES[1].address, price=PRICE,
    )  # fmt: skip
    opening = opening_state(epoch=1, deposit_a=DEPOSIT, deposit_b=DEPOSIT)
    operators = [
        Operator(
            chain=chain, machine=Machine(link=link, party=party, key=account(keys[address]), opening=opening),
            journal=Journal.open(tmp_path / party.value),
        )
        for chain, party, address in zip(chains, Party, (a, b), strict=True)
    ]  # fmt: skip
    yield Pair(anvil, *operators, link, Agents())
    for operator in operators:
        operator.journal.close()


async def test_a_final_state_of_two_machines_closes_at_once(pair):
    pair.transfer(0, 3)
    pair.transfer(1, 1)
    pair.a.perform(pair.a.machine.finalise(), pair.b)
    final = dispute.closing(await pair.on_chain(pair.b), pair.b.journal.newest(pair.link.channel))
    assert final == pair.a.machine.finished
    await pair.b.chain.writer.close_channel(*pair.place, final.state, final.close_a, final.close_b)
    assert (await pair.on_chain()).phase is ChannelPhase.CLOSED
    assert await pair.paid() == (DEPOSIT - 2 * PRICE, DEPOSIT + 2 * PRICE)
    await pair.a.chain.writer.close_channel(*pair.place, final.state, final.close_a, final.close_b)  # nothing is left to do


async def test_a_dead_peer_costs_patience_and_no_money(pair):
    pair.transfer(0, 3)
    pair.transfer(0, 5, lost=True)  # b never hears of it: the proposal is in flight for ever
    state, signed = dispute.challenging(await pair.on_chain(), pair.a.journal.newest(pair.link.channel))
    assert (state.sequence, state.balance_a) == (1, DEPOSIT - 3 * PRICE)
    await pair.a.chain.writer.challenge(*pair.place, state, signed.signature_b)
    disputed = await pair.on_chain()
    assert disputed.phase is ChannelPhase.DISPUTED
    with pytest.raises(ChainRejected) as caught:
        await pair.a.chain.writer.finalize(*pair.place)
    assert caught.value.reason == "WaitUntilAfter"
    pair.node.advance(61)
    await pair.a.chain.writer.finalize(*pair.place)
    assert await pair.paid() == (DEPOSIT - 3 * PRICE, DEPOSIT + 3 * PRICE)


async def test_a_peer_that_disputes_with_an_old_state_is_answered_and_fined(pair):
    pair.transfer(0, 3)
    old = pair.a.machine.agreed
    pair.transfer(0, 4)
    pair.transfer(0, 5)
    await pair.a.chain.writer.challenge(*pair.place, old.state, old.signature_b)
    newest = dispute.answer(await pair.on_chain(pair.b), pair.b.journal.newest(pair.link.channel), now=await pair.b.chain.reader.now())
    assert newest.state.sequence == 3
    await pair.b.chain.writer.respond(*pair.place, newest.state, newest.signature_a, newest.signature_b)
    assert dispute.answer(await pair.on_chain(pair.b), newest, now=0) is None
    pair.node.advance(61)
    await pair.b.chain.writer.finalize(*pair.place)
    penalty = 2 * DEPOSIT // 10
    assert await pair.paid() == (DEPOSIT - 12 * PRICE - penalty, DEPOSIT + 12 * PRICE + penalty)


async def test_an_acceptor_may_use_what_the_proposer_signed_and_nobody_is_fined(pair):
    pair.transfer(0, 3)
    behind = pair.a.machine.agreed
    receipt = pair.agents.transfer(0, MIB)
    for effect in pair.a.machine.on_receipt(receipt):  # b signs, its answer is lost: a is one behind
        if isinstance(effect, Send):
            pair.b.perform(pair.b.machine.on_message(effect.payload))
    assert pair.b.machine.agreed.state.sequence == 2
    await pair.a.chain.writer.challenge(*pair.place, behind.state, behind.signature_b)
    newest = dispute.answer(await pair.on_chain(pair.b), pair.b.journal.newest(pair.link.channel), now=0)
    await pair.b.chain.writer.respond(*pair.place, newest.state, newest.signature_a, newest.signature_b)
    pair.node.advance(61)
    await pair.a.chain.writer.finalize(*pair.place)
    assert await pair.paid() == (DEPOSIT - 4 * PRICE, DEPOSIT + 4 * PRICE)


async def test_a_channel_without_a_state_ends_with_its_deposits(pair):
    state, signed = dispute.challenging(await pair.on_chain(pair.b), None)
    assert signed is None
    await pair.b.chain.writer.challenge(*pair.place, state, b"")
    pair.node.advance(61)
    await pair.b.chain.writer.finalize(*pair.place)
    assert await pair.paid() == (DEPOSIT, DEPOSIT)


async def test_an_opener_takes_its_deposit_back_when_nobody_joins(anvil, open_chain):
    me = account(1).address
    a, b = order(me, account(5).address)
    chain = await open_chain(1)
    await chain.writer.open_channel(a, b, TERMS, deposit=5, peer_deposit=6)
    await chain.writer.cancel_channel(a, b, TERMS)
    await chain.writer.cancel_channel(a, b, TERMS)
    found = await chain.reader.channel(channel_id(a, b, TERMS))
    assert (found.phase, found.epoch) == (ChannelPhase.CLOSED, 1)


async def test_a_window_in_which_we_owe_an_answer_is_shown_with_what_is_left_of_it(pair):
    pair.transfer(0, 3)
    old = pair.a.machine.agreed
    pair.transfer(0, 4)
    await pair.a.chain.writer.challenge(*pair.place, old.state, old.signature_b)
    newest = pair.b.journal.newest(pair.link.channel)
    metrics = Metrics()

    async def look(after):
        disputed = await pair.on_chain(pair.b)
        show(metrics, [exposure(disputed, newest, is_a=False, terms=PENALISED)], now=disputed.deadline - 60 + after)
        names = {answer: {"window": "1", "answer": answer} for answer in ("owed", "none")}
        return {a: metrics.registry.get_sample_value("veilpod_challenge_window_left_ratio", labels) for a, labels in names.items()}

    assert await look(after=15) == {"owed": 0.75, "none": None}
    await pair.b.chain.writer.respond(*pair.place, newest.state, newest.signature_a, newest.signature_b)
    assert await look(after=30) == {"owed": None, "none": 0.5}
    assert metrics.registry.get_sample_value("veilpod_channel_deposits_wei") == DEPOSIT + 7 * PRICE
