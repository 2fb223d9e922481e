"""What the operator shows of its money, and what its readiness probe says about the chain."""

import dataclasses
import types

import prometheus_client
import pytest
from tests.support.channels import CHANNEL, TERMS, opening

from veilpod.chain import Chain
from veilpod.control.app import Operator
from veilpod.control.metrics import Metrics
from veilpod.control.money import AccountMetrics, Exposure, exposure, show
from veilpod.core.channel.records import Signed
from veilpod.core.channel.state import ChannelState
from veilpod.core.entities import NATIVE, ChainChannel, ChannelPhase
from veilpod.errors import ChainUnavailable

PERIOD = 1000


def chain_channel(phase, *, sequence=0, deadline=0, a=100, b=200):
    return ChainChannel(id=CHANNEL, phase=phase, epoch=1, sequence=sequence, deadline=deadline, balance_a=a, balance_b=b)


def signed(sequence, a=30, b=270):
    state = ChannelState(version=opening().version + sequence, balance_a=a, balance_b=b, data_hash=bytes(32))
    return Signed(state=state, final=False, signature_a=b"a", signature_b=b"b")


def window(deadline, *, owed, phase=ChannelPhase.DISPUTED):
    return Exposure(phase=phase, own=5, asset=NATIVE, deadline=deadline, period=PERIOD, owed=owed)


def sample(metrics, name, **labels):
    return metrics.registry.get_sample_value(name, labels)


def test_an_answer_is_owed_while_the_dispute_is_about_an_older_state_than_ours():
    disputed = chain_channel(ChannelPhase.DISPUTED, sequence=1, deadline=5000)
    assert exposure(disputed, signed(2), is_a=True, terms=TERMS).owed
    assert not exposure(disputed, signed(1), is_a=True, terms=TERMS).owed
    assert not exposure(disputed, None, is_a=True, terms=TERMS).owed
    assert not exposure(chain_channel(ChannelPhase.OPEN), signed(2), is_a=True, terms=TERMS).owed


@pytest.mark.parametrize(("is_a", "ours"), [(True, 30), (False, 270)])
def test_what_is_ours_in_a_channel_is_what_both_signed_last_and_nothing_once_it_is_closed(is_a, ours):
    assert exposure(chain_channel(ChannelPhase.OPEN), signed(2), is_a=is_a, terms=TERMS).own == ours
    assert exposure(chain_channel(ChannelPhase.OPEN), None, is_a=is_a, terms=TERMS).own == (100 if is_a else 200)
    assert exposure(chain_channel(ChannelPhase.CLOSED), signed(2), is_a=is_a, terms=TERMS).own == 0


def test_what_is_in_tokens_is_not_added_to_what_is_in_coin():
    metrics = Metrics()
    coin = Exposure(phase=ChannelPhase.OPEN, own=7, asset=NATIVE, deadline=0, period=PERIOD, owed=False)
    token = dataclasses.replace(coin, own=5, asset="0xT")
    show(metrics, [coin, token, token], now=1000)
    assert sample(metrics, "veilpod_channel_deposits_wei") == 7
    assert sample(metrics, "veilpod_channel_deposits_tokens", asset="0xT") == 10
    show(metrics, [coin], now=1000)
    assert sample(metrics, "veilpod_channel_deposits_tokens", asset="0xT") is None


def test_every_window_shows_what_is_left_of_it_those_first_in_which_we_owe_an_answer():
    metrics = Metrics()
    open_one = Exposure(phase=ChannelPhase.OPEN, own=7, asset=NATIVE, deadline=0, period=PERIOD, owed=False)
    show(metrics, [window(1300, owed=False), open_one, window(1900, owed=True), window(1600, owed=True)], now=1000)
    left = {(n, a): sample(metrics, "veilpod_challenge_window_left_seconds", window=n, answer=a) for n in "1234" for a in ("owed", "none")}
    assert {key: value for key, value in left.items() if value is not None} == {("1", "owed"): 600, ("2", "owed"): 900, ("3", "none"): 300}
    assert sample(metrics, "veilpod_challenge_window_left_ratio", window="1", answer="owed") == 0.6
    assert sample(metrics, "veilpod_channels", phase="Disputed") == 3
    assert sample(metrics, "veilpod_channel_deposits_wei") == 22

    show(metrics, [window(1600, owed=True)], now=1700)  # the alert must not end because the time has
    assert sample(metrics, "veilpod_challenge_window_left_ratio", window="1", answer="owed") == 0
    show(metrics, [], now=1700)
    assert sample(metrics, "veilpod_challenge_window_left_ratio", window="1", answer="owed") is None
    assert sample(metrics, "veilpod_channels", phase="Disputed") == 0


def test_no_label_of_any_metric_could_name_a_channel_a_task_or_a_place():
    metrics = Metrics()
    show(metrics, [window(1600, owed=True)], now=1000)
    text = prometheus_client.generate_latest(metrics.registry).decode()
    assert CHANNEL.hex() not in text
    known = {
        "asset",
        "kind",
        "reason",
        "effect",
        "type",
        "status",
        "outcome",
        "state",
        "phase",
        "window",
        "answer",
        "tower",
    }  # a tower is its number in the values
    for metric in metrics.registry._collector_to_names:
        assert set(metric._labelnames) <= known


class FakeChain:
    """What the probes and metrics read of a connection."""

    failure = disagreement = None
    reachable = True
    problem = Chain.problem
    head_age = reorgs = disagreements = foreign_transactions = pending_transactions = 0
    second_silence = 0.0
    gas_price = 3
    writer = types.SimpleNamespace(address="0x01")

    def __init__(self):
        self.lines = []
        self.reader = self

    def history(self):
        return self.lines

    async def balance(self, owner):
        return 10**18


async def test_gas_and_transactions_are_counted_once_and_an_unanswered_balance_keeps_its_value():
    metrics, chain = Metrics(), FakeChain()
    account = AccountMetrics(metrics)
    for succeeded, fee in ((True, 100), (False, 40)):
        chain.lines.append(types.SimpleNamespace(succeeded=succeeded, fee=fee))
        await account.measure(chain)
        await account.measure(chain)
    assert sample(metrics, "veilpod_gas_spent_wei_total") == 140
    assert sample(metrics, "veilpod_transactions_total", outcome="reverted") == 1
    assert sample(metrics, "veilpod_account_balance_wei") == 1e18

    async def unanswered(owner):
        raise ChainUnavailable("no")

    chain.balance, chain.foreign_transactions, chain.disagreements = unanswered, 4, 2
    await account.measure(chain)
    assert sample(metrics, "veilpod_account_balance_wei") == 1e18
    assert sample(metrics, "veilpod_chain_foreign_transactions_total") == 4
    assert sample(metrics, "veilpod_chain_disagreements_total") == 2


def test_readiness_says_that_no_block_came_for_so_long_or_that_two_endpoints_contradict_each_other():
    operator = Operator(connect_chain=None, make_context=None, make_roles=None, metrics=Metrics(), tasks=None)
    operator._chain, operator._started = FakeChain(), True
    assert operator.ready() is None
    operator._chain.head_age = 301
    assert operator.ready().startswith("the chain has made no block for 301 s")
    operator._chain.head_age = 3
    operator._chain.disagreement = "the two RPC endpoints answer eth_call differently"
    assert "contradict each other: the two RPC endpoints answer eth_call differently" in operator.ready()
