"""The requester's mailbox: where sandboxes meet before their key is on chain, and where they leave notes and the sealed result.

Per announced task and computing server it keeps one offer, the words of the key ceremony (`bulletin`), one acceptance and a note per
event, and per task one result. The first write wins, an equal repeat is fine, every signature is checked before a byte is kept.
Everything is on disk, because a result must survive a restart: its sandbox is gone by then. It decrypts nothing. Paper steps 4 (key
agreement, publication) and 8 (result delivery).
"""

import asyncio
import logging
import pathlib
import shutil
from collections.abc import AsyncIterator, Callable
from typing import Any

from veilpod.core import meeting
from veilpod.core.canonical import canonical, from_hex
from veilpod.core.ceremony.evidence import Evidence, parse_evidence
from veilpod.core.ceremony.words import Stage, parse_post
from veilpod.core.fields import Fields
from veilpod.core.ids import ServerIndex, TaskId
from veilpod.core.result import result_hash_of_digest
from veilpod.core.store_messages import CeremonyReport, ResultInfo, TaskTerms
from veilpod.errors import Refused
from veilpod.store import files, results
from veilpod.store.box import Box, load
from veilpod.store.bulletin import Bulletin

RESULT_OVERHEAD = 1 << 20  # what the sealed form (log, header, HPKE) may add to the spec's maxSize
_PIECE = 1 << 20
_HOLD_SECONDS = 2.0  # an answer waits so long for the words that are missing: no member asks again and again

Changed = Callable[[TaskId, str, int], None]

log = logging.getLogger(__name__)


def _ignore(task: TaskId, what: str, index: int) -> None:
    pass


