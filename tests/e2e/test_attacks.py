"""A hostile program in a real sandbox behind the real fence: what it tries, what becomes of it, and what it leaves.

Every attempt is made a second time in a pod where nothing is guarded, for an attempt that can never succeed proves nothing.
SECURITY.md has the table.
"""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import pytest

from tests.e2e import attack_world
from tests.e2e.attack_world import LATE, SANDBOXES, SECRET, Sandbox, World, bury, drive, opened, sandbox
from tests.e2e.conftest import Cluster

sys.path.insert(0, str(attack_world.ATTACKS))
from hostile import __main__ as hostile  # registers every attempt
from hostile.registry import ATTEMPTS

pytestmark = pytest.mark.e2e
assert hostile
MEMORY = 160 << 20
CONTAINERS = ("agent", "program", "seal")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attack:
    """All that happened, gathered once."""

    inside: dict[str, dict[str, str]]
    careless: dict[str, dict[str, str]]
    log: str
    left_out: tuple[str, ...]
    seen: dict[str, dict[str, Any]]
    pods: dict[str, dict[str, Any]]
    logs: dict[str, str]
    disk: str
    late: list[str]
    found_by_the_next: list[str]
    outside: dict[str, str]


@pytest.fixture(scope="module")
def attack(cluster_release: Cluster, ours: dict[str, str], base_image: str) -> Iterator[Attack]:
    world = attack_world.build(cluster_release, ours, base_image)
    try:
        yield play(world)
    finally:
        attack_world.remove(world)


def play(world: World) -> Attack:
    first = [
        sandbox(world, 0, "attempts", world.around | {"secret": SECRET, "late": LATE}),
        sandbox(world, 1, "take", {}, memory=MEMORY),
        sandbox(world, 2, "eat", {"word": SECRET}),
    ]
    with futures.ThreadPoolExecutor() as pool:
        elsewhere = pool.submit(attack_world.careless, world)
        outside = attack_world.from_outside(world, first[0])
        careless = elsewhere.result()
    seen = {one.name: saw for one, saw in zip(first, drive(world, *first), strict=True)}
    late = processes(LATE)
    inside, result = opened(first[0], seen["hostile-attempts"])
    logs = {one.name: logs_of(world, one) for one in first}
    with futures.ThreadPoolExecutor() as pool:
        pods = {pod["metadata"]["name"]: pod for pod in pool.map(lambda one: bury(world, one), first)}
    heir: Sandbox = sandbox(world, 3, "find", {"word": SECRET})
    [last] = drive(world, heir)
    bury(world, heir)
    return Attack(
        inside=inside,
        careless=careless,
        log=result.log.stdout.decode(),
        left_out=result.left_out,
        seen=seen,
        pods=pods,
        logs=logs,
        disk=on_disk(world, SECRET),
        late=late,
        found_by_the_next=opened(heir, last)[0],
        outside=outside,
    )


def logs_of(world: World, one: Sandbox) -> str:
    """All that the API gives of a pod's containers; one that never started has none."""
    with futures.ThreadPoolExecutor() as pool:
        read = pool.map(lambda name: world.cluster.run("logs", "-n", SANDBOXES, one.name, "-c", name), CONTAINERS)
    return "".join(said.stdout for said in read)


