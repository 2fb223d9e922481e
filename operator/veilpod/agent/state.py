"""Where an agent is in its life: a fold over what happened, pure and total.

    Born -> Configured -> Ready -> Offered -> Accepted -> Published -> Verified -> Running -> Exited -> Released
    any  -> Failed (may still be Released: channels are settled after a failure, too)
    any  -> Zeroised, from which nothing leads

The service asks `allows` before it acts on a command and folds what it did with `step`; the table below is the whole rule. Paper steps 4
to 10.
"""

import dataclasses
import enum

from veilpod.errors import Refused


class Phase(enum.IntEnum):
    """How far the sandbox has come."""

    BORN = 0
    CONFIGURED = 1  # the operator said what the task is
    READY = 2  # isolation observed, keys made, rendezvous built
    OFFERED = 3  # the server vouched, all offers are here, the task key is made
    ACCEPTED = 4  # the server accepted the task key
    PUBLISHED = 5  # the task key is on chain
    VERIFIED = 6  # every input is here and verified
    RUNNING = 7
    EXITED = 8
    RELEASED = 9  # everything that outlives the sandbox is persisted


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """`failure` is the first failure's code, "" without one."""

    phase: Phase = Phase.BORN
    failure: str = ""
    zeroised: bool = False

    @property
    def going(self) -> bool:
        """Whether the life goes on by itself."""
        return not self.failure and not self.zeroised


# From which phase on a command makes sense. Commands are repeated by operators that restart, so there is no upper end.
_EARLIEST = {
    "configure": Phase.BORN,
    "statement": Phase.CONFIGURED,
    "offer": Phase.READY,
    "acceptance": Phase.OFFERED,
    "published": Phase.ACCEPTED,
    "channel": Phase.PUBLISHED,
    "credit": Phase.PUBLISHED,
    "release": Phase.BORN,
    "zeroise": Phase.BORN,
}


def allows(state: State, command: str) -> None:
    """Refuse a command that comes too early or after the end. Raises Refused("TooEarly" | "Zeroised")."""
    if state.zeroised and command != "zeroise":
        raise Refused("Zeroised", "this sandbox has wiped its keys: nothing can be asked of it")
    if state.phase < _EARLIEST[command]:
        raise Refused("TooEarly", f"{command} needs {_EARLIEST[command].name}, the agent is {state.phase.name}")


def reached(state: State, phase: Phase) -> State:
    """The state after reaching a phase: only ever forward, one step at a time, and never after a failure but to RELEASED."""
    if state.zeroised or phase <= state.phase:
        return state
    if phase is Phase.RELEASED:
        return dataclasses.replace(state, phase=phase)
    if state.failure or phase != state.phase + 1:
        raise ValueError(f"{phase.name} does not follow {state.phase.name}")
    return dataclasses.replace(state, phase=phase)


def failed(state: State, code: str) -> State:
    """The state after a failure: the first one counts, and a released sandbox does not fail any more."""
    if state.failure or state.zeroised or state.phase is Phase.RELEASED:
        return state
    return dataclasses.replace(state, failure=code)


def zeroised(state: State) -> State:
    """The state after the keys are gone."""
    return dataclasses.replace(state, zeroised=True)
