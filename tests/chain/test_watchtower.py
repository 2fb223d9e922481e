"""A watchtower and the real ChannelManager: while no operator runs, an old state is answered, and only then, and once."""

import asyncio
import dataclasses
import json
import signal
import socket
import sys

import pytest
from tests.chain.test_task_life import register
from tests.support import towers
from tests.support.anvil import CHAIN_ID, account, caught_up, eventually
from tests.support.channels import paid
from tests.support.fake_kubectl import kubectl
from tests.support.towers import DEPOSIT, GWEI, PENALISED, Pair, hand_in, measured

from veilpod.chain import connection
from veilpod.cli import main
from veilpod.core.canonical import canonical
from veilpod.core.entities import ChannelPhase, Role
from veilpod.core.guard import request_document
from veilpod.core.typed_data import Domain
from veilpod.errors import ChainUnavailable
from veilpod.watchtower import watch
from veilpod.watchtower.purse import GAS

__all__ = ["kubectl"]

pytestmark = pytest.mark.chain
TOWER = account(5).address
PENALTY = 2 * DEPOSIT // 10
WORST = GAS * 100 * GWEI


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(connection, "_LOOK_ANYWAY_SECONDS", 0.1)
    monkeypatch.setattr(watch, "LOOK_SECONDS", 0.02)


@dataclasses.dataclass
class Dispute:
    """A funded channel whose parties' operators do not run. `chains` are what a party does by hand, by its account."""

    node: object
    pair: Pair
    chains: dict

    async def on_chain(self):
        chain = self.chains[self.pair.place.a]
        await caught_up(chain, self.node)
        return await chain.reader.channel(self.pair.place.channel)

    async def challenge(self, sequence, *, by="a"):
        """A party goes to the chain with an old state."""
        place, old = self.pair.place, self.pair.agreed(sequence)
        sender, peer_signature = (place.a, old.signature_b) if by == "a" else (place.b, old.signature_a)
        await self.chains[sender].writer.challenge(place.a, place.b, place.terms, old.state, peer_signature)

    async def disputed_at(self, sequence):
        try:
            found = await self.on_chain()
        except ChainUnavailable:
            return False  # the block that it is read at was reorganised this moment
        assert found.phase is ChannelPhase.DISPUTED
        return found.sequence == sequence

    async def finalized(self):
        """Let the period pass, finalize, and return what both were paid."""
        place = self.pair.place
        self.node.advance(place.terms.challenge_period + 1)
        await self.chains[place.a].writer.finalize(place.a, place.b, place.terms)
        return paid(self.node, place.channel)

    def block(self):
        return int(self.node.rpc("eth_blockNumber"), 16)

    def sent_by(self, address, tag="latest"):
        return int(self.node.rpc("eth_getTransactionCount", address, tag), 16)


@pytest.fixture
async def dispute(anvil, open_chain):
    domain = Domain(chain_id=CHAIN_ID, contract=anvil.addresses.channels)
    keys = {account(index).address: index for index in (1, 2)}
    pair = towers.pair(domain, account(1), account(2))
    place = pair.place
    chains = {party: await open_chain(keys[party]) for party in (place.a, place.b)}
    await chains[place.a].writer.open_channel(place.a, place.b, place.terms, deposit=DEPOSIT, peer_deposit=DEPOSIT)
    await chains[place.b].writer.join_channel(place.a, place.b, place.terms, epoch=1, deposit=DEPOSIT)
    anvil.mine(4)  # at depth for whoever waits for confirmations
    return Dispute(anvil, pair, chains)


async def guard(tower, dispute, sequence, **options):
    refusal, receipt = await hand_in(tower, dispute.pair.agreed(sequence, **options), domain=dispute.pair.domain)
    assert refusal == ""
    receipt.check(dispute.pair.domain, tower._key.address)
    assert receipt.version == dispute.pair.state(sequence).version
    return receipt


async def test_a_stale_challenge_is_answered_within_three_blocks_and_the_cheater_is_fined(anvil, dispute, tmp_path):
    async with towers.running(anvil, tmp_path / "tower", confirmations=1) as tower:
        await guard(tower, dispute, 1)
        receipt = await guard(tower, dispute, 7, paid_to_b=400)
        assert receipt.state_hash == dispute.pair.agreed(7, paid_to_b=400).state_hash(dispute.pair.domain)
        await dispute.challenge(1)
        challenged_in = dispute.block()
        anvil.rpc("evm_setAutomine", False)
        anvil.rpc("evm_setIntervalMining", 1)
        await eventually(lambda: dispute.disputed_at(7))
        (answer,) = await settled(tower)
        assert answer.block - challenged_in <= 3
    assert dispute.sent_by(TOWER) == 1
    anvil.rpc("evm_setIntervalMining", 0)
    anvil.rpc("evm_setAutomine", True)
    assert await dispute.finalized() == (DEPOSIT - 400 - PENALTY, DEPOSIT + 400 + PENALTY)


