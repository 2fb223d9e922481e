"""A status as people read it."""

import datetime

from veilpod.client.status import age, done, lines

NOW = datetime.datetime(2026, 9, 1, 12, 0, 0, tzinfo=datetime.UTC)


def condition(kind: str, status: str, reason: str, *, message: str = "", since: str = "2026-09-01T11:58:00Z") -> dict[str, str]:
    return {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": since}


def task(*conditions: dict[str, str], **status: object) -> dict[str, object]:
    return {"metadata": {"name": "tumour"}, "status": {"phase": "Preparing", "conditions": list(conditions), **status}}


def test_conditions_stand_in_the_order_of_the_tasks_life() -> None:
    shown = lines(task(condition("Scheduled", "False", "NoCandidates"), condition("Requested", "True", "Requested")), now=NOW)
    words = [line.split()[1] for line in shown if line.startswith("  ")]
    assert words == ["Requested", "Scheduled"]
    assert "2m" in shown[2]
    assert shown[-1].startswith("waiting for Scheduled; what to do: not enough computing servers")


def test_types_of_a_newer_version_are_shown_and_not_hidden() -> None:
    assert any("Teleported" in line for line in lines(task(condition("Teleported", "True", "Yes")), now=NOW))


def test_a_failure_says_its_stage_its_code_and_what_to_do() -> None:
    shown = lines(task(condition("Failed", "True", "InputTimeout"), failure={"stage": "DataDelivered", "code": "InputTimeout"}), now=NOW)
    assert "failed at DataDelivered: InputTimeout" in shown
    assert shown[-1].startswith("what to do: an input did not arrive")
    assert any(line.startswith("  ✗") for line in shown)


def test_servers_are_named_by_their_nodes_on_chain() -> None:
    assert "servers: 0 hub (node 4)" in lines(task(servers=[{"index": 0, "role": "hub", "node": 4}]), now=NOW)


def test_a_task_that_nobody_looked_at_asks_for_its_operator() -> None:
    assert "operator" in lines({"metadata": {"name": "x"}}, now=NOW)[-1]


def test_only_the_end_is_the_end() -> None:
    assert done(task(phase="Settled"))
    assert done(task(phase="Failed"))
    assert not done(task(phase="Failing"))
    assert not done({"metadata": {"name": "x"}})


def test_ages_have_one_unit() -> None:
    assert age("2026-09-01T11:59:30Z", NOW) == "30s"
    assert age("2026-09-01T09:00:00Z", NOW) == "3h"
    assert age("2026-08-20T12:00:00Z", NOW) == "12d"
    assert age("2026-09-01T12:00:05Z", NOW) == "0s"