def processes(word: str) -> list[str]:
    """Processes of this machine with a word in their command lines; the node's are among them."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            found += [entry.name] if word.encode() in words else []
    return found


def on_disk(world: World, word: str) -> str:
    command = ["grep", "--recursive", "--binary-files=text", "--files-with-matches", "--fixed-strings", "--devices=skip", word]
    places = [world.cluster.layout.directory / "node" / name for name in ("log", "lib/kubelet")]
    return subprocess.run([*command, *map(str, places)], capture_output=True, text=True, check=False).stdout


STOPPED = sorted(name for name, one in ATTEMPTS.items() if not one.stopped_by)
SHOWN = sorted(name for name, one in ATTEMPTS.items() if one.shown and not one.stopped_by)
NOT_STOPPED = sorted(name for name, one in ATTEMPTS.items() if one.stopped_by)


@pytest.mark.parametrize("attempt", STOPPED)
def test_it_is_stopped(attack: Attack, attempt: str) -> None:
    assert attack.inside[attempt]["outcome"] == "stopped", attack.inside[attempt]


@pytest.mark.parametrize("attempt", SHOWN)
def test_it_works_where_nothing_is_guarded(attack: Attack, attempt: str) -> None:
    assert attack.careless[attempt]["outcome"] == "reached", attack.careless[attempt]


@pytest.mark.parametrize("attempt", NOT_STOPPED)
def test_it_is_not_stopped_as_the_table_says(attack: Attack, attempt: str) -> None:
    assert attack.inside[attempt]["outcome"] == "reached", attack.inside[attempt]


def test_the_recipient_reads_what_the_program_said_and_nobody_else_does(attack: Attack) -> None:
    assert SECRET in attack.log
    for name, pod in attack.pods.items():
        assert SECRET not in json.dumps(pod["status"]), name
        assert SECRET not in attack.logs[name]
    assert attack.disk == ""


def test_who_eats_memory_is_ended_and_nobody_else(attack: Attack) -> None:
    seen = attack.seen["hostile-eat"]
    assert seen["events"]["exited"] == {"how": "Signaled", "code": 9}
    assert seen["events"]["failed"] == {"code": "ProgramFailed", "fatal": True}
    assert seen["zeroised"]
    assert restarts(attack.pods["hostile-eat"]) == 0


def test_who_takes_all_that_it_can_gets_its_share_and_a_coded_failure(attack: Attack) -> None:
    seen = attack.seen["hostile-take"]
    assert seen["events"]["exited"] == {"how": "Exited", "code": 0}  # another code says which limit did not come
    assert seen["events"]["failed"] == {"code": "ResultTooLarge", "fatal": True}
    assert seen["zeroised"]
    assert restarts(attack.pods["hostile-take"]) == 0


@pytest.mark.parametrize("name", ["hostile-attempts", "hostile-take", "hostile-eat"])
def test_how_a_program_ended_is_not_in_the_api(attack: Attack, name: str) -> None:
    [program] = [item for item in attack.pods[name]["status"]["initContainerStatuses"] if item["name"] == "program"]
    assert program["state"]["terminated"]["exitCode"] == 0
    assert "message" not in program["state"]["terminated"]


def test_nothing_outlives_its_container(attack: Attack) -> None:
    assert attack.late == []
    assert processes(LATE) == []


def test_the_next_pod_of_the_node_finds_nothing(attack: Attack) -> None:
    assert attack.found_by_the_next == []


OUTSIDE = {
    "a pod of another tenant dials the control port": "stopped",
    "a pod of another tenant dials the startup probe": "stopped",
    "a pod of another tenant dials a port of the program": "stopped",
    "the operator's own pod dials the control port": "reached",
    "the operator's own pod dials a port of the program": "stopped",
    "who may pass the policy, without the operator's key, speaks to the agent": "stopped",
    "another release's operator reads the sandboxes": "stopped",
    "another release's operator changes a sandbox": "stopped",
    "another release's operator deletes a sandbox": "stopped",
    "another release's operator makes a sandbox": "stopped",
    "a user of the release's namespace reads the sandboxes": "stopped",
    "a user of the release's namespace opens the fence": "stopped",
    "a user of the release's namespace changes the sandboxes' namespace": "stopped",
    "a user of the release's namespace makes a token for a sandbox": "stopped",
    "a user of the release's namespace reads its own namespace": "reached",
}


@pytest.mark.parametrize("attempt", sorted(OUTSIDE))
def test_from_outside_it_ends_as_it_should(attack: Attack, attempt: str) -> None:
    assert attack.outside[attempt] == OUTSIDE[attempt]


def restarts(pod: dict[str, Any]) -> int:
    return sum(item["restartCount"] for item in pod["status"]["initContainerStatuses"])
