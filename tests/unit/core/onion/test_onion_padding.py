from hypothesis import given
from hypothesis import strategies as st

from veilpod.core.onion.padding import padded

counts = st.integers(1, 1 << 40)


@given(counts)
def test_padding_never_takes_away_and_adds_at_most_what_it_says(count):
    assert count <= padded(count)
    assert padded(count) < 2 * count if count <= 32 else padded(count) <= count * 9 // 8
    assert padded(padded(count)) == padded(count)


@given(counts, counts)
def test_who_says_more_never_seems_to_say_less(one, other):
    assert (padded(one) <= padded(other)) or one > other


def test_a_terabyte_is_one_of_few_sizes():
    cells = (1 << 40) // 65384
    assert len({padded(count) for count in (*range(1, 100_000), *range(100_000, cells, 1000))}) < 450
