import dataclasses
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.channels import CHANNEL, DOMAIN, KEYS, MIB, A, Agents, B, machine

from veilpod.core.canonical import canonical, parse_canonical
from veilpod.core.channel import messages
from veilpod.core.channel.machine import Covered, Finished, Party, Persist, Send, Violated
from veilpod.core.channel.records import decode, encode
from veilpod.core.channel.state import parse_state
from veilpod.core.keys import recover
from veilpod.errors import InvalidInput, ProtocolViolation


class Crash(Exception):
    """The process of a party ends here."""


class Node:
    """A party with its journal (bytes, as on disk), its agent's events, and a switch that ends it between two effects."""

    def __init__(self, party, agents, world, **options):
        self.party, self.agents, self.world, self.options = party, agents, world, options
        self.journal, self.crash_after, self.violations = [], None, []
        self.acknowledged = 0
        self.start()

    def start(self):
        self.machine = machine(self.party, tuple(decode(record) for record in self.journal), **self.options)

    def perform(self, effects):
        for number, effect in enumerate(effects):
            if self.crash_after == number:
                raise Crash
            match effect:
                case Persist():
                    self.journal.append(encode(effect.record))
                case Send():
                    self.world.send(self.party, canonical(effect.payload))
                case Violated():
                    self.violations.append(effect.code)

    def run(self, step, crash_after=None):
        """Do one thing, perhaps dying after some effects; then live again from the journal, with the agent's events repeated."""
        self.crash_after = crash_after
        try:
            self.perform(step(self.machine))
        except Crash:
            self.start()
            return False
        finally:
            self.crash_after = None
        return True

    def hear_agent(self, crash_after=None):
        """Take the agent's events from the last one that was acknowledged. Dying in between means hearing the rest in another life."""
        for number in range(self.acknowledged, len(self.agents.receipts)):
            receipt = self.agents.receipts[number]
            if not self.run(lambda m, receipt=receipt: m.on_receipt(receipt), crash_after):
                return
            self.acknowledged = number + 1 if number % 3 else self.acknowledged  # some acknowledgements get lost


class World:
    """A link that loses, repeats and reorders; and the eyes of a court, which see every signature that ever left."""

    def __init__(self):
        self.wires = {Party.A: [], Party.B: []}
        self.seen = {Party.A: {}, Party.B: {}}
        self.total = None

    def send(self, sender, payload):
        self.observe(sender, parse_canonical(payload))
        self.wires[sender].append(payload)

    def observe(self, sender, payload):
        message = messages.parse(payload)
        if isinstance(message, messages.Propose):
            state = message.state
            assert recover(state.digest(DOMAIN, CHANNEL), message.signature) == A
            assert state.total == self.total
            assert self.seen[Party.A].setdefault(state.version, (state, message.final)) == (state, message.final)
        elif isinstance(message, messages.Cosign):
            state, final = self.seen[Party.A][message.version]
            assert recover(state.digest(DOMAIN, CHANNEL), message.signature) == B
            assert bool(message.close_signature) == final
            assert self.seen[Party.B].setdefault(message.version, state) == state


def pair(**options):
    world, agents = World(), Agents()
    nodes = {party: Node(party, agents, world, **options) for party in Party}
    world.total = nodes[Party.A].machine.state.total
    return world, agents, nodes


def settle(world, agents, nodes):
    """From now on nothing is lost and nobody dies: both must come to the same end."""
    for _ in range(60):
        for party, node in nodes.items():
            node.hear_agent()
            node.run(lambda m: m.finalise())
            other = nodes[Party.B if party is Party.A else Party.A]
            while world.wires[party]:
                payload = parse_canonical(world.wires[party].pop(0))
                other.run(lambda m, payload=payload: m.on_message(payload))
        if all(node.machine.finished for node in nodes.values()):
            return
    raise AssertionError("no final state")


crashes = st.sampled_from([None, None, None, None, 0, 1, 2])
transfer = st.tuples(st.just("transfer"), st.integers(0, 1), st.integers(1, 3 * MIB))
hear = st.tuples(st.just("hear"), st.sampled_from(Party), crashes)
deliver_one = st.tuples(st.just("deliver"), st.sampled_from(Party), st.integers(0, 5), st.booleans(), crashes)
drop = st.tuples(st.just("drop"), st.sampled_from(Party), st.integers(0, 5))
again = st.tuples(st.just("again"), st.sampled_from(Party), crashes)
restart = st.tuples(st.just("restart"), st.sampled_from(Party))
end = st.tuples(st.just("end"), st.sampled_from(Party), crashes)
pump = st.tuples(st.just("pump"), st.permutations(list(Party)), crashes)
busy = st.one_of(transfer, transfer, hear, hear, deliver_one, pump, pump, drop, again, again, restart)
ending = st.one_of(hear, deliver_one, pump, pump, drop, again, restart, end, end)
short = st.builds(lambda first, last: first + last, st.lists(busy, max_size=40), st.lists(ending, max_size=20))


