import dataclasses

import pytest

from veilpod.chain.outbox import Attempt, Outbox, Pending, Settled
from veilpod.core.keys import checksum_address
from veilpod.errors import InvalidInput, Refused

ME = checksum_address(b"\x01" * 20)
ATTEMPT = Attempt(hash="0xaa", raw="0xbb", max_fee=5, priority_fee=1)
ENTRY = Pending(nonce=3, intent="report:1", purpose="TaskScheduler.report", to="0x02", value=0, data="0x", gas=9, attempts=(ATTEMPT,))
SETTLED = Settled(
    hash="0xaa", nonce=3, sender=ME, purpose="TaskScheduler.report", intent="report:1", block=7, succeeded=True, gas_used=5, fee=50, value=0
)


@pytest.fixture
def reopen(tmp_path):
    """Open the outbox, closing the one before: another life of the same operator."""
    opened = []

    def again():
        for outbox in opened:
            outbox.close()
        opened.append(Outbox.open(tmp_path, ME))
        return opened[-1]

    yield again
    for outbox in opened:
        outbox.close()


def test_what_was_put_is_there_in_the_next_life_with_every_attempt(reopen):
    outbox = reopen()
    outbox.put(ENTRY)
    bumped = dataclasses.replace(ENTRY, attempts=(ATTEMPT, dataclasses.replace(ATTEMPT, hash="0xcc", max_fee=6)))
    outbox.put(bumped)
    assert list(reopen().pending) == [bumped]


def test_pending_transactions_come_in_the_order_of_their_nonces(reopen):
    outbox = reopen()
    for nonce in (11, 2, 100):
        outbox.put(dataclasses.replace(ENTRY, nonce=nonce))
    assert [entry.nonce for entry in reopen().pending] == [2, 11, 100]


def test_a_settled_transaction_is_history_and_no_longer_pending(reopen):
    outbox = reopen()
    outbox.put(ENTRY)
    outbox.settle(SETTLED)
    assert (list(outbox.pending), list(outbox.history)) == ([], [SETTLED])
    again = reopen()
    assert (list(again.pending), list(again.history)) == ([], [SETTLED])


def test_dying_between_history_and_forgetting_writes_one_line(reopen, monkeypatch):
    outbox = reopen()
    outbox.put(ENTRY)
    monkeypatch.setattr(outbox, "drop", lambda nonce: None)
    outbox.settle(SETTLED)
    again = reopen()
    assert list(again.pending) == [ENTRY]
    again.settle(SETTLED)
    assert list(reopen().history) == [SETTLED]


def test_a_torn_line_of_history_is_cut(reopen, tmp_path):
    outbox = reopen()
    outbox.put(ENTRY)
    outbox.settle(SETTLED)
    file = tmp_path / f"sender-{ME.lower()}" / "history.jsonl"
    whole = file.read_bytes()
    for size in range(len(whole)):
        file.write_bytes(whole + whole[:size])
        assert list(reopen().history) == [SETTLED]
        assert file.read_bytes() == whole


def test_an_unreadable_entry_is_refused_rather_than_forgotten(reopen, tmp_path):
    reopen().put(ENTRY)
    (file,) = (tmp_path / f"sender-{ME.lower()}" / "pending").glob("*.json")
    file.write_text("{}")
    with pytest.raises(InvalidInput) as caught:
        reopen()
    assert caught.value.reason == "StateUnreadable"


def test_one_key_has_one_outbox_and_another_key_its_own(tmp_path):
    outbox = Outbox.open(tmp_path, ME)
    with pytest.raises(Refused):
        Outbox.open(tmp_path, ME)
    Outbox.open(tmp_path, checksum_address(b"\x02" * 20)).close()
    outbox.close()
