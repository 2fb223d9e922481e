"""A sealed data set is opened whole and unaltered, or not at all."""

import functools
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from veilpod.core import dataset
from veilpod.core.keys import SigningKey, custody_key
from veilpod.core.sealing import HybridPrivateKey
from veilpod.errors import InvalidInput, ProtocolViolation

KEY = bytes(range(32))
PREFIX = b"\x07" * 8
CHUNK = dataset.CHUNK


@functools.cache
def custodian() -> HybridPrivateKey:
    return custody_key(SigningKey(secret=b"\x11" * 32))


def header(name: str = "north") -> dataset.Header:
    return dataset.make_header(name=name, custodian=custodian().public_bytes, data_key=KEY, prefix=PREFIX)


def sealed(plaintext: bytes, head: dataset.Header | None = None) -> bytes:
    return b"".join(dataset.seal_stream([plaintext], header=head or header(), data_key=KEY))


def opened(data: bytes, key: bytes = KEY, piece: int = 700_001) -> bytes:
    return b"".join(dataset.open_stream((data[i : i + piece] for i in range(0, len(data), piece)), data_key=key))


@functools.cache
def three_chunks() -> tuple[dataset.Header, bytes]:
    head = header()
    return head, sealed(b"a" * CHUNK + b"b" * CHUNK + b"c" * 100, head)


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 5])
def test_an_object_of_any_size_opens_to_what_was_sealed(size: int) -> None:
    plaintext = bytes(i % 251 for i in range(1000)) * (size // 1000 + 1)
    head = header()
    data = sealed(plaintext[:size], head)
    assert opened(data) == plaintext[:size]
    assert len(data) == dataset.sealed_size(head, size)


@settings(deadline=None, max_examples=30)
@given(cuts=st.lists(st.integers(1, 2 * CHUNK + 600), max_size=6), piece=st.integers(1000, 3 * CHUNK))
def test_how_the_bytes_were_cut_on_their_way_changes_nothing(cuts: list[int], piece: int) -> None:
    plaintext = b"x" * (2 * CHUNK) + b"y" * 600
    edges = [0, *sorted(cuts), len(plaintext)]
    head = header()
    data = b"".join(dataset.seal_stream([plaintext[a:b] for a, b in itertools.pairwise(edges)], header=head, data_key=KEY))
    assert data == sealed(plaintext, head)
    assert opened(data, piece=piece) == plaintext


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_no_altered_byte_survives(data: st.DataObject) -> None:
    _, good = three_chunks()
    at = data.draw(st.one_of(st.integers(0, 2500), st.integers(0, len(good) - 1)), label="position")
    flip = data.draw(st.integers(1, 255), label="flip")
    bad = good[:at] + bytes([good[at] ^ flip]) + good[at + 1 :]
    with pytest.raises(ProtocolViolation):
        opened(bad)


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_no_truncated_object_opens(data: st.DataObject) -> None:
    head, good = three_chunks()
    edge = len(head.raw) + CHUNK + dataset.TAG
    length = data.draw(st.one_of(st.sampled_from([0, 8, len(head.raw), edge, edge + CHUNK + dataset.TAG]), st.integers(0, len(good) - 1)))
    with pytest.raises(ProtocolViolation):
        opened(good[:length])


@settings(deadline=None, max_examples=20)
@given(extra=st.binary(min_size=1, max_size=200))
def test_no_continued_object_opens(extra: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        opened(three_chunks()[1] + extra)


@pytest.mark.parametrize("order", [(1, 0, 2), (0, 0, 2), (0, 2), (0, 1, 1, 2), (1, 2), (2,), (0, 1)])
def test_no_reordered_repeated_or_dropped_chunk_survives(order: tuple[int, ...]) -> None:
    head, good = three_chunks()
    body, step = good[len(head.raw) :], CHUNK + dataset.TAG
    chunks = [body[i : i + step] for i in range(0, len(body), step)]
    with pytest.raises(ProtocolViolation):
        opened(head.raw + b"".join(chunks[i] for i in order))


def test_a_header_cannot_be_put_on_another_objects_chunks() -> None:
    head, good = three_chunks()
    other = header(name="south")
    with pytest.raises(ProtocolViolation, match="chunk 0"):
        opened(other.raw + good[len(head.raw) :])


def test_another_key_opens_nothing() -> None:
    with pytest.raises(ProtocolViolation):
        opened(three_chunks()[1], key=b"\x01" * 32)


def test_only_the_custodian_opens_the_data_key_and_only_under_its_name() -> None:
    head = header()
    parsed = dataset.parse_header(head.raw)
    assert parsed == head
    assert dataset.open_data_key(head, custodian()) == KEY
    with pytest.raises(ProtocolViolation):
        dataset.open_data_key(head, HybridPrivateKey.generate())


def test_a_header_is_read_from_the_first_bytes_alone() -> None:
    head, good = three_chunks()
    assert dataset.parse_header(good[: len(head.raw) - 1]) is None
    assert dataset.parse_header(good[:5]) is None
    assert dataset.parse_header(good) == head


@pytest.mark.parametrize(
    "junk", [b"PK\x03\x04 something else", b"VEILDS02" + b"\0" * 40, b"VEILDS01\xff\xff\xff\xff", b"VEILDS01\0\0\0\x02{}"]
)
def test_other_files_are_refused_with_a_reason(junk: bytes) -> None:
    with pytest.raises(ProtocolViolation) as refused:
        dataset.parse_header(junk)
    assert refused.value.reason == "BadObject"


def test_a_name_that_no_registry_takes_is_refused() -> None:
    with pytest.raises(InvalidInput):
        header(name="")


def test_opening_holds_at_most_two_chunks() -> None:
    opener = dataset.Opener(KEY)
    _, good = three_chunks()
    for start in range(0, len(good), 4096):
        opener.feed(good[start : start + 4096])
        assert len(opener._pending) <= CHUNK + dataset.TAG + 4096


def test_the_custody_key_depends_on_the_chain_key_only() -> None:
    again = custody_key(SigningKey(secret=b"\x11" * 32))
    assert again.public_bytes == custodian().public_bytes
    assert custody_key(SigningKey(secret=b"\x12" * 32)).public_bytes != again.public_bytes
