"""Key ceremonies played by who knows all secrets: everybody's posts, and the key."""

import dataclasses
from collections.abc import Sequence

from veilpod.core.canonical import keccak256
from veilpod.core.ceremony.member import Member, Progress, hear, speak
from veilpod.core.ceremony.words import Ceremony, Post, Reveal, body_digest, parse_post, parse_received
from veilpod.core.ids import ServerIndex, TaskId
from veilpod.core.keys import SigningKey
from veilpod.core.sealing import HybridPrivateKey

TASK = TaskId(b"\x11" * 32)


def keys(count: int) -> list[SigningKey]:
    """The sandbox keys of so many servers."""
    return [SigningKey(secret=keccak256(b"sandbox key" + bytes([index]))) for index in range(count)]


def ceremony(count: int, *, task: TaskId = TASK, statements: bytes = b"\x22" * 32) -> Ceremony:
    return Ceremony(task=task, statements=statements, signers=tuple(key.address for key in keys(count)))


def member(of: Ceremony, index: int, signing: SigningKey, *, seed: bytes = b"") -> Member:
    """One member whose secrets follow from a seed."""
    secret = [keccak256(b"%d member %d " % (number, index) + seed) for number in range(4)]
    return Member(
        ceremony=of,
        index=ServerIndex(index),
        signing=signing,
        contribution=secret[0],
        key=HybridPrivateKey.from_bytes(b"".join(secret[1:])),
    )


def members(of: Ceremony, signing: Sequence[SigningKey], *, seed: bytes = b"") -> list[Member]:
    return [member(of, index, key, seed=seed) for index, key in enumerate(signing)]


def broken_share(post: Post, signing: SigningKey, *, victim: int) -> Post:
    """The same reveal with bytes for one member that nobody committed to."""
    assert isinstance(post.word, Reveal)
    bodies = tuple(bytes(1168) if at == victim else body for at, body in enumerate(post.bodies))
    word = dataclasses.replace(post.word, shares=tuple(map(body_digest, bodies)))
    return Post(word=word.signed(signing), bodies=bodies)


def play(everybody: Sequence[Member]) -> tuple[list[list[Post]], SigningKey]:
    """All posts by stage and member, and the key. Everything goes over the wire."""
    progress = [Progress() for _ in everybody]
    said = []
    while progress[0].stage is not None:
        posts = [parse_post(speak(one, at).document()) for one, at in zip(everybody, progress, strict=True)]
        after = [
            hear(one, at, [parse_received(post.to(one.index).document(), one.index) for post in posts])
            for one, at in zip(everybody, progress, strict=True)
        ]
        progress = [at for at in after if isinstance(at, Progress)]
        assert len(progress) == len(everybody)
        said.append(posts)
    assert progress[0].group
    return said, progress[0].group
