"""What was signed for is there after a crash at any step; what is damaged is said, and never stops the rest."""

import asyncio
import os

import pytest
from tests.support import towers
from tests.support.channels import DOMAIN, KEYS

from veilpod.chain import files
from veilpod.core.entities import ChannelTerms
from veilpod.core.keys import SigningKey
from veilpod.errors import Refused
from veilpod.watchtower.decide import Guard
from veilpod.watchtower.guards import Guards

PAIR = towers.pair(DOMAIN, *KEYS.values())
OTHER = towers.pair(DOMAIN, *KEYS.values(), terms=ChannelTerms(asset=PAIR.place.terms.asset, lane=8, challenge_period=600, penalty_bps=0))
CHANNEL = PAIR.place.channel


class Crash(BaseException):
    """The process ends here."""


def opened(path):
    return Guards.open(path, DOMAIN)


def test_what_was_put_is_there_after_a_restart(tmp_path):
    guards = opened(tmp_path)
    guard = Guard(held=PAIR.agreed(5), until=77, answers=(1, 2))
    guards.put(guard)
    guards.close()
    assert opened(tmp_path).find(CHANNEL) == guard


@pytest.mark.parametrize("step", ["fsync", "replace", "after replace"])
def test_a_crash_leaves_the_old_state_or_the_new_one(tmp_path, monkeypatch, step):
    guards = opened(tmp_path)
    old, new = Guard(held=PAIR.agreed(5), until=1), Guard(held=PAIR.agreed(6), until=1)
    guards.put(old)

    def crash(*_):
        raise Crash

    with monkeypatch.context() as patch:
        if step == "after replace":
            patch.setattr(files, "sync_directory", crash)
        else:
            patch.setattr(os, step, crash)
        with pytest.raises(Crash):
            guards.put(new)
    assert guards.find(CHANNEL) == old, "nothing is signed for before it is on the disk"
    guards.close()
    assert opened(tmp_path).find(CHANNEL) in (old, new)


def test_a_torn_or_forged_file_is_counted_left_alone_and_stops_nobody_else(tmp_path):
    guards = opened(tmp_path)
    guards.put(Guard(held=PAIR.agreed(5), until=1))
    guards.put(Guard(held=OTHER.agreed(3), until=1))
    guards.close()
    file = tmp_path / f"{CHANNEL.hex()}.guard"
    whole = file.read_bytes()
    for damage in (b"", whole[:-1], whole.replace(b'"until":1', b'"until":"1"'), whole.replace(b'"version":', b'"version":1')):
        file.write_bytes(damage)
        guards = opened(tmp_path)
        assert guards.damaged == 1
        assert set(guards.all) == {OTHER.place.channel}
        guards.close()
        assert file.read_bytes() == damage


def test_a_guard_under_another_channels_name_is_damage(tmp_path):
    guards = opened(tmp_path)
    guards.put(Guard(held=PAIR.agreed(5), until=1))
    guards.close()
    (tmp_path / f"{CHANNEL.hex()}.guard").rename(tmp_path / f"{OTHER.place.channel.hex()}.guard")
    assert opened(tmp_path).damaged == 1


def test_an_older_state_never_replaces_a_newer_one(tmp_path):
    guards = opened(tmp_path)
    guards.put(Guard(held=PAIR.agreed(5), until=1))
    with pytest.raises(ValueError, match="older"):
        guards.put(Guard(held=PAIR.agreed(4), until=1))


def test_a_dropped_guard_stays_dropped(tmp_path):
    guards = opened(tmp_path)
    guards.put(Guard(held=PAIR.agreed(5), until=1))
    guards.drop(CHANNEL)
    guards.close()
    assert not opened(tmp_path).all


def test_one_tower_per_directory(tmp_path):
    first = opened(tmp_path)
    with pytest.raises(Refused) as caught:
        opened(tmp_path)
    assert caught.value.reason == "TowerActive"
    first.close()
    opened(tmp_path).close()


def test_no_key_is_ever_written(tmp_path):
    guards = opened(tmp_path)
    guards.put(Guard(held=PAIR.agreed(5), until=1))
    everything = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    for key in (*KEYS.values(), SigningKey(secret=b"\x07" * 32)):
        assert key.secret.hex().encode() not in everything


async def test_a_caller_who_leaves_while_it_is_written_leaves_a_whole_file(tmp_path):
    guards = opened(tmp_path)
    writing = asyncio.create_task(guards.write(Guard(held=PAIR.agreed(5), until=1)))
    await asyncio.sleep(0)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert guards.find(CHANNEL) is not None
    guards.close()
    assert opened(tmp_path).find(CHANNEL) is not None
