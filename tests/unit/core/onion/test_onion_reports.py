import os

from hypothesis import given
from hypothesis import strategies as st

from veilpod.core.onion.layers import HopKeys
from veilpod.core.onion.messages import DestroyReason
from veilpod.core.onion.reports import REPORT, Report, Side, make_report, open_report, pack_destroy, parse_destroy, wrap_report


def keys(count):
    return [HopKeys(os.urandom(32)) for _ in range(count)]


def sent_by(hops, position, reason, side):
    """The report as it reaches the client, and as it was on every link."""
    report = make_report(hops[position - 1], position, reason, side, os.urandom)
    links = [report]
    for before in range(position - 1, 0, -1):
        report = wrap_report(hops[before - 1], before, report, os.urandom)
        links.append(report)
    return report, links


@given(st.integers(1, 8), st.data(), st.sampled_from(list(DestroyReason)), st.sampled_from(list(Side)))
def test_the_client_learns_who_reports_what(count, choose, reason, side):
    position = choose.draw(st.integers(1, count))
    hops = keys(count)
    report, links = sent_by(hops, position, reason, side)
    by_itself = None if reason in (DestroyReason.PEER_CLOSED, DestroyReason.NO_SUCH_COOKIE) else (position - 1, position)
    blamed = {Side.NONE: by_itself, Side.PREVIOUS: (position - 1, position), Side.NEXT: (position, position + 1)}[side]
    assert open_report(hops, report) == Report(reason=reason, hop=position, blamed=blamed)
    assert {len(link) for link in links} == {REPORT}  # its length tells nobody how far it has come


@given(st.integers(2, 8), st.data(), st.integers(1, 255))
def test_who_alters_a_report_is_on_the_blamed_link(count, choose, flip):
    position = choose.draw(st.integers(2, count))
    liar = choose.draw(st.integers(1, position - 1))
    hops = keys(count)
    report = make_report(hops[position - 1], position, DestroyReason.TAMPERED, Side.NEXT, os.urandom)
    for before in range(position - 1, 0, -1):
        if before == liar:
            spoilt = bytearray(report)
            spoilt[choose.draw(st.integers(0, REPORT - 16 * liar - 1))] ^= flip
            report = bytes(spoilt)
        report = wrap_report(hops[before - 1], before, report, os.urandom)
    blamed = open_report(hops, report).blamed
    assert blamed is not None
    assert liar in blamed


@given(st.integers(1, 8), st.binary(min_size=REPORT, max_size=REPORT))
def test_rubbish_blames_the_guard(count, rubbish):
    assert open_report(keys(count), rubbish).blamed == (0, 1)


@given(st.sampled_from(list(DestroyReason)), st.none() | st.binary(min_size=REPORT, max_size=REPORT), st.integers(0, 100))
def test_a_destroy_is_read_back_from_its_zero_filled_cell(reason, report, fill):
    assert parse_destroy(pack_destroy(reason, report) + bytes(fill)) == (reason, report)
