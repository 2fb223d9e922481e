"""One task's box in the mailbox: its documents by server, and what they say of keys. Files are small JSON documents, whole or not there."""

import asyncio
import dataclasses
import json
import pathlib

from veilpod.core import meeting
from veilpod.core.ceremony.words import Ceremony
from veilpod.core.ids import Address, ServerIndex
from veilpod.core.store_messages import TaskTerms, parse_terms
from veilpod.errors import ProtocolViolation, Refused
from veilpod.store import files
from veilpod.store.bulletin import Bulletin


@dataclasses.dataclass(slots=True, kw_only=True, eq=False)
class Box:
    """What the mailbox holds of one task, in memory; all of it is on disk, too."""

    terms: TaskTerms
    directory: pathlib.Path
    bulletin: Bulletin
    offers: dict[ServerIndex, meeting.Offer] = dataclasses.field(default_factory=dict)
    acceptances: dict[ServerIndex, meeting.Acceptance] = dataclasses.field(default_factory=dict)
    notes: dict[ServerIndex, list[meeting.Note]] = dataclasses.field(default_factory=dict)
    named: set[ServerIndex] = dataclasses.field(default_factory=set)  # in evidence that the operator was told of
    lock: asyncio.Lock = dataclasses.field(default_factory=asyncio.Lock)
    _ceremony: Ceremony | None = None  # once all offers are here they never change

    @property
    def complete(self) -> bool:
        """Whether every server has made its offer."""
        return len(self.offers) == len(self.terms.owners)

    @property
    def ceremony(self) -> Ceremony:
        """What the words of this box are about. Raises Refused("OffersMissing")."""
        if not self.complete:
            raise Refused("OffersMissing", "the key is made for the statements of all servers, and some are missing")
        if self._ceremony is None:
            self._ceremony = Ceremony.of(self.terms.task, self.offers.values())
        return self._ceremony

    def task_key(self) -> Address:
        """The key that the sandboxes made. Raises Refused("OffersMissing" | "KeyMissing")."""
        key = self.bulletin.key(self.ceremony)
        if key is None:
            raise Refused("KeyMissing", "the sandboxes have not made the task key")
        return key

    def owner(self, index: ServerIndex) -> Address:
        """The assigned server's account. Raises ProtocolViolation."""
        if index >= len(self.terms.owners):
            raise ProtocolViolation("BadMessage", f"the task has no server {index}", party="agent")
        return self.terms.owners[index]

    def sandbox_key(self, index: ServerIndex) -> Address:
        """The key that a sandbox was born with. Raises Refused("OffersMissing")."""
        self.owner(index)
        if index not in self.offers:
            raise Refused("OffersMissing", f"server {index} has made no offer yet, so nobody knows its key")
        return self.offers[index].statement.signing_key


def load(directory: pathlib.Path) -> Box | None:
    """Read a box as an earlier process left it; None where no task was announced."""
    files.sweep_temporary(directory)
    announced = directory / "task.json"
    if not announced.is_file():
        return None  # killed between making the directory and the first write: the operator announces it again
    box = Box(terms=parse_terms(json.loads(announced.read_bytes())), directory=directory, bulletin=Bulletin(directory))
    for index in map(ServerIndex, range(len(box.terms.owners))):
        if (path := directory / f"offer-{index}.json").is_file():
            box.offers[index] = meeting.parse_offer(json.loads(path.read_bytes()))
        if (path := directory / f"acceptance-{index}.json").is_file():
            box.acceptances[index] = meeting.parse_acceptance(json.loads(path.read_bytes()))
        if (path := directory / f"notes-{index}.json").is_file():
            box.notes[index] = [meeting.parse_note(item) for item in json.loads(path.read_bytes())]
    if box.complete:
        box.bulletin.load(box.ceremony)
    return box
