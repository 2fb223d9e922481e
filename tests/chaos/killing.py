"""SIGKILL for operators and SIGSTOP for agents: from outside, by the processes that this machine runs for a pod."""

import os
import pathlib
import signal
from collections.abc import Iterator

from bench.usage import cgroup
from demo.parties import REQUESTER, SERVERS, Party
from demo.stage import Stage

from localcluster import layout, processes

OPERATORS = (REQUESTER, *SERVERS)


class Operators:
    """The processes of the requester's and the servers' operators."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._pods: dict[Party, pathlib.Path] = {}

    def kill(self, party: Party) -> bool:
        """Kill a party's operator. False when there is none just now: it has not come back from the last time."""
        if party not in self._pods or not self._pods[party].exists():
            items = self._stage.cluster.get("pods", "-n", party.name, "-l", "veilpod.dev/component=operator")["items"]
            if not items:
                return False
            try:
                self._pods[party] = _directory(self._stage, items[0]["metadata"]["uid"])
            except FileNotFoundError:
                return False
        victims = list(_running(self._pods[party], b"veilpod"))
        return bool(victims) and all(victim.kill(10) for victim in victims)


def stop_agents(stage: Stage, pods: list[str]) -> int:
    """Have the agents of these pods (UIDs) never say anything again. Returns how many there were."""
    agents = [process for uid in pods for process in _running(_directory(stage, uid), b"veilpod.agent")]
    for agent in agents:
        os.kill(agent.pid, signal.SIGSTOP)
    return len(agents)


def _directory(stage: Stage, uid: str) -> pathlib.Path:
    return cgroup(layout.Layout(stage.cluster.name).cgroup, f"pod{uid}")


def _running(pod: pathlib.Path, what: bytes) -> Iterator[processes.Process]:
    for file in pod.rglob("cgroup.procs"):
        for pid in map(int, file.read_text().split()):
            try:
                if what in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes():
                    yield processes.Process.of(pid)
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has just ended
