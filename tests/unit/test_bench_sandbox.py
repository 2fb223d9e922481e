"""What the bench of sandboxes makes of the audit log and of watch events."""

import json
import pathlib
from typing import Any

import pytest
from bench import audit, usage
from bench.moments import APPLIED, DELETED, Moments
from bench.ranks import quantile

from localcluster import progress


def event(verb: str, resource: str, user: str, **more: Any) -> str:
    about = {"resource": resource, "namespace": "n", "name": "x", **more}
    return json.dumps({"verb": verb, "objectRef": about, "user": {"username": user}, "requestReceivedTimestamp": "2026-01-01T00:00:00Z"})


OURS = "system:serviceaccount:server-a:server-a-operator"


def test_our_writes_are_those_of_the_named_releases_operators() -> None:
    lines = [
        event("create", "pods", OURS),
        event("patch", "taskassignments", OURS, subresource="status"),
        event("patch", "pods", "system:node:node", subresource="status"),
        event("patch", "onionrelays", "system:serviceaccount:relay-one:relay-one-operator", subresource="status"),
        event("get", "pods", OURS),
    ]
    ours, others = audit.by_hand(audit.parse(lines), ["server-a"])
    assert ours == {"create pods": 1, "patch taskassignments/status": 1}
    assert others == {"patch pods/status": 1, "patch onionrelays/status": 1}


def test_a_log_is_read_on_from_the_last_whole_line(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "audit.log"
    file.write_text(event("create", "pods", OURS) + "\n")
    log = audit.AuditLog(file)
    line = event("delete", "pods", OURS) + "\n"
    with file.open("a") as writing:
        writing.write(line + line[:20])
    assert [write.verb for write in log.news()] == ["delete"]
    with file.open("a") as writing:
        writing.write(line[20:])
    assert [write.verb for write in log.news()] == ["delete"]


def seen(kind: str, name: str, *true: str, **metadata: Any) -> dict[str, Any]:
    conditions = [{"type": each, "status": "True"} for each in true] + [{"type": "Settled", "status": "False"}]
    return {
        "type": kind,
        "object": {"metadata": {"name": name, **metadata}, "status": {"conditions": conditions, "taskId": "0x" + "ab" * 32}},
    }


def test_a_span_is_between_first_moments() -> None:
    moments = Moments()
    moments.see(seen("ADDED", "task"), 10.0)
    moments.see(seen("MODIFIED", "task", "KeyPublished"), 12.5)
    moments.see(seen("MODIFIED", "task", "KeyPublished", deletionTimestamp="now"), 20.0)
    moments.see(seen("ADDED", moments.assignment("task"), "SandboxDestroyed"), 23.0)
    assert moments.span("task", APPLIED, "KeyPublished") == 2.5
    assert moments.span("task", DELETED, "SandboxDestroyed", of="ta-abababababababab-0") == 3.0
    assert not moments.has("task", "Settled")
    with pytest.raises(progress.Failure, match="task is not Settled"):
        moments.wait("task", "Settled", timeout=0.01)


@pytest.mark.parametrize(("share", "value"), [(0.5, 2.0), (0.99, 4.0), (0.0, 1.0)])
def test_a_quantile_is_a_value_that_was_seen(share: float, value: float) -> None:
    assert quantile([4.0, 1.0, 3.0, 2.0], share) == value


@pytest.mark.parametrize("version", [1, 2])
def test_memory_that_the_kernel_could_drop_at_once_is_not_held(tmp_path: pathlib.Path, version: int) -> None:
    used, inactive = ("memory.usage_in_bytes", "total_inactive_file") if version == 1 else ("memory.current", "inactive_file")
    (tmp_path / used).write_text("5000\n")
    (tmp_path / "memory.stat").write_text(f"anon 1\n{inactive} 2000\n")
    assert usage.memory_bytes(tmp_path) == 3000