class Mailbox:
    """Boxes by task id, under one directory. `changed(task, what, index)` is told about every new document: a hint for the operator."""

    def __init__(self, directory: pathlib.Path, *, changed: Changed = _ignore) -> None:
        self._directory = directory
        self._changed = changed
        directory.mkdir(parents=True, exist_ok=True)
        loaded = [load(path) for path in sorted(directory.iterdir())]
        self._boxes = {box.terms.task: box for box in loaded if box is not None}

    # -- for the operator ----------------------------------------------------------------------------------------------------------

    def announce(self, terms: TaskTerms) -> None:
        """Open a box. Repeating it is fine. Raises Refused("TermsDiffer") for other terms of a known task."""
        box = self._boxes.get(terms.task)
        if box is not None:
            if box.terms != terms:
                raise Refused("TermsDiffer", "this task was announced with other terms; forget it first")
            return
        directory = self._directory / terms.task.hex()
        directory.mkdir(exist_ok=True)
        files.write_atomically(directory / "task.json", canonical(terms.document()))
        files.sync_directory(self._directory)
        self._boxes[terms.task] = Box(terms=terms, directory=directory, bulletin=Bulletin(directory))

    async def forget(self, task: TaskId) -> None:
        """Remove a box and everything in it. Repeating it is fine."""
        box = self._boxes.pop(task, None)
        if box is not None:
            async with box.lock:
                await asyncio.to_thread(shutil.rmtree, box.directory)
                files.sync_directory(self._directory)

    def tasks(self) -> list[TaskId]:
        """Every task with a box."""
        return list(self._boxes)

    def offers(self, task: TaskId) -> list[meeting.Offer]:
        """The offers so far, by index."""
        return [offer for _, offer in sorted(self._box(task).offers.items())]

    def acceptances(self, task: TaskId) -> list[meeting.Acceptance]:
        """The acceptances so far, by index."""
        return [acceptance for _, acceptance in sorted(self._box(task).acceptances.items())]

    def notes(self, task: TaskId) -> list[meeting.Note]:
        """The notes so far, by index and then in the order they came."""
        return [note for _, notes in sorted(self._box(task).notes.items()) for note in notes]

    def result(self, task: TaskId) -> ResultInfo | None:
        """The result, once it is here whole and durable."""
        return results.find(self._box(task).directory)

    async def result_pieces(self, task: TaskId) -> AsyncIterator[bytes]:
        """Read the sealed result in pieces of at most 1 MiB."""
        with results.open_whole(self._box(task).directory) as file:
            while piece := await asyncio.to_thread(file.read, _PIECE):
                yield piece

    def ceremony(self, task: TaskId) -> CeremonyReport:
        """How far the key ceremony is, and who broke it."""
        box = self._box(task)
        if not box.complete:
            return CeremonyReport()
        ceremony, board = box.ceremony, box.bulletin
        stage = board.stage(ceremony)
        return CeremonyReport(
            stage=str(stage) if stage else "done",
            missing=tuple(board.missing(ceremony, stage)) if stage else (),
            confirmations=tuple(board.confirmations()),
            evidence=tuple(evidence for _, evidence in sorted(board.evidence.items())),
        )

    def evidence(self, task: TaskId, guilty: ServerIndex) -> Evidence | None:
        """What convicts a server of breaking the key ceremony."""
        return self._box(task).bulletin.evidence.get(guilty)

    # -- for the sandboxes ---------------------------------------------------------------------------------------------------------

    async def put_offer(self, value: Any) -> None:
        """Keep a server's offer. A higher incarnation replaces a lower one until all are here: nobody has accepted before that."""
        offer = meeting.parse_offer(value)
        box, index = self._box(offer.statement.task), offer.statement.index
        async with box.lock:
            meeting.verify_offer(offer, task=box.terms.task, index=index, owner=box.owner(index))
            known = box.offers.get(index)
            if known == offer:
                return
            if known is not None and (box.complete or offer.statement.incarnation <= known.statement.incarnation):
                raise Refused("AlreadyWritten", f"server {index} has made its offer")
            await files.keep(box.directory / f"offer-{index}.json", offer.document())
            box.offers[index] = offer
        self._told(box, "offer", index)

    async def put_ceremony(self, value: Any) -> dict[str, Any]:
        """Keep a word of the key ceremony, and answer with everybody's of its stage as soon as they are here."""
        post = parse_post(value)
        box, word = self._box(post.word.task), post.word
        async with box.lock:
            news = await box.bulletin.put(box.ceremony, post)
        if news:
            log.info("mailbox.kept", extra={"what": f"ceremony.{word.stage}"})
        return await self._watch(box, word.stage, word.index)

    async def get_ceremony(self, value: Any) -> dict[str, Any]:
        """Answer a member with everybody's words of a stage as soon as they are here."""
        fields = Fields(value, what="ceremony request", party="agent")
        box = self._box(TaskId(fields.data("taskId", 32)))
        stage = Stage(fields.choice("stage", frozenset(Stage)))
        index = ServerIndex(fields.integer("index", maximum=len(box.terms.owners) - 1))
        fields.done()
        return await self._watch(box, stage, index)

    async def _watch(self, box: Box, stage: Stage, reader: ServerIndex) -> dict[str, Any]:
        self._tell_of_evidence(box)
        return await box.bulletin.watch(box.ceremony, stage, reader, seconds=_HOLD_SECONDS)

    def _tell_of_evidence(self, box: Box) -> None:
        for guilty in box.bulletin.evidence.keys() - box.named:
            box.named.add(guilty)
            log.warning("ceremony.broken", extra={"server": int(guilty), "kind": type(box.bulletin.evidence[guilty]).__name__})
            self._told(box, "evidence", guilty)

    async def put_evidence(self, value: Any) -> None:
        """Keep the proof of who broke the ceremony, if it is one."""
        fields = Fields(value, what="accusation", party="agent")
        box = self._box(TaskId(fields.data("taskId", 32)))
        evidence = parse_evidence(fields.take("evidence"))
        fields.done()
        async with box.lock:
            await box.bulletin.accuse(box.ceremony, evidence)
        self._tell_of_evidence(box)

    async def put_acceptance(self, value: Any) -> None:
        """Keep a server's signature over the task key, and its descriptors."""
        acceptance = meeting.parse_acceptance(value)
        box, index = self._box(acceptance.task), acceptance.index
        async with box.lock:
            if not box.complete:
                raise Refused("OffersMissing", "an acceptance signs the statements of all servers, and some are missing")
            meeting.verify_acceptance(
                acceptance,
                domain=box.terms.domain,
                key=box.task_key(),
                statements=[offer.statement.digest for offer in self.offers(box.terms.task)],
                owner=box.owner(index),
            )
            known = box.acceptances.get(index)
            if known == acceptance:
                return
            if known is not None:
                raise Refused("AlreadyWritten", f"server {index} has accepted")
            await files.keep(box.directory / f"acceptance-{index}.json", acceptance.document())
            box.acceptances[index] = acceptance
        self._told(box, "acceptance", index)

    async def put_note(self, value: Any) -> None:
        """Keep a progress note: one per event of a server, so the vocabulary bounds them."""
        note = meeting.parse_note(value)
        box, index = self._box(note.task), note.index
        async with box.lock:
            meeting.verify_note(note, box.sandbox_key(index))
            known = box.notes.get(index, [])
            if note in known:
                return
            if any(old.event == note.event for old in known):
                raise Refused("AlreadyWritten", f"server {index} has told of {note.event}")
            await files.keep(box.directory / f"notes-{index}.json", [item.document() for item in [*known, note]])
            box.notes[index] = [*known, note]
        self._told(box, "note", index)

    async def put_result(self, value: Any) -> dict[str, Any]:
        """Keep one piece of the result. Answers {"have": bytes, "complete": bool}; pieces go in order, a repeated one is fine."""
        box = self._box(TaskId(from_hex(value.get("taskId", ""), 32)))
        piece = meeting.parse_result_piece(value, maximum=box.terms.max_size + RESULT_OVERHEAD)
        async with box.lock:
            hashed = result_hash_of_digest(piece.task, piece.digest)
            meeting.verify_result(
                domain=box.terms.domain, task=piece.task, result_hash=hashed, signature=piece.signature, key=box.task_key()
            )
            # Every sandbox holds the task key: which of them made this result is said by its own.
            meeting.verify_author(piece.task, piece.digest, piece.author, box.sandbox_key(box.terms.result_from))
            # Shielded: a disconnected sender must not leave a thread writing behind the lock's back.
            have, news = await asyncio.shield(asyncio.to_thread(results.keep, box.directory, piece))
        if news:
            self._told(box, "result", box.terms.result_from)
        return {"have": have, "complete": have == piece.total}

    def _told(self, box: Box, what: str, index: int) -> None:
        log.info("mailbox.kept", extra={"what": what})
        self._changed(box.terms.task, what, index)

    def _box(self, task: TaskId) -> Box:
        box = self._boxes.get(task)
        if box is None:
            raise Refused("UnknownTask", "no such task was announced here")
        return box
