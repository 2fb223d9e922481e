"""The example at T1: gVisor between the program and its host, seen from inside and stated as found."""

import json
import pathlib

import pytest
from demo import chain
from demo.parties import HOSPITALS, REQUESTER, RESULT_KEY
from demo.stage import Stage

from tests.support import playing

pytestmark = pytest.mark.e2e


def lets_in(stage: Stage, confinement: str) -> None:
    """What the hospitals demand of the kernels that their data goes to."""
    patch = json.dumps({"spec": {"policy": {"programConfinement": confinement}}})
    for hospital in HOSPITALS:
        stage.cluster.kubectl("patch", "dataset", hospital.dataset, "-n", hospital.name, "--type=merge", "-p", patch)


def test_the_example_runs_behind_gvisor_and_its_statements_say_so(stage: Stage, tmp_path: pathlib.Path) -> None:
    before = stage.cluster.get("dataset", HOSPITALS[0].dataset, "-n", HOSPITALS[0].name)["spec"]["policy"]["programConfinement"]
    lets_in(stage, "WhenSupported")  # gVisor keeps no program to the task's ports
    try:
        playing.start(stage, "sandboxed", sandboxClassName="sandboxed")
        playing.reached(stage, "sandboxed", "Settled")
    finally:
        lets_in(stage, before)
    with chain.reachable(stage.cluster) as web3:
        result = ("result", "sandboxed", "-n", REQUESTER.name, "--key", str(RESULT_KEY), "-o", str(tmp_path), "--output", "json")
        found = json.loads(stage.cluster.run("veilpod", *result, "--rpc", chain.url(web3)))
    assert [server["tier"] for server in found["servers"]] == ["T2"] * 3, "sandboxed, and host access denied"
    unconfined = "does not state that the program is kept to the task's own ports"
    for server in found["servers"]:
        assert any(unconfined in step["text"] for step in server["steps"])
    playing.forget(stage, "sandboxed")
