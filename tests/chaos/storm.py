"""A thousand kills at random moments of random operators, while small tasks come, run, are deleted and go."""

import dataclasses
import random
import time

from demo.parties import REQUESTER, Party
from demo.stage import Stage

from localcluster import progress, waiting
from tests.chaos import small
from tests.chaos.killing import OPERATORS, Operators

PAUSES = (0.5, 3.0)  # seconds between two kills: an operator is killed about as soon as it has come back and done a few things
LOOKS = 5.0  # seconds between two looks at the tasks
STARS = 2  # at once: sandboxes that wait for peers hold the node's processors, and there must be room for all of a star
WILLS = 0.02  # how likely somebody deletes a task that is under way, at each look


@dataclasses.dataclass(slots=True, kw_only=True)
class Tasks:
    """As many tasks at once as wanted: new ones come for those that are settled."""

    stage: Stage
    recipient: str
    at_once: int
    chance: random.Random
    made: int = 0
    settled: int = 0

    def look(self, *, more: bool) -> int:
        """Delete what is settled, and a few that are not; make new ones if `more`. Returns how many are under way."""
        items = self.stage.cluster.get("computetasks", "-n", REQUESTER.name)["items"]
        alive = [item for item in items if "deletionTimestamp" not in item["metadata"]]
        done = {item["metadata"]["name"] for item in alive if _settled(item)}
        self.settled += len(done)
        unwanted = {item["metadata"]["name"] for item in alive if more and self.chance.random() < WILLS}
        if leaving := sorted(done | unwanted):
            self.stage.cluster.kubectl("delete", "computetasks", "-n", REQUESTER.name, "--wait=false", *leaving)
        if more and (room := self.at_once - (len(items) - len(done))) > 0:
            stars = sum(item["metadata"]["name"].startswith("star") for item in items if item["metadata"]["name"] not in done)
            small.apply(self.stage, self.recipient, [self._next(star=stars + number < STARS) for number in range(room)])
        return len(items) - len(done)

    def _next(self, *, star: bool) -> dict[str, object]:
        self.made += 1
        seconds = self.chance.uniform(0, 5)
        return small.star(f"star-{self.made}", seconds=seconds) if star else small.solo(f"solo-{self.made}", seconds=seconds)


def rage(stage: Stage, *, kills: int, tasks: Tasks) -> dict[str, int]:
    """Kill until it is enough. Returns how often each party's operator was killed."""
    operators, killed, next_look = Operators(stage), dict.fromkeys((party.name for party in OPERATORS), 0), 0.0
    while sum(killed.values()) < kills:
        if time.monotonic() >= next_look:
            under_way = tasks.look(more=True)
            next_look = time.monotonic() + LOOKS
            if sum(killed.values()) % 10 == 0:
                _tell(sum(killed.values()), kills, tasks, under_way)
        victim = tasks.chance.choice(OPERATORS)
        _kill(operators, victim)
        killed[victim.name] += 1
        waiting.pause(tasks.chance.uniform(*PAUSES))
    return killed


def _kill(operators: Operators, victim: Party) -> None:
    if not waiting.until(lambda: operators.kill(victim), timeout=180, every=0.2):
        raise progress.Failure(f"{victim.name}'s operator does not come back", next=f"kubectl describe pod -n {victim.name}")


def _tell(killed: int, kills: int, tasks: Tasks, under_way: int) -> None:
    progress.say(f"    {killed:>5} of {kills} kills; {tasks.made} tasks made, {tasks.settled} settled, {under_way} under way")


def _settled(item: dict[str, object]) -> bool:
    conditions = item.get("status", {}).get("conditions", ())
    return any(condition["type"] == "Settled" and condition["status"] == "True" for condition in conditions)