async def settled(tower):
    await eventually(lambda: tower._chain.history())
    return tower._chain.history()


async def test_a_dispute_that_began_while_the_tower_was_down_is_answered_when_it_is_back(anvil, dispute, tmp_path):
    async with towers.running(anvil, tmp_path / "tower") as tower:
        await guard(tower, dispute, 5, paid_to_b=10)
    await dispute.challenge(1, by="b")
    async with towers.running(anvil, tmp_path / "tower"):
        await eventually(lambda: dispute.disputed_at(5))
    assert await dispute.finalized() == (DEPOSIT - 10 + PENALTY, DEPOSIT + 10 - PENALTY)


@pytest.mark.parametrize(
    "killed", ["before it saw the challenge", "when the answer had left", "when the node forgot it", "when it was mined"]
)
async def test_a_tower_killed_at_any_step_answers_once(anvil, dispute, tmp_path, killed):
    data = tmp_path / "tower"
    async with towers.running(anvil, data) as tower:
        await guard(tower, dispute, 5, paid_to_b=10)
        if killed != "before it saw the challenge":
            await dispute.challenge(1)
            anvil.rpc("evm_setAutomine", False)
            await eventually(lambda: dispute.sent_by(TOWER, "pending") == 1 or dispute.sent_by(TOWER) == 1)
    if killed == "before it saw the challenge":
        await dispute.challenge(1)
    if killed == "when the node forgot it":
        anvil.rpc("anvil_dropAllTransactions")
    if killed == "when it was mined":
        anvil.mine()
    async with towers.running(anvil, data) as tower:
        if killed == "when the node forgot it":
            await eventually(lambda: dispute.sent_by(TOWER, "pending") == 1 or dispute.sent_by(TOWER) == 1)
        anvil.rpc("evm_setAutomine", True)
        anvil.mine()
        await eventually(lambda: dispute.disputed_at(5))
        await settled(tower)
        assert not tower._chain.pending_transactions
        for _ in range(5):
            anvil.mine()
        await eventually(lambda: not tower.watch.owed)
    assert dispute.sent_by(TOWER) == 1


async def test_a_killed_process_keeps_what_it_has_signed_for(anvil, dispute, tmp_path):
    """SIGKILL, not a cancelled task: the receipt was given, so the state is there."""
    data = tmp_path / "tower"
    data.mkdir()
    (data / "key").write_text(account(5).secret.hex())
    addresses, port = anvil.addresses, free_port()
    command = [
        sys.executable, "-m", "veilpod.watchtower", "--rpc-url", anvil.url, "--chain-id", str(CHAIN_ID), "--registry", addresses.registry,
        "--scheduler", addresses.scheduler, "--channels", addresses.channels, "--data", str(data), "--key-file", str(data / "key"),
        "--listen", f"127.0.0.1:{port}", "--admin", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--cap", str(10**18),
        "--max-fee", str(100 * GWEI), "--confirmations", "0", "--party", account(1).address,
    ]  # fmt: skip
    for answers in (False, True):
        process = await asyncio.create_subprocess_exec(*command, env={"PYTHONPATH": "operator"}, stdout=asyncio.subprocess.DEVNULL)
        try:
            if answers:
                await dispute.challenge(1)
                await eventually(lambda: dispute.disputed_at(9))
                process.send_signal(signal.SIGTERM)
                assert await process.wait() == 0
            else:
                await eventually(lambda: guarded(port, dispute.pair.agreed(9), dispute.pair.domain))
                process.kill()
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
    assert dispute.sent_by(TOWER) == 1