def long_script(seed):
    """Lists of hypothesis are short, and a channel gets interesting after a while: a hundred steps from one number."""
    choose = random.Random(seed)
    party = lambda: choose.choice(list(Party))  # noqa: E731
    crash = lambda: choose.choice([None] * 6 + [0, 1, 2])  # noqa: E731
    makers = {
        "transfer": lambda: (choose.randrange(2), choose.randrange(1, 3 * MIB)),
        "hear": lambda: (party(), crash()),
        "deliver": lambda: (party(), choose.randrange(6), choose.random() < 0.5, crash()),
        "pump": lambda: (choose.sample(list(Party), 2), crash()),
        "drop": lambda: (party(), choose.randrange(6)),
        "again": lambda: (party(), crash()),
        "restart": lambda: (party(),),
        "end": lambda: (party(), crash()),
    }
    busy = choose.choices(list(makers)[:-1], weights=[4, 6, 4, 8, 2, 4, 1], k=choose.randrange(100))
    ending = choose.choices(list(makers), weights=[0, 3, 4, 4, 2, 4, 1, 4], k=choose.randrange(25))
    return [(name, *makers[name]()) for name in busy + ending]


steps = st.one_of(short, st.integers(0, 2**64).map(long_script))


def play(script, **options):
    world, agents, nodes = pair(**options)
    ended = False
    for step in script:
        match step:
            case ("transfer", direction, size) if not ended:
                agents.transfer(direction, size)
            case ("hear", party, crash_after):
                nodes[party].hear_agent(crash_after=crash_after)
            case ("deliver", sender, index, keep, crash_after) if world.wires[sender]:
                wire = world.wires[sender]
                payload = wire[index % len(wire)] if keep else wire.pop(index % len(wire))
                receiver = nodes[Party.B if sender is Party.A else Party.A]
                receiver.run(lambda m, payload=payload: m.on_message(parse_canonical(payload)), crash_after)
            case ("pump", senders, crash_after):
                for sender in senders:
                    receiver = nodes[Party.B if sender is Party.A else Party.A]
                    while world.wires[sender]:
                        payload = parse_canonical(world.wires[sender].pop(0))
                        receiver.run(lambda m, payload=payload: m.on_message(payload), crash_after)
            case ("drop", sender, index) if world.wires[sender]:
                world.wires[sender].pop(index % len(world.wires[sender]))
            case ("again", party, crash_after):
                nodes[party].run(lambda m: m.next_message(), crash_after)
            case ("end", party, crash_after):
                # `finalise` is called when the link is flushed: every receipt is in at this party.
                ended = True
                nodes[party].hear_agent()
                nodes[party].run(lambda m: m.finalise(), crash_after)
            case ("restart", party):
                nodes[party].start()
    return world, agents, nodes


@settings(max_examples=300, deadline=None)
@given(steps, st.sampled_from([0, 700, 4000]))
def test_two_parties_agree_on_one_final_state_whatever_is_lost_repeated_late_or_crashes(script, price):
    world, agents, nodes = play(script, price=price)
    settle(world, agents, nodes)
    a, b = (nodes[party].machine.finished for party in (Party.A, Party.B))
    assert a == b
    assert a.complete
    assert a.final
    assert recover(a.state.close_digest(DOMAIN, CHANNEL), a.close_a) == A
    assert recover(a.state.close_digest(DOMAIN, CHANNEL), a.close_b) == B
    assert a.state.total == world.total
    assert not nodes[Party.A].violations
    assert not nodes[Party.B].violations
    if price == 0:
        assert nodes[Party.A].machine.unpaid == 0


@settings(max_examples=150, deadline=None)
@given(steps)
def test_whoever_dies_at_any_moment_still_has_every_state_that_the_other_could_show(script):
    world, _, nodes = play(script)
    for node in nodes.values():
        node.start()
    # What a gave away it can offer again, and nothing else with that version.
    for version, (state, final) in world.seen[Party.A].items():
        remembered = [decode(record).signed for record in nodes[Party.A].journal if b'"state"' in record]
        assert any((s.state, s.final) == (state, final) for s in remembered if s.state.version == version)
    # What b gave away it can answer a dispute with.
    newest = max(world.seen[Party.B], default=0)
    if newest:
        assert nodes[Party.B].machine.agreed.state.version >= newest


def deliver(effects, other):
    result = []
    for effect in effects:
        if isinstance(effect, Send):
            result += other.on_message(effect.payload)
    return tuple(result)


def only(effects, kind):
    return [effect for effect in effects if isinstance(effect, kind)]


def test_a_state_is_written_down_before_its_signature_leaves():
    a, b, agents = machine(Party.A), machine(Party.B), Agents()
    proposal = a.on_receipt(agents.transfer(0, MIB))
    assert [type(effect) for effect in proposal] == [Persist, Persist, Send]
    cosign = deliver(proposal, b)
    assert [type(effect) for effect in cosign][:2] == [Persist, Send]
    agreed = deliver(cosign, a)
    assert [type(effect) for effect in agreed] == [Persist, Covered]
    assert agreed[1] == Covered(received_by_a=MIB, received_by_b=0)
    assert (a.state.balance_a, a.state.balance_b) == (9_000, 11_000)
    assert a.agreed == b.agreed


