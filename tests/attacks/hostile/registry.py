"""How an attempt is written down, made, and reported.

An attempt is a function that returns what it reached, as text, or nothing when nothing was there; an OSError means that it was stopped.
Any other exception is a broken attempt, which proves nothing. Each is made in a process of its own, which may be killed for it.
"""

import dataclasses
import errno
import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

SECONDS = 4.0
AT_ONCE = 8

Surroundings = dict[str, Any]
Attack = Callable[[Surroundings], object]


@dataclasses.dataclass(frozen=True)
class Attempt:
    """`shown`: it succeeds in a pod where nothing is guarded, which is tried, too. `stopped_by`: the tier that would stop it."""

    name: str
    attack: Attack
    shown: bool = True
    stopped_by: str = ""


ATTEMPTS: dict[str, Attempt] = {}


def attempt(*, shown: bool = True, stopped_by: str = "") -> Callable[[Attack], Attack]:
    """Register a function under its name, spoken."""

    def register(attack: Attack) -> Attack:
        name = attack.__name__.replace("_", " ")
        ATTEMPTS[name] = Attempt(name, attack, shown=shown, stopped_by=stopped_by)
        return attack

    return register


def make_all(around: Surroundings) -> dict[str, dict[str, str]]:
    """Make every attempt, several at once: name -> outcome (reached, stopped or broken) and detail."""
    fork = multiprocessing.get_context("fork")
    left, found = sorted(ATTEMPTS), {}
    running: dict[Connection, tuple[str, Any]] = {}
    while left or running:
        while left and len(running) < AT_ONCE:
            here, there = fork.Pipe(duplex=False)
            process = fork.Process(target=_make, args=(ATTEMPTS[left[0]], around, there))
            process.start()
            there.close()
            running[here] = (left.pop(0), process)
        ready = [end for end in wait(list(running), timeout=3 * SECONDS) if isinstance(end, Connection)]
        for end in ready or list(running):
            name, process = running.pop(end)
            try:
                found[name] = end.recv() if end in ready else {"outcome": "stopped", "detail": "no answer"}
            except EOFError:
                process.join()
                found[name] = {"outcome": "stopped", "detail": f"killed: {process.exitcode}"}
            process.kill()
            process.join()
    return found


def _make(attempted: Attempt, around: Surroundings, told: Connection) -> None:
    try:
        reached = attempted.attack(around)
        told.send({"outcome": "reached" if reached else "stopped", "detail": str(reached or "nothing there")})
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0, "")
        told.send({"outcome": "stopped", "detail": f"{type(error).__name__} {name}".strip()})
    except Exception as error:  # noqa: BLE001 - told, and never taken for a success of the guards
        told.send({"outcome": "broken", "detail": repr(error)})
    finally:
        told.close()
        os._exit(0)