async def guarded(port, state, domain):
    try:
        status, _ = await towers.post(f"http://127.0.0.1:{port}", canonical(request_document(domain, state)))
    except OSError:
        return False  # not up yet
    return status == 200


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize("confirmations", [0, 3])
async def test_an_answer_that_a_reorganisation_swallows_is_given_again(anvil, dispute, tmp_path, confirmations):
    async with towers.running(anvil, tmp_path / "tower", confirmations=confirmations) as tower:
        await guard(tower, dispute, 5, paid_to_b=10)
        await dispute.challenge(1)
        anvil.mine(confirmations)
        await eventually(lambda: dispute.sent_by(TOWER))
        await eventually(lambda: dispute.disputed_at(5))
        if confirmations == 0:
            await settled(tower)  # believed already: the sender is done with it
        anvil.rpc("evm_setAutomine", False)
        anvil.rpc("anvil_reorg", 1, [])
        anvil.rpc("anvil_dropAllTransactions")
        await eventually(lambda: dispute.disputed_at(1))
        await eventually(lambda: dispute.sent_by(TOWER, "pending") == 1)
        anvil.rpc("evm_setAutomine", True)
        anvil.mine(confirmations + 1)
        await eventually(lambda: dispute.disputed_at(5))
        await eventually(lambda: not tower._chain.pending_transactions)
    assert dispute.sent_by(TOWER) == 1
    assert await dispute.finalized() == (DEPOSIT - 10 - PENALTY, DEPOSIT + 10 + PENALTY)


async def test_a_challenge_that_a_rollback_takes_away_leaves_nothing_to_answer(anvil, dispute, tmp_path):
    async with towers.running(anvil, tmp_path / "tower", confirmations=2) as tower:
        await guard(tower, dispute, 5)
        await dispute.challenge(1)
        anvil.rpc("anvil_rollback", 1)
        anvil.mine(5)
        await caught_up(tower._chain, anvil)
        await eventually(lambda: not tower.watch.owed and not tower.watch.disputed)
        assert (await dispute.on_chain()).phase is ChannelPhase.OPEN
    assert dispute.sent_by(TOWER) == 0


async def test_two_towers_of_one_channel_do_no_harm(anvil, dispute, tmp_path):
    async with (
        towers.running(anvil, tmp_path / "one") as one,
        towers.running(anvil, tmp_path / "two", index=6) as two,
    ):
        for tower in (one, two):
            await guard(tower, dispute, 5, paid_to_b=10)
        await dispute.challenge(1)
        anvil.rpc("evm_setAutomine", False)
        await eventually(lambda: dispute.sent_by(TOWER, "pending") or dispute.sent_by(account(6).address, "pending"))
        anvil.rpc("evm_setAutomine", True)
        anvil.mine()
        await eventually(lambda: dispute.disputed_at(5))
        for tower in (one, two):
            await eventually(lambda tower=tower: not tower.watch.owed and not tower._chain.pending_transactions)
        successes = [line.succeeded for tower in (one, two) for line in tower._chain.history()]
        assert successes.count(True) == 1
    assert await dispute.finalized() == (DEPOSIT - 10 - PENALTY, DEPOSIT + 10 + PENALTY)


async def test_a_tower_whose_client_answered_itself_spends_nothing(anvil, dispute, tmp_path):
    place, newest = dispute.pair.place, dispute.pair.agreed(5)
    async with towers.running(anvil, tmp_path / "tower", confirmations=1) as tower:
        await guard(tower, dispute, 5)
        await dispute.challenge(1)
        writer = dispute.chains[place.b].writer
        await writer.respond(place.a, place.b, place.terms, newest.state, newest.signature_a, newest.signature_b)
        anvil.mine(3)
        await caught_up(tower._chain, anvil)
        await eventually(lambda: tower.watch.disputed and not tower.watch.owed)
    assert dispute.sent_by(TOWER) == 0


