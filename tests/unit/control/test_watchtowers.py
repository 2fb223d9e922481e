"""The operator's side of a watchtower: newest only, one in flight, never in anybody's way, and nothing believed without a signature."""

import asyncio
import contextlib
import dataclasses

import pytest
from tests.support import towers
from tests.support.anvil import eventually
from tests.support.channels import DOMAIN, KEYS

from veilpod.control import watchtowers
from veilpod.control.config import WatchtowerConfig
from veilpod.control.metrics import Metrics
from veilpod.control.watchtowers import Watchtowers
from veilpod.core.canonical import canonical, parse_canonical
from veilpod.core.channel.records import Signed
from veilpod.core.guard import make_receipt, parse_request
from veilpod.core.keys import SigningKey
from veilpod.errors import PeerUnavailable

PAIR = towers.pair(DOMAIN, *KEYS.values())
OTHER = towers.pair(DOMAIN, *KEYS.values(), terms=dataclasses.replace(towers.PENALISED, lane=9))
CHANNEL = PAIR.place.channel
TOWER, LIAR = SigningKey(secret=b"\x07" * 32), SigningKey(secret=b"\x08" * 32)


def signed(sequence, pair=PAIR, **options):
    guarded = pair.agreed(sequence, **options)
    return Signed(state=guarded.state, final=False, signature_a=guarded.signature_a, signature_b=guarded.signature_b)


class Tower:
    """A tower as its client sees it. While `closed`, requests hang."""

    def __init__(self, key=TOWER):
        self.key, self.held, self.asked, self.inside, self.most = key, {}, [], 0, 0
        self.open = asyncio.Event()
        self.open.set()
        self.say = None

    async def ask(self, url, body):
        assert url == "http://tower:9201/v1/guard"
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            await self.open.wait()
            guarded = parse_request(DOMAIN, parse_canonical(body))
            self.asked.append(guarded.state.sequence)
            if self.say is not None:
                return self.say(guarded)
            channel = guarded.place.channel
            held = self.held.setdefault(channel, guarded)
            if guarded.state.version >= held.state.version:
                self.held[channel] = guarded
                return canonical({"ok": {"receipt": make_receipt(self.key, DOMAIN, guarded, until=99).document()}})
            receipt = make_receipt(self.key, DOMAIN, held, until=99).document()
            return canonical({"error": {"code": "OlderState", "message": "older"}, "receipt": receipt})
        finally:
            self.inside -= 1


@pytest.fixture
def tower():
    return Tower()


@contextlib.asynccontextmanager
async def client(tower, directory):
    metrics = Metrics()
    configs = [WatchtowerConfig(url="http://tower:9201/", address=TOWER.address)]
    made = Watchtowers(configs, domain=DOMAIN, directory=directory, metrics=metrics, ask=tower.ask)
    made.metrics = metrics
    running = [asyncio.create_task(lane.run()) for lane in made.lanes]
    try:
        yield made
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def metric(made, name, **labels):
    return made.metrics.registry.get_sample_value(name, {"tower": "0", **labels})


async def test_a_newest_state_gets_a_receipt_that_is_kept_on_disk(tower, tmp_path):
    async with client(tower, tmp_path) as made:
        made.offer(PAIR.place, signed(3))
        await eventually(lambda: made.held(CHANNEL) == PAIR.state(3).version)
    (file,) = tmp_path.rglob("*.json")
    assert parse_canonical(file.read_bytes())["version"] == PAIR.state(3).version


async def test_states_that_were_overtaken_are_never_sent_and_one_is_in_flight(tower, tmp_path):
    async with client(tower, tmp_path) as made:
        tower.open.clear()
        made.offer(PAIR.place, signed(1))
        await eventually(lambda: tower.inside == 1)
        for sequence in range(2, 200):
            made.offer(PAIR.place, signed(sequence))  # returns at once, though the tower hangs
        assert metric(made, "veilpod_guard_receipts_total") is None
        tower.open.set()
        await eventually(lambda: made.held(CHANNEL) == PAIR.state(199).version)
    assert tower.asked == [1, 199]
    assert tower.most == 1


async def test_half_signed_states_and_older_ones_are_not_offered(tower, tmp_path):
    async with client(tower, tmp_path) as made:
        made.offer(PAIR.place, dataclasses.replace(signed(3), signature_b=b""))
        made.offer(PAIR.place, None)
        made.offer(PAIR.place, signed(5))
        made.offer(PAIR.place, signed(4))
        await eventually(lambda: made.held(CHANNEL) == PAIR.state(5).version)
    assert tower.asked == [5]


async def test_a_tower_that_is_down_is_behind_and_catches_up_with_the_newest(tower, tmp_path, monkeypatch):
    monkeypatch.setattr(watchtowers, "_FIRST_PAUSE", 0.05)
    monkeypatch.setattr(watchtowers, "_LONGEST_PAUSE", 0.05)
    monkeypatch.setattr(watchtowers, "_TICK_SECONDS", 0.02)
    down, ask = True, tower.ask

    async def flaky(url, body):
        if down:
            raise PeerUnavailable("down")
        return await ask(url, body)

    tower.ask = flaky
    async with client(tower, tmp_path) as made:
        for sequence in (1, 2, 7):
            made.offer(PAIR.place, signed(sequence))
        await eventually(lambda: metric(made, "veilpod_guard_lag_versions") == 7)
        await eventually(lambda: metric(made, "veilpod_guard_refusals_total", reason="Unavailable"))
        await eventually(lambda: metric(made, "veilpod_guard_waiting_seconds") > 0)
        down = False
        await eventually(lambda: metric(made, "veilpod_guard_lag_versions") == 0)
    assert tower.asked == [7]


