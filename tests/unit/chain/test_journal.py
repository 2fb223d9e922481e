import asyncio
import threading

import pytest
from tests.support.channels import CHANNEL, MIB, Agents, machine

from veilpod.chain import files
from veilpod.chain.journal import Journal
from veilpod.core.channel.machine import Party, Persist, Send
from veilpod.errors import InvalidInput, Refused


class Side:
    """A party whose journal is on disk, and what has left it: (size of the journal then, version, digest of what was signed)."""

    def __init__(self, party, directory):
        self.machine, self.journal = machine(party), Journal.open(directory)
        self.file, self.left, self.peer = directory / f"{CHANNEL.hex()}.journal", [], None

    def perform(self, effects):
        for effect in effects:
            if isinstance(effect, Persist):
                self.journal.append(effect.record)
            elif isinstance(effect, Send):
                self.left.append((self.file.stat().st_size, signed(effect), self.machine.agreed))
                self.peer.perform(self.peer.machine.on_message(effect.payload))


def signed(send):
    """What a message puts our signature on: a version, and what stands for the state that was signed."""
    if "propose" in send.payload:
        return send.payload["propose"]["state"]["version"], send.payload["propose"]["signature"]
    if "cosign" in send.payload:
        return send.payload["cosign"]["version"], send.payload["cosign"]["signature"]
    return None


@pytest.fixture
def no_disk(monkeypatch):
    """Thousands of files are opened: what is in them matters here, not that the disk has it."""
    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(files.os, name, lambda descriptor: None)


@pytest.fixture
def sides(tmp_path):
    """Two transfers and the end, both journals on disk. Signatures are deterministic (RFC 6979): one version, one signature."""
    a, b, agents = Side(Party.A, tmp_path / "a"), Side(Party.B, tmp_path / "b"), Agents()
    a.peer, b.peer = b, a
    for direction in (0, 1):
        receipt = agents.transfer(direction, MIB)
        for side in (b, a):
            side.perform(side.machine.on_receipt(receipt))
    a.perform(a.machine.finalise())
    a.journal.close()
    b.journal.close()
    return {Party.A: a, Party.B: b}


@pytest.fixture
def played(sides):
    """What b's operator has on disk, and b's answers."""
    side = sides[Party.B]
    return side.file, [(size, agreed) for size, _, agreed in side.left]


def another_course():
    """The same parties, other transfers: valid proposals for versions that were used already, as a peer that cheats would make them."""
    cheat, honest, agents = machine(Party.A), machine(Party.B), Agents()
    proposals = []
    for direction in (1, 0, 0):
        for effect in cheat.on_receipt(agents.transfer(direction, 2 * MIB)):
            if isinstance(effect, Send):
                proposals.append(effect)
                for answer in honest.on_message(effect.payload):
                    if isinstance(answer, Send):
                        cheat.on_message(answer.payload)
    assert [signed(proposal)[0] & 0xFF for proposal in proposals] == [1, 2, 3]
    return proposals


@pytest.mark.parametrize("party", Party)
def test_whatever_byte_a_crash_cuts_at_nothing_given_away_is_lost_and_no_version_is_signed_twice(no_disk, sides, party):
    side, agents = sides[party], Agents()
    later = [agents.transfer(direction, MIB) for direction in (0, 1, 0)]  # the agent says them all again, and there is one more
    temptations = [effect.payload for effect in another_course()]
    whole = side.file.read_bytes()
    assert len(side.left) >= 3
    lives = set()  # what comes after depends on the records that are left, and most bytes leave the same
    for size in range(len(whole) + 1):
        side.file.write_bytes(whole[:size])
        journal = Journal.open(side.file.parent)
        left = (len(journal.records(CHANNEL)), sum(written <= size for written, _, _ in side.left))
        if left in lives:
            journal.close()
            continue
        lives.add(left)
        given_away = dict(signature for written, signature, _ in side.left if written <= size and signature)
        agreed = [state for written, _, state in side.left if written <= size and state]
        newest, revived = journal.newest(CHANNEL), machine(party, journal.records(CHANNEL))
        assert revived.agreed == newest
        if agreed:
            assert newest.state.version >= agreed[-1].state.version

        effects = []
        for receipt in later:  # before anything is said again: a version that was forgotten would be another state now
            effects += revived.on_receipt(receipt)
        effects += revived.next_message()
        effects += revived.finalise()
        tempted = machine(party, journal.records(CHANNEL))
        for payload in temptations if party is Party.B else ():
            effects += tempted.on_message(payload)
        again = [signature for effect in effects if isinstance(effect, Send) and (signature := signed(effect))]
        assert all(given_away.get(version, signature) == signature for version, signature in again)
        if party is Party.A and not revived.finished:
            assert again, "a proposer that came back goes on"
        journal.close()


@pytest.mark.parametrize("party", Party)
def test_a_flipped_byte_anywhere_is_refused_with_what_to_do_and_left_as_it_is(no_disk, sides, party):
    file = sides[party].file
    whole = file.read_bytes()
    tail = len(whole) - whole.rindex(b'{"channel"') + 12  # the newest record: what a reader that cuts tails would drop
    for position in [*range(0, len(whole) - tail, 41), *range(len(whole) - tail, len(whole))]:
        damaged = bytearray(whole)
        damaged[position] ^= 0xFF
        file.write_bytes(damaged)
        with pytest.raises(InvalidInput) as caught:
            Journal.open(file.parent)
        assert caught.value.reason == "JournalDamaged"
        assert file.name in str(caught.value)
        assert "Restore it from a copy" in str(caught.value)
        assert file.read_bytes() == damaged


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
