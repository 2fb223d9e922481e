"""Every crash point once on real pods: four lives of tasks, with operators that kill themselves around each effect."""

import asyncio
import json
from collections.abc import Callable

from demo import chain
from demo.parties import REQUESTER, SERVERS, WORK, Party
from demo.stage import Stage
from demo.veilpod_demo import crash
from web3 import Web3

from localcluster import progress, waiting
from tests.chaos import leftovers, small
from tests.chaos.killing import OPERATORS, stop_agents
from tests.support import cheating, playing
from tests.support.crash_points import places, points
from veilpod.core.channel.state import opening_state
from veilpod.core.keys import signing_key

PERIOD = 3700  # seconds: more than the channels' challenge period
PATIENCE = 900.0  # seconds for a life in which everybody dies dozens of times
ROUNDS = 4  # of good lives: who dies before an effect may find it done, and does not get to the moment after it
_LIST = f"ls /var/lib/veilpod/{crash.DIRECTORY} 2>/dev/null || true"
# What a good life does not come by.
BAD = {"CancelTask", "Refund", "RecordFailure", "RecordUnreachable", "Challenge", "Respond", "Finalize", "CancelChannel"}
SHORT = {"schedule": "2m", "inputs": "3m", "compute": "5m", "total": "15m"}


class Points:
    """The lives. `web3` reaches the chain."""

    def __init__(self, stage: Stage, web3: Web3) -> None:
        self._stage, self._web3 = stage, web3
        self._wanted = points(places())
        self._recipient = small.recipient_of(stage)

    def play(self) -> None:
        """Live them all."""
        with progress.step(f"operators that die at {len(self._wanted)} points"):
            self._command("veilpod_demo.crash")
        for number in range(1, ROUNDS + 1):
            with progress.step(f"tasks that end well, round {number}") as step:
                self._good(number)
                step.note(f"{len(self.missing())} points are left")
            if all(point.split()[-1] in BAD for point in self.missing()):
                break
        self._believe()
        for story in (self._silent, self._cheated, self._abandoned):
            with progress.step(f"a task that is {story.__name__.strip('_')}") as step:
                story()
                step.note(f"{len(self.missing())} points are left")
        with progress.step("operators that do not"):
            self._command("veilpod.control")

    def deaths(self) -> dict[str, list[str]]:
        """Where each party's operator has died."""
        return {party.name: self._died(party) for party in OPERATORS}

    def missing(self) -> list[str]:
        """Where nobody has died."""
        return sorted(self._wanted.difference(*self.deaths().values()))

    # -- lives

    def _good(self, number: int) -> None:
        names = [f"good-{number}-{each}" for each in range(4)]
        self._start(*(small.star(name) for name in names[:2]), *(small.solo(name) for name in names[2:]))
        self._until(lambda: len(self._items("taskassignments")) == 8 and len(self._items("statechannels")) == 8, "everybody takes part")
        for kind in ("taskassignments", "statechannels"):
            for server in SERVERS:
                for item in self._stage.cluster.get(kind, "-n", server.name)["items"]:
                    patch = json.dumps({"metadata": {"finalizers": None}})
                    self._stage.cluster.kubectl("patch", kind, item["metadata"]["name"], "-n", server.name, "--type=merge", "-p", patch)
        for name in names:
            self._reached(name, "KeyRevoked")
        self._until(lambda: all(_settled(item) or _disputed(item) for item in self._items("statechannels")), "channels closed or disputed")
        if not self._all_settled("statechannels"):
            # Who dies all the time may keep a peer waiting for its signature until the peer goes to the chain.
            self._passing(PERIOD, lambda: self._all_settled("statechannels"))
        self._until(lambda: self._all_settled("taskassignments"), "every part is settled")
        for name in names:
            self._reached(name, "Settled")
        self._all_go()

    def _silent(self) -> None:
        """Its agents stop for ever, and it is deleted: no last word, no answer, and a challenge period."""
        self._start(small.star("silent", seconds=600))
        self._reached("silent", "KeyPublished")
        playing.until(lambda: len(playing.sandbox_pods(self._stage)) == 3, "three sandboxes")
        stop_agents(self._stage, [pod["metadata"]["uid"] for pod in playing.sandbox_pods(self._stage)])
        playing.delete(self._stage, "silent")
        self._until(lambda: not self._items("computetasks"), "the task is gone")
        self._close()

    def _cheated(self) -> None:
        """A server goes to the chain with the deposits although they have moved; the other one answers."""
        self._start(small.star("cheated", seconds=600))
        self._until(
            lambda: len(self._items("statechannels")) == 4 and all(_paid(item) for item in self._items("statechannels")), "payments"
        )
        for server in SERVERS:
            for item in self._stage.cluster.get("statechannels", "-n", server.name)["items"]:
                if item["spec"]["a"].lower() == server.address.lower():
                    asyncio.run(self._challenge(server, item))
        playing.delete(self._stage, "cheated")
        self._until(lambda: not self._items("computetasks"), "the task is gone")
        self._close()

    async def _challenge(self, server: Party, item: dict[str, object]) -> None:
        spec: dict[str, str] = item["spec"]
        place = cheating.place_of(self._stage, server, spec["channelId"])
        deposits = opening_state(epoch=int(spec["session"]), deposit_a=int(spec["deposit"]), deposit_b=int(spec["peerDeposit"]))
        key = signing_key(server.key_file.read_text())
        directory = WORK / "cheaters" / server.name
        async with cheating.by_hand(chain.url(self._web3), self._stage, key, directory) as link:
            await link.writer.challenge(place.a, place.b, place.terms, deposits, b"")

    def _abandoned(self) -> None:
        """A server is away from the start and the requester soon after: nobody joins, and others close the task."""
        away = max(SERVERS, key=lambda server: int(server.address, 16))  # the party b of every channel of its
        self._scale(away, 0)
        self._start(small.star("abandoned", deadlines=SHORT))
        self._until(lambda: len(self._items("taskassignments")) == 2, "the others take part")
        self._until(lambda: any(item.get("status", {}).get("phase") == "Opening" for item in self._items("statechannels")), "one is alone")
        self._scale(REQUESTER, 0)
        self._passing(400, lambda: all(_has(item, "KeyRevoked") for item in self._items("taskassignments")))
        self._passing(PERIOD, lambda: self._all_settled("statechannels"))
        self._scale(away, 1)
        self._scale(REQUESTER, 1)
        self._reached("abandoned", "Settled")
        self._all_go()

    # -- how

    def _believe(self) -> None:
        """A death after which no container was started again was none."""
        for party, died in self.deaths().items():
            (pod,) = self._stage.cluster.get("pods", "-n", party, "-l", "veilpod.dev/component=operator")["items"]
            (container,) = pod["status"]["containerStatuses"]
            if container["restartCount"] < len(died):
                raise progress.Failure(
                    f"{party}'s operator says that it died {len(died)} times, but began {container['restartCount']} times again"
                )

    def _command(self, module: str) -> None:
        container = {"name": "operator", "command": ["python3", "-m", module]}
        container |= {"env": [{"name": "CRASH_POINTS", "value": ",".join(sorted(self._wanted))}]}
        patch = json.dumps({"spec": {"template": {"spec": {"containers": [container]}}}})
        for party in OPERATORS:
            self._stage.cluster.kubectl("patch", f"deployment/{party.name}-operator", "-n", party.name, "-p", patch)
        for party in OPERATORS:
            self._stage.cluster.kubectl("rollout", "status", f"deployment/{party.name}-operator", "-n", party.name, "--timeout=240s")

    def _scale(self, party: Party, replicas: int) -> None:
        name = f"deployment/{party.name}-operator"
        self._stage.cluster.kubectl("scale", name, "-n", party.name, f"--replicas={replicas}")
        self._stage.cluster.kubectl("rollout", "status", name, "-n", party.name, "--timeout=240s")
        if not replicas:
            selector = "veilpod.dev/component=operator"
            self._stage.cluster.kubectl("wait", "--for=delete", "pod", "-l", selector, "-n", party.name, "--timeout=120s")

    def _start(self, *tasks: dict[str, object]) -> None:
        small.apply(self._stage, self._recipient, tasks)

    def _items(self, kind: str) -> list[dict[str, dict[str, object]]]:
        parties = [party for party, known in leftovers.KINDS if known == kind]
        return [item for party in parties for item in self._stage.cluster.get(kind, "-n", party.name)["items"]]

    def _reached(self, name: str, kind: str) -> None:
        self._until(lambda: playing.conditions(self._stage, name).get(kind, {}).get("status") == "True", f"{name}: {kind}")

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        playing.until(condition, what, timeout=PATIENCE)

    def _passing(self, seconds: int, condition: Callable[[], bool]) -> None:
        """Let time pass on the chain until something is so: patience that an operator had is lost with it."""
        for _ in range(16):
            playing.pass_time(self._stage, self._web3, seconds)
            if waiting.until(condition, timeout=20, every=1):
                return
        raise progress.Failure("sixteen jumps of the chain's clock were not enough")

    def _close(self) -> None:
        self._passing(PERIOD, lambda: self._all_settled("statechannels"))
        self._all_go()

    def _all_settled(self, kind: str) -> bool:
        return all(map(_settled, self._items(kind)))

    def _all_go(self) -> None:
        leftovers.delete_all(self._stage)
        self._until(lambda: leftovers.objects(self._stage) == [], "every object goes")

    def _died(self, party: Party) -> list[str]:
        """Ask the operator's volume; its operator may be dead just now."""
        command = ["exec", f"deployment/{party.name}-operator", "-n", party.name, "--", "sh", "-c", _LIST]
        for _ in range(60):
            try:
                return self._stage.cluster.kubectl(*command).splitlines()
            except progress.Failure:
                waiting.pause(1)
        return []


def _has(item: dict[str, dict[str, object]], kind: str) -> bool:
    conditions: list[dict[str, str]] = item.get("status", {}).get("conditions", [])
    return any((condition["type"], condition["status"]) == (kind, "True") for condition in conditions)


def _settled(item: dict[str, dict[str, object]]) -> bool:
    return _has(item, "Settled")


def _disputed(item: dict[str, dict[str, object]]) -> bool:
    return item.get("status", {}).get("phase") == "Disputed"


def _paid(item: dict[str, dict[str, object]]) -> bool:
    return int(str(item.get("status", {}).get("updates") or 0)) >= 1
