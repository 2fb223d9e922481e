"""The files of `core.task.facts`: one per assignment in the state directory, replaced atomically, kept in memory beside.

A damaged file stops the operator's work on that assignment (it raises): forgetting what was signed would be worse than standing still.
"""

import dataclasses
import json
import pathlib
from typing import Any

from veilpod.chain.files import private_directory, write_atomically
from veilpod.core.canonical import from_hex, to_hex
from veilpod.core.ids import ServerIndex, TaskId
from veilpod.core.task.facts import Facts, parse_facts
from veilpod.errors import InvalidInput


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """One assignment's facts, and which assignment it is when its object is gone."""

    task: TaskId
    index: ServerIndex
    facts: Facts


class FactsStore:
    """Every assignment this release remembers, by the name of its TaskAssignment."""

    def __init__(self, directory: pathlib.Path) -> None:
        private_directory(directory)
        self._directory = directory
        self._known: dict[str, Remembered] = {}

    def names(self) -> list[str]:
        """Every assignment with facts."""
        return sorted(path.stem for path in self._directory.glob("*.json"))

    def find(self, name: str) -> Remembered | None:
        """What is known of an assignment, or None for one that was never begun. Raises InvalidInput("FactsDamaged")."""
        if name not in self._known:
            try:
                self._known[name] = _parse(json.loads(self._path(name).read_bytes()))
            except FileNotFoundError:
                return None
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise InvalidInput(
                    "FactsDamaged", f"{name}.json in the state directory cannot be read: restore it from a backup"
                ) from error
        return self._known[name]

    def begin(self, name: str, task: TaskId, index: ServerIndex) -> Facts:
        """The facts of an assignment, made when there are none yet."""
        known = self.find(name)
        if known is None:
            known = self._write(name, Remembered(task=task, index=index, facts=Facts()))
        return known.facts

    def update(self, name: str, facts: Facts) -> None:
        """Replace an assignment's facts; they are on disk when this returns."""
        known = self.find(name)
        if known is None:
            raise InvalidInput("FactsMissing", f"{name} has no facts to change")
        if known.facts != facts:
            self._write(name, dataclasses.replace(known, facts=facts))

    def change(self, name: str, **changes: Any) -> Facts:
        """Change some fields; they are on disk when this returns."""
        known = self.find(name)
        if known is None:
            raise InvalidInput("FactsMissing", f"{name} has no facts to change")
        facts = dataclasses.replace(known.facts, **changes)
        self.update(name, facts)
        return facts

    def forget(self, name: str) -> None:
        """Remove the facts of an assignment that is settled and gone."""
        self._known.pop(name, None)
        self._path(name).unlink(missing_ok=True)

    def _write(self, name: str, remembered: Remembered) -> Remembered:
        document = {"task": to_hex(remembered.task), "index": int(remembered.index), "facts": remembered.facts.to_json()}
        write_atomically(self._path(name), json.dumps(document).encode())
        self._known[name] = remembered
        return remembered

    def _path(self, name: str) -> pathlib.Path:
        return self._directory / f"{name}.json"


def _parse(document: Any) -> Remembered:
    return Remembered(
        task=TaskId(from_hex(document["task"], 32)), index=ServerIndex(document["index"]), facts=parse_facts(document["facts"])
    )
