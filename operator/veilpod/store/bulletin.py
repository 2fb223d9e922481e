"""The board of one task's key ceremony: each sandbox's word of each stage, and the proof of who broke it.

First write wins; a second word that differs is kept as evidence and ends the ceremony. The board judges evidence before it keeps it, so
that it never holds an accusation that does not stand; whom it shows it to judges again. It opens no share.
"""

import asyncio
import contextlib
import json
import pathlib
from typing import Any

from veilpod.core.ceremony.evidence import Equivocation, Evidence, judge, parse_evidence
from veilpod.core.ceremony.words import Ceremony, Confirmation, Post, Stage, parse_post, verify_word
from veilpod.core.ids import Address, ServerIndex
from veilpod.errors import Refused
from veilpod.store import files


class Bulletin:
    """Words and evidence, on disk and in memory. Writers are kept apart by who owns it."""

    def __init__(self, directory: pathlib.Path) -> None:
        self._directory = directory
        self._posts: dict[tuple[Stage, ServerIndex], Post] = {}
        self.evidence: dict[ServerIndex, Evidence] = {}  # by who is guilty
        self._news = asyncio.Event()

    def load(self, ceremony: Ceremony) -> None:
        """Read what an earlier process kept."""
        for index in map(ServerIndex, range(len(ceremony.signers))):
            for stage in Stage:
                if (path := self._path(stage, index)).is_file():
                    self._posts[stage, index] = parse_post(json.loads(path.read_bytes()))
            if (path := self._path("evidence", index)).is_file():
                self.evidence[index] = parse_evidence(json.loads(path.read_bytes()))

    async def put(self, ceremony: Ceremony, post: Post) -> bool:
        """Keep a word; whether it, or that it was a second one, is news. Raises ProtocolViolation, Refused("TooEarly")."""
        word = post.word
        verify_word(ceremony, word)
        known = self._posts.get((word.stage, word.index))
        if known is not None:
            return known.word.digest != word.digest and await self.accuse(ceremony, Equivocation(first=known.word, second=word))
        if any(self.missing(ceremony, stage) for stage in _before(word.stage)):
            raise Refused("TooEarly", "somebody has not said the word before this one")
        await files.keep(self._path(word.stage, word.index), post.document())
        self._posts[word.stage, word.index] = post
        self._tell()
        return True

    async def accuse(self, ceremony: Ceremony, evidence: Evidence) -> bool:
        """Keep evidence if it holds: the first against each member. Whether it is news. Raises ProtocolViolation("NothingProved")."""
        guilty = judge(ceremony, evidence)
        if guilty in self.evidence:
            return False
        await files.keep(self._path("evidence", guilty), evidence.document())
        self.evidence[guilty] = evidence
        self._tell()
        return True

    async def watch(self, ceremony: Ceremony, stage: Stage, reader: ServerIndex, *, seconds: float) -> dict[str, Any]:
        """The answer to a member: who is missing, everybody's word once all are here, evidence. Waits a little for news."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.missing(ceremony, stage) and not self.evidence:
                    await self._news.wait()
        missing = self.missing(ceremony, stage)
        posts = [] if missing else [self._posts[stage, ServerIndex(index)] for index in range(len(ceremony.signers))]
        return {
            "missing": [int(index) for index in missing],
            "words": [post.to(reader).document() for post in posts],
            "evidence": [evidence.document() for _, evidence in sorted(self.evidence.items())[:1]],
        }

    def missing(self, ceremony: Ceremony, stage: Stage) -> list[ServerIndex]:
        """Who has not said this stage's word."""
        return [index for index in map(ServerIndex, range(len(ceremony.signers))) if (stage, index) not in self._posts]

    def stage(self, ceremony: Ceremony) -> Stage | None:
        """The first stage that is not whole; None when the ceremony is over."""
        return next((stage for stage in Stage if self.missing(ceremony, stage)), None)

    def confirmations(self) -> list[Confirmation]:
        """The last words so far, by index."""
        return [post.word for _, post in sorted(self._posts.items()) if isinstance(post.word, Confirmation)]

    def key(self, ceremony: Ceremony) -> Address | None:
        """The task key, once every sandbox has confirmed the same."""
        said = self.confirmations()
        keys = {confirmation.key for confirmation in said}
        return keys.pop() if len(said) == len(ceremony.signers) and len(keys) == 1 else None

    def _path(self, what: str, index: ServerIndex) -> pathlib.Path:
        return self._directory / f"ceremony-{what}-{index}.json"

    def _tell(self) -> None:
        # Whoever waits looks again; who waits from now on waits for the next news.
        self._news.set()
        self._news = asyncio.Event()


def _before(stage: Stage) -> list[Stage]:
    stages = list(Stage)
    return stages[: stages.index(stage)]