async def test_improvements_of_a_disputed_channel_wait_for_the_end_of_its_period(anvil, dispute, tmp_path):
    async with towers.running(anvil, tmp_path / "tower") as tower:
        await guard(tower, dispute, 2)
        await dispute.challenge(1)
        await eventually(lambda: dispute.disputed_at(2))
        for sequence in range(3, 9):
            await guard(tower, dispute, sequence, paid_to_b=sequence)
        anvil.mine(3)
        await caught_up(tower._chain, anvil)
        assert await dispute.disputed_at(2)
        anvil.advance(PENALISED.challenge_period * 3 // 4 + 1)
        await eventually(lambda: dispute.disputed_at(8))
        await settled(tower)
    assert dispute.sent_by(TOWER) == 2


async def test_a_cap_that_is_reached_refuses_loudly_and_answers_when_it_allows_it_again(anvil, dispute, tmp_path):
    data = tmp_path / "tower"
    async with towers.running(anvil, data, cap=WORST) as tower:
        tower._purse._entries = [(1, await tower._chain.reader.now())]  # one wei was spent: what is left does not cover the worst case
        await guard(tower, dispute, 5)
        await dispute.challenge(1)
        await eventually(lambda: tower.watch.cap_reached)
        found = await measured(tower)
        assert (found["cap_reached"], found["owed"], found["answers_affordable"]) == (1, 1, 0)
        assert 0 < found["least_seconds_left"] <= PENALISED.challenge_period
        assert dispute.sent_by(TOWER) == 0
    async with towers.running(anvil, data, cap=2 * WORST) as tower:  # its owner raised the cap
        await eventually(lambda: dispute.disputed_at(5))
        await eventually(lambda: tower._purse.spent(0) > 0)
        found = await measured(tower)
        assert found["cap_reached"] == 0
        fee = tower._chain.history()[-1].fee
        assert 0 < found["spent_wei"] == fee < WORST
    async with towers.running(anvil, data) as tower:  # and what was spent is not forgotten
        assert (await measured(tower))["spent_wei"] == fee


async def test_no_answer_bids_more_than_the_ceiling(anvil, dispute, tmp_path):
    anvil.rpc("evm_setAutomine", False)
    anvil.rpc("anvil_setNextBlockBaseFeePerGas", hex(90 * GWEI))
    anvil.mine()
    anvil.rpc("evm_setAutomine", True)
    async with towers.running(anvil, tmp_path / "tower", max_fee=80 * GWEI) as tower:
        await guard(tower, dispute, 5)
        place, old = dispute.pair.place, dispute.pair.agreed(1)
        await dispute.chains[place.a].writer.challenge(place.a, place.b, place.terms, old.state, old.signature_b)
        await eventually(lambda: dispute.disputed_at(5))
        transaction = anvil.rpc("eth_getTransactionByHash", (await settled(tower))[0].hash)
        assert int(transaction["maxFeePerGas"], 16) <= 80 * GWEI
        assert int(transaction["gas"], 16) <= GAS, "no answer can cost more than what is reserved for it"


# -- lies


async def test_what_is_no_newest_state_of_a_known_channel_here_is_refused_by_name(anvil, dispute, tmp_path):
    pair = dispute.pair
    stranger = towers.pair(pair.domain, account(1), account(3))
    elsewhere = Domain(chain_id=1, contract=pair.domain.contract)
    other_contract = Domain(chain_id=CHAIN_ID, contract=anvil.addresses.registry)
    unknown = towers.pair(pair.domain, account(3), account(4))
    async with towers.running(anvil, tmp_path / "tower") as tower:
        lies = {
            "BadSignature": (pair.signed(pair.state(5), key_b=account(3)), pair.domain),
            "WrongChain": (pair.signed(pair.state(5), domain=elsewhere), elsewhere),
            "WrongContract": (pair.signed(pair.state(5), domain=other_contract), other_contract),
            "UnknownChannel": (stranger.agreed(5), pair.domain),
            "UnknownParty": (unknown.agreed(5), pair.domain),
            "WrongEpoch": (pair.agreed(5, epoch=2), pair.domain),
            "WrongTotal": (pair.signed(dataclasses.replace(pair.state(5), balance_b=2 * DEPOSIT)), pair.domain),
        }
        for code, (guarded, domain) in lies.items():
            assert await hand_in(tower, guarded, domain=domain) == (code, None)
        # Signed for another chain, handed in as if for this one: the signatures do not fit.
        smuggled = pair.signed(pair.state(5), domain=elsewhere)
        assert await hand_in(tower, smuggled, domain=pair.domain) == ("BadSignature", None)
        assert (await measured(tower))["guarded"] == 0


async def test_an_older_state_is_refused_with_the_receipt_of_the_newer_one(anvil, dispute, tmp_path):
    pair = dispute.pair
    async with towers.running(anvil, tmp_path / "tower") as tower:
        await guard(tower, dispute, 5)
        refusal, receipt = await hand_in(tower, pair.agreed(4), domain=pair.domain)
        assert refusal == "OlderState"
        receipt.check(pair.domain, TOWER)
        assert receipt.version == pair.state(5).version
        refusal, receipt = await hand_in(tower, pair.agreed(5, paid_to_b=1), domain=pair.domain)
        assert (refusal, receipt.state_hash) == ("VersionTaken", pair.agreed(5).state_hash(pair.domain))
        assert await hand_in(tower, pair.signed(pair.state(4), key_b=account(3)), domain=pair.domain) == ("BadSignature", None)


async def test_a_registered_party_needs_no_invitation(anvil, dispute, open_chain, tmp_path):
    async with towers.running(anvil, tmp_path / "tower", parties=()) as tower:
        guarded = dispute.pair.agreed(5)
        assert await hand_in(tower, guarded, domain=dispute.pair.domain) == ("UnknownParty", None)
        await register(dispute.chains[account(1).address], anvil.addresses, roles=Role.COMPUTE, capacity=1)
        await caught_up(tower._chain, anvil)
        refusal, receipt = await hand_in(tower, guarded, domain=dispute.pair.domain)
        assert (refusal, receipt.version) == ("", guarded.state.version)


async def test_a_closed_session_is_forgotten_and_the_next_one_starts_afresh(anvil, dispute, tmp_path, monkeypatch):
    place = dispute.pair.place
    monkeypatch.setattr(watch, "RETAIN_SECONDS", 3600)
    async with towers.running(anvil, tmp_path / "tower") as tower:
        await guard(tower, dispute, 5)
        await dispute.challenge(1)
        await eventually(lambda: dispute.disputed_at(5))
        await dispute.finalized()
        await eventually(lambda: tower.watch.is_over(place.channel))
        assert await hand_in(tower, dispute.pair.agreed(9), domain=dispute.pair.domain) == ("UnknownChannel", None)
        await caught_up(tower._chain, anvil)
        writers = [dispute.chains[party].writer for party in (place.a, place.b)]
        await writers[0].open_channel(place.a, place.b, place.terms, deposit=DEPOSIT, peer_deposit=DEPOSIT)
        await writers[1].join_channel(place.a, place.b, place.terms, epoch=2, deposit=DEPOSIT)
        await caught_up(tower._chain, anvil)
        assert await hand_in(tower, dispute.pair.agreed(9), domain=dispute.pair.domain) == ("WrongEpoch", None)
        refusal, receipt = await hand_in(tower, dispute.pair.agreed(1, epoch=2), domain=dispute.pair.domain)
        assert (refusal, receipt.version) == ("", 2 << 40 | 1)
        await writers[1].challenge(
            place.a, place.b, place.terms, dispute.pair.agreed(1, epoch=2).state, dispute.pair.agreed(1, epoch=2).signature_a
        )
        await eventually(lambda: tower.watch.disputed)
        anvil.advance(601)
        await writers[1].finalize(place.a, place.b, place.terms)
        await eventually(lambda: tower.watch.is_over(place.channel))
        anvil.advance(3601)
        await caught_up(tower._chain, anvil)
        tower.watch._swept_at = float("-inf")
        await eventually(lambda: not tower._guards.all)
        assert list((tmp_path / "tower" / "guards").glob("*.guard")) == []


async def test_its_owner_sees_what_is_guarded_until_when_and_what_was_answered(anvil, dispute, tmp_path, capsys):
    async def veilpod(*arguments):
        code = await asyncio.to_thread(main, ["watchtower", "guards", *arguments])
        return code, *capsys.readouterr()

    async with towers.running(anvil, tmp_path / "tower") as tower:
        url = f"http://127.0.0.1:{tower.admin.port}"
        code, out, _ = await veilpod("--url", url)
        assert (code, "guards 0 channels" in out) == (0, True)
        receipt = await guard(tower, dispute, 5, paid_to_b=10)
        await dispute.challenge(1)
        await settled(tower)
        code, out, _ = await veilpod("--url", url, "--output", "json")
        (shown,) = json.loads(out)["guards"]
        assert (code, shown["sequence"], shown["until"]) == (0, 5, receipt.until)
        assert shown["lastAnswer"]["transaction"] == tower._chain.history()[0].hash
        assert json.loads(out)["address"] == TOWER
        code, out, _ = await veilpod("--url", url)
        row = out.splitlines()[-1].split()
        assert row[:3] == ["0x" + dispute.pair.place.channel.hex(), "1", "5"]
        assert "left" in out
        code, _, err = await veilpod("--url", f"http://127.0.0.1:{tower.clients.port}")
        assert (code, "NoWatchtower" in err) == (2, True)
    code, _, err = await veilpod("--url", url)
    assert (code, "PeerUnavailable" in err) == (3, True)


async def test_the_list_is_found_through_the_cluster_and_not_on_the_clients_port(anvil, dispute, tmp_path, capsys, kubectl):
    labels = {"app.kubernetes.io/name": "veilpod", "app.kubernetes.io/component": "watchtower", "app.kubernetes.io/instance": "north"}
    async with towers.running(anvil, tmp_path / "tower") as tower:
        kubectl.objects["pods/north-watchtower-1"] = {"metadata": {"name": "north-watchtower-1", "labels": labels}}
        kubectl.forwards["pod/north-watchtower-1:9202"] = tower.admin.port
        kubectl.save()
        await guard(tower, dispute, 5)
        assert await asyncio.to_thread(main, ["watchtower", "guards", "-n", "hospital"]) == 0
        assert dispute.pair.place.channel.hex() in capsys.readouterr().out
        assert (await towers.get(tower.clients.port, "/v1/guards"))[0] == 404
        assert (await towers.get(tower.metrics.port, "/v1/guards"))[0] == 404
