"""What `make chaos` counts: sandboxes that ran when their task was settled."""

import json

import pytest
from tests.chaos.leftovers import ended_at, outlived
from tests.support.reckoning import Reckoning

TASK = "0x" + "ab" * 32
SETTLED = 1_790_000_000  # 2026-09-21T14:13:20Z


def pod(*states, name="sb-1"):
    statuses = [{"name": f"c{number}", "state": state} for number, state in enumerate(states)]
    metadata = {"name": name, "uid": f"uid-{name}", "labels": {"veilpod.dev/assignment": f"ta-{'ab' * 8}-0"}}
    return {"metadata": metadata, "status": {"initContainerStatuses": statuses[:1], "containerStatuses": statuses[1:]}}


def dead(second):
    return {"terminated": {"finishedAt": f"2026-09-21T14:13:{second:02d}Z"}}


def look(tmp_path, *pods, ended=SETTLED):
    file = tmp_path / "pods.jsonl"
    file.write_text("".join(json.dumps({"time": "", "event": {"type": "MODIFIED", "object": each}}) + "\n" for each in pods))
    said = Reckoning(tasks=(TASK,), ended={TASK: ended} if ended else {}, keys=(), channels=(), twice=())
    return outlived(file, said)


@pytest.mark.parametrize(
    ("states", "alive", "unwitnessed"),
    [
        pytest.param((dead(10), dead(19)), (), (), id="gone-before"),
        pytest.param((dead(10), dead(21)), ("sb-1",), (), id="gone-a-second-behind"),
        pytest.param((dead(10), {"running": {}}), (), ("sb-1",), id="still-running-when-last-seen"),
        pytest.param(({"waiting": {}}, {"waiting": {}}), (), (), id="never-began"),
    ],
)
def test_a_sandbox_is_alive_behind_its_settlement_when_a_container_ended_later(tmp_path, states, alive, unwitnessed):
    assert look(tmp_path, pod(*states)) == (alive, unwitnessed)


def test_the_newest_that_was_seen_of_a_sandbox_counts(tmp_path):
    assert look(tmp_path, pod({"running": {}}, {"running": {}}), pod(dead(10), dead(11))) == ((), ())


def test_a_sandbox_of_a_task_that_is_not_settled_outlives_nothing(tmp_path):
    assert look(tmp_path, pod(dead(10), dead(59)), ended=None) == ((), ())


def test_the_last_container_of_a_pod_counts():
    assert ended_at(pod(dead(19), dead(20), dead(1))) == SETTLED
