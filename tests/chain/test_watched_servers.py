"""Real operators hand their states to a real tower; then all of them are gone, and one of them comes back to cheat."""

import pytest
from tests.support import towers
from tests.support.anvil import account, caught_up, eventually
from tests.support.channels import paid
from tests.support.operators import world

from veilpod.chain.journal import Journal
from veilpod.core.channel.records import StateRecord
from veilpod.core.entities import ChannelPhase
from veilpod.core.kinds import STATE_CHANNELS
from veilpod.watchtower import watch

pytestmark = pytest.mark.chain


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(watch, "LOOK_SECONDS", 0.02)


def at(tower):
    return [{"url": f"http://127.0.0.1:{tower.clients.port}", "address": account(5).address}]


def guarded(server):
    return [body["status"].get("guardedSequence") for body in server.objects(STATE_CHANNELS) if "status" in body]


async def test_what_servers_sign_is_guarded_and_an_old_state_of_it_does_not_stand(anvil, open_chain, tmp_path):
    async with towers.running(anvil, tmp_path / "tower", parties=()) as tower:
        async with world(anvil, tmp_path, watchtowers=at(tower)) as w:
            w.network.may_end.clear()
            w.apply()
            await w.until_true("InputsVerified")
            hub = next(server for server in w.servers if len(server.objects(STATE_CHANNELS)) == 2)
            desk = hub.operator._roles[0]._desk
            await w.until(lambda: len(tower._guards.all) == 2)

            def caught_up_with(channel):
                newest = desk.newest(channel, 1)
                return newest is not None and tower._guards.find(channel).held.state == newest.state

            await w.until(lambda: all(caught_up_with(channel) for channel in tower._guards.all))
            await w.until(lambda: all(guard.held.state.sequence >= 2 for guard in tower._guards.all.values()))
            await w.resync()
            await w.until(lambda: len(guarded(hub)) == 2 and all(guarded(hub)))
        # Everybody is gone now. The hub's disk has every state it ever signed: the first of them is the one to cheat with.
        channel, guard = max(tower._guards.all.items(), key=lambda item: item[1].held.state.sequence)
        place, newest = guard.held.place, guard.held.state
        journal = Journal.open(tmp_path / hub.name / "channels")
        records = [r.signed for r in journal.records(channel) if isinstance(r, StateRecord) and r.signed.complete]
        journal.close()
        old = min(records, key=lambda signed: signed.state.version)
        assert old.state.version < newest.version
        cheater = await open_chain(w.servers.index(hub) + 1, state="cheater")
        peers = old.signature_b if place.a == hub.key.address else old.signature_a
        await cheater.writer.challenge(place.a, place.b, place.terms, old.state, peers)

        async def answered():
            await caught_up(cheater, anvil)
            return (await cheater.reader.channel(channel)).sequence == newest.sequence

        await eventually(answered)
        anvil.advance(place.terms.challenge_period + 1)
        await cheater.writer.finalize(place.a, place.b, place.terms)
        await caught_up(cheater, anvil)
        assert (await cheater.reader.channel(channel)).phase is ChannelPhase.CLOSED
        beaten_by_two = newest.version - old.state.version >= 2
        fine = newest.total // 10 * beaten_by_two * (1 if place.a == hub.key.address else -1)
        assert paid(anvil, channel) == (newest.balance_a - fine, newest.balance_b + fine)


async def test_a_tower_that_is_down_delays_nothing(anvil, tmp_path):
    nobody = [{"url": "http://127.0.0.1:1", "address": account(5).address}]
    async with world(anvil, tmp_path, watchtowers=nobody) as w:
        w.apply()
        await w.until_true("Settled")
        assert w.task()["status"]["phase"] == "Settled"
        for server in w.servers:
            assert guarded(server) in ([0], [0, 0])
