import asyncio
import threading

import pytest
from tests.support.channels import CHANNEL, MIB, Agents, machine

from veilpod.chain import files
from veilpod.chain.journal import Journal
from veilpod.core.channel.machine import Party, Persist, Send
from veilpod.errors import InvalidInput, Refused


@pytest.fixture
def played(tmp_path):
    """Both parties of three transfers, b with a journal on disk; and b's answers, by the journal's size when they left."""
    journal = Journal.open(tmp_path / "journal")
    a, b, agents = machine(Party.A), machine(Party.B), Agents()
    file = tmp_path / "journal" / f"{CHANNEL.hex()}.journal"
    left = []

    def exchange(effects):
        for effect in [effect for effect in effects if isinstance(effect, Send)]:
            for answer in b.on_message(effect.payload):
                if isinstance(answer, Persist):
                    journal.append(answer.record)
                elif isinstance(answer, Send):
                    left.append((file.stat().st_size, b.agreed))
                    exchange(a.on_message(answer.payload))

    for direction in (0, 1, 0):
        exchange(a.on_receipt(agents.transfer(direction, MIB)))
    exchange(a.finalise())
    journal.close()
    return file, left


def test_whatever_byte_a_crash_cuts_at_no_state_is_lost_that_was_given_away(played):
    file, left = played
    whole = file.read_bytes()
    assert len(left) == 4
    for size in range(0, len(whole) + 1, 7):
        file.write_bytes(whole[:size])
        journal = Journal.open(file.parent)
        given_away = [signed for written, signed in left if written <= size]
        newest = journal.newest(CHANNEL)
        if given_away:
            assert newest.state.version >= given_away[-1].state.version
            revived = machine(Party.B, journal.records(CHANNEL))
            assert revived.agreed == newest
        else:
            assert newest is None
        journal.close()


def test_a_channel_is_found_again_with_all_it_says(played):
    file, left = played
    journal = Journal.open(file.parent)
    assert journal.channels() == {CHANNEL: left[-1][1]}
    assert journal.newest(CHANNEL).final
    assert machine(Party.B, journal.records(CHANNEL)).finished == left[-1][1]
    journal.close()


def test_what_only_we_signed_is_not_the_newest_state(tmp_path):
    journal = Journal.open(tmp_path)
    for effect in machine(Party.A).on_receipt(Agents().transfer(0, MIB)):
        if isinstance(effect, Persist):
            journal.append(effect.record)
    assert len(journal.records(CHANNEL)) == 2
    assert journal.newest(CHANNEL) is None
    journal.close()


async def test_who_is_cancelled_while_it_writes_leaves_a_journal_that_is_known(tmp_path, monkeypatch):
    journal = Journal.open(tmp_path)
    record = machine(Party.A).on_receipt(Agents().transfer(0, MIB))[0].record
    on_disk, go_on = threading.Event(), threading.Event()
    real = files.os.fdatasync

    def slow(descriptor):
        on_disk.set()
        go_on.wait(10)
        real(descriptor)

    monkeypatch.setattr(files.os, "fdatasync", slow)
    writing = asyncio.create_task(journal.write(record))
    await asyncio.to_thread(on_disk.wait, 10)
    writing.cancel()
    await asyncio.sleep(0)
    assert not writing.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert list(journal.records(CHANNEL)) == [record]
    journal.close()


def test_a_journal_has_one_writer(tmp_path):
    journal = Journal.open(tmp_path)
    with pytest.raises(Refused) as caught:
        Journal.open(tmp_path)
    assert caught.value.reason == "JournalBusy"
    journal.close()
    Journal.open(tmp_path).close()


def test_a_journal_that_is_not_ours_is_refused(played):
    file, _ = played
    file.rename(file.with_name("00" * 32 + ".journal"))
    with pytest.raises(InvalidInput) as caught:
        Journal.open(file.parent)
    assert caught.value.reason == "JournalDamaged"