def test_at_most_one_proposal_is_in_flight():
    a, agents = machine(Party.A), Agents()
    assert only(a.on_receipt(agents.transfer(0, MIB)), Send)
    assert not only(a.on_receipt(agents.transfer(1, MIB)), Send)
    assert not only(a.on_receipt(agents.transfer(0, MIB)), Send)
    assert only(a.next_message(), Send) == only(a.next_message(), Send)


def test_nothing_is_signed_after_the_final_state():
    a, b, agents = machine(Party.A), machine(Party.B), Agents()
    final = a.finalise()
    done = deliver(deliver(final, b), a)
    assert only(done, Finished)
    assert b.finished == a.finished
    assert not only(a.on_receipt(agents.transfer(0, MIB)), Send)
    assert a.next_message() == a.finalise() == ()
    other = machine(Party.A)
    other.on_receipt(agents.receipts[0])
    later = {"propose": only(other.next_message(), Send)[0].payload["propose"]}
    later["propose"]["state"]["version"] += 1
    assert only(b.on_message(later), Violated)[0].code == "ChannelFinal"


def test_a_flush_waits_for_the_receipts_it_counts():
    a, agents = machine(Party.A), Agents()
    first, second = agents.transfer(1, MIB), agents.transfer(0, 10)
    flush = {"flush": {"sent": 10, "received": MIB}}
    assert a.on_message(flush) == ()
    assert not only(a.on_receipt(first), Send)[0].payload["propose"]["final"]
    b = machine(Party.B)
    proposal = only(a.next_message(), Send)
    cosign = only(deliver(proposal, b), Send)
    a.on_receipt(second)
    final = only(deliver(cosign, a), Send)[0].payload["propose"]
    assert final["final"]
    assert parse_state(final["state"]).sequence == 2


def test_two_states_with_one_version_are_never_signed_by_an_honest_acceptor():
    b, agents = machine(Party.B), Agents()
    one, other = machine(Party.A), machine(Party.A)
    first = only(one.on_receipt(agents.transfer(0, MIB)), Send)[0].payload
    second = only(other.finalise(), Send)[0].payload
    assert only(b.on_message(first), Send)
    again = b.on_message(second)
    assert [type(effect) for effect in again] == [Violated]
    assert again[0].code == "VersionTaken"
    assert only(b.on_message(first), Send)  # the true one is answered again


@pytest.mark.parametrize("side", list(Party))
def test_rubbish_moves_nothing(side):
    party = machine(side)
    before = party.state
    for payload in (None, {}, [], {"propose": {}}, {"cosign": {"version": 1}}, {"x": {}}, {"flush": {"sent": -1, "received": 0}}):
        effects = party.on_message(payload)
        assert [type(effect) for effect in effects] == [Violated]
    assert party.state == before


def test_a_forged_cosignature_is_not_taken_and_the_right_one_still_is():
    a, b, agents = machine(Party.A), machine(Party.B), Agents()
    proposal = a.on_receipt(agents.transfer(0, MIB))
    cosign = only(deliver(proposal, b), Send)[0].payload
    forged = {"cosign": {**cosign["cosign"], "signature": "0x" + KEYS[Party.A].sign(bytes(32)).hex()}}
    assert only(a.on_message(forged), Violated)[0].code == "BadSignature"
    assert a.agreed is None
    a.on_message(cosign)
    assert a.agreed == b.agreed


def test_a_proposal_signed_by_somebody_else_is_rejected():
    a, b, agents = machine(Party.A), machine(Party.B), Agents()
    payload = only(a.on_receipt(agents.transfer(0, MIB)), Send)[0].payload
    payload["propose"]["signature"] = "0x" + KEYS[Party.B].sign(bytes(32)).hex()
    violated, reject = b.on_message(payload)
    assert (violated.code, violated.fatal) == ("BadSignature", False)
    assert reject.payload["reject"]["code"] == "BadSignature"
    # The proposer cannot offer anything else with this version: what is agreed stands.
    assert a.on_message(reject.payload) == (Violated(code="BadSignature", fatal=True),)
    assert a.broken
    assert a.next_message() == a.finalise() == ()


def test_a_channel_starts_afresh_in_a_new_epoch():
    a, agents = machine(Party.A), Agents()
    effects = a.on_receipt(agents.transfer(0, MIB))
    records = tuple(effect.record for effect in only(effects, Persist))
    again = machine(Party.A, records)
    assert only(again.next_message(), Send) == only(effects, Send)
    fresh = type(a)(link=a._link, party=Party.A, key=KEYS[Party.A], opening=dataclasses.replace(a.state, version=2 << 40), records=records)
    assert fresh.state.version == 2 << 40
    assert fresh.unpaid == 0


def test_a_machine_signs_only_for_its_own_account():
    with pytest.raises(InvalidInput):
        type(machine(Party.A))(link=machine(Party.A)._link, party=Party.A, key=KEYS[Party.B], opening=machine(Party.A).state)


def test_a_receipt_with_a_gap_is_refused():
    a, agents = machine(Party.A), Agents()
    agents.transfer(0, 1)
    with pytest.raises(ProtocolViolation):
        a.on_receipt(agents.transfer(0, 1))
