"""A channel's word in the contract's events, against the layout that docs/protocol/channels.md gives."""

from hypothesis import given
from hypothesis import strategies as st
from tests.support.channels import CHANNEL

from veilpod.core.channel.state import parse_word
from veilpod.core.entities import ChainChannel, ChannelPhase


def bits(count: int) -> st.SearchStrategy[int]:
    return st.integers(0, (1 << count) - 1)


@given(st.sampled_from(ChannelPhase), bits(2), bits(16), bits(40), bits(32), bits(80), bits(80))
def test_a_word_is_read_as_it_is_laid_out(phase, flags, epoch, sequence, deadline, balance_a, balance_b):
    first = bytes([flags << 6 | int(phase)])
    rest = [(epoch, 2), (sequence, 5), (deadline, 4), (balance_a, 10), (balance_b, 10)]
    word = int.from_bytes(first + b"".join(value.to_bytes(size, "big") for value, size in rest), "big")
    assert parse_word(CHANNEL, word) == ChainChannel(
        id=CHANNEL, phase=phase, epoch=epoch, sequence=sequence, deadline=deadline, balance_a=balance_a, balance_b=balance_b
    )