def lie_other_signer(guarded):
    return canonical({"ok": {"receipt": make_receipt(LIAR, DOMAIN, guarded, until=99).document()}})


def lie_other_channel(guarded):
    return canonical({"ok": {"receipt": make_receipt(TOWER, DOMAIN, OTHER.agreed(3), until=99).document()}})


def lie_older(guarded):
    return canonical({"ok": {"receipt": make_receipt(TOWER, DOMAIN, PAIR.agreed(2), until=99).document()}})


def lie_other_state(guarded):
    return canonical({"ok": {"receipt": make_receipt(TOWER, DOMAIN, PAIR.agreed(3, paid_to_b=9), until=99).document()}})


def lie_refusal_with_older(guarded):
    receipt = make_receipt(TOWER, DOMAIN, PAIR.agreed(2), until=99).document()
    return canonical({"error": {"code": "OlderState", "message": ""}, "receipt": receipt})


@pytest.mark.parametrize(
    "lie",
    [
        lie_other_signer, lie_other_channel, lie_older, lie_other_state, lie_refusal_with_older,
        lambda _: b"", lambda _: b"[]", lambda _: b'{"ok":{}}', lambda _: b'{"ok":1}', lambda _: b"<html>",
    ],
)  # fmt: skip
async def test_a_lying_tower_guards_nothing(tower, tmp_path, lie):
    tower.say = lie
    async with client(tower, tmp_path) as made:
        made.offer(PAIR.place, signed(3))
        await eventually(lambda: tower.asked)
        await eventually(lambda: any(s.value for m in made.metrics.guard_refusals.collect() for s in m.samples))
        assert made.held(CHANNEL) == 0
    assert not list(tmp_path.rglob("*.json"))


async def test_a_tower_that_holds_more_than_we_do_is_a_critical_word(tower, tmp_path, caplog):
    tower.held[CHANNEL] = PAIR.agreed(8)
    async with client(tower, tmp_path) as made:
        made.offer(PAIR.place, signed(3))
        await eventually(lambda: metric(made, "veilpod_guard_refusals_total", reason="OlderState"))
        assert made.held(CHANNEL) == PAIR.state(8).version
    assert [record.levelname for record in caplog.records if record.msg == "guard.refused"] == ["CRITICAL"]


async def test_a_word_that_a_tower_makes_up_is_no_metric_label(tower, tmp_path):
    tower.say = lambda _: canonical({"error": {"code": "x" * 50, "message": ""}})
    async with client(tower, tmp_path) as made:
        made.offer(PAIR.place, signed(3))
        await eventually(lambda: metric(made, "veilpod_guard_refusals_total", reason="Other"))


async def test_one_refused_channel_does_not_hold_up_another(tower, tmp_path):
    ask = tower.ask

    async def picky(url, body):
        if parse_request(DOMAIN, parse_canonical(body)).place == PAIR.place:
            return canonical({"error": {"code": "UnknownChannel", "message": ""}})
        return await ask(url, body)

    tower.ask = picky
    async with client(tower, tmp_path) as made:
        made.offer(PAIR.place, signed(3))
        made.offer(OTHER.place, signed(4, OTHER))
        await eventually(lambda: made.held(OTHER.place.channel))
        assert made.held(CHANNEL) == 0


async def test_after_a_restart_the_receipt_is_known_and_the_tower_is_asked_once_more(tower, tmp_path):
    async with client(tower, tmp_path) as made:
        made.offer(PAIR.place, signed(3))
        await eventually(lambda: made.held(CHANNEL))
    tower.held.clear()  # the tower has lost its disk meanwhile
    async with client(tower, tmp_path) as made:
        made.offer(PAIR.place, signed(3))
        assert made.held(CHANNEL) == PAIR.state(3).version
        await eventually(lambda: CHANNEL in tower.held)
    assert tower.asked == [3, 3]


async def test_a_closed_channel_is_forgotten_and_a_new_session_is_guarded(tower, tmp_path):
    async with client(tower, tmp_path) as made:
        made.offer(PAIR.place, signed(3))
        await eventually(lambda: made.held(CHANNEL))
        made.forget(CHANNEL, 0)
        assert made.held(CHANNEL), "an earlier session that is closed says nothing about this one"
        made.forget(CHANNEL, 1)
        made.offer(PAIR.place, signed(1, epoch=2))
        await eventually(lambda: made.held(CHANNEL) == PAIR.state(1, epoch=2).version)


async def test_a_channel_is_guarded_as_far_as_the_slowest_tower_holds_it(tower, tmp_path):
    slow = Tower(LIAR)
    slow.open.clear()

    async def ask(url, body):
        return await (tower if url.startswith("http://tower:") else slow).ask("http://tower:9201/v1/guard", body)

    configs = [WatchtowerConfig(url="http://tower:9201", address=TOWER.address), WatchtowerConfig(url="http://slow", address=LIAR.address)]
    made = Watchtowers(configs, domain=DOMAIN, directory=tmp_path, metrics=Metrics(), ask=ask)
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(lane.run()) for lane in made.lanes]
        made.offer(PAIR.place, signed(3))
        await eventually(lambda: made.lanes[0].held(CHANNEL))
        assert made.held(CHANNEL) == 0
        slow.open.set()
        await eventually(lambda: made.held(CHANNEL) == PAIR.state(3).version)
        for task in running:
            task.cancel()


def test_without_towers_nothing_is_said_about_guards(tmp_path):
    assert Watchtowers([], domain=DOMAIN, directory=tmp_path, metrics=Metrics()).held(CHANNEL) is None


async def test_nobody_there_is_unavailable_and_nothing_else():
    with pytest.raises(PeerUnavailable):
        await watchtowers._post("http://127.0.0.1:1/v1/guard", b"{}")
