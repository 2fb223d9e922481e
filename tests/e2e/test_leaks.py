"""A secret goes through a whole task, and is then looked for everywhere that it must not be.

As a control it is found in the one place where it may be: the sandbox's memory volume.
"""

import json
import pathlib
import secrets
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from demo import parties, play
from demo.stage import Stage

from localcluster import layout, toolchain
from tests.support import playing

pytestmark = pytest.mark.e2e

CANARY = f"canary-{secrets.token_hex(24)}"
DATASET = "canary"
# Prints the secret, leaves it as the result, and stays long enough to be looked at.
PROGRAM = (
    "import pathlib, time; text = pathlib.Path('/veilpod/in/canary.txt').read_text(); print(text, flush=True);"
    " pathlib.Path('/veilpod/out/canary.txt').write_text(text); time.sleep(25)"
)


class Traces:
    """Everything that the task left behind, gathered while it ran and after it ended."""

    def __init__(self, stage: Stage, folder: pathlib.Path) -> None:
        self.stage, self.capture = stage, folder / "capture.pcap"
        self.in_memory: str = ""
        self.logs: list[str] = []

    def node(self, *command: str) -> str:
        """Run a command on the node, in its namespaces."""
        program = [sys.executable, "-m", "localcluster", "exec", "--name", self.stage.cluster.name, "--", *command]
        return subprocess.run(program, capture_output=True, text=True, check=False, cwd=layout.REPOSITORY).stdout

    def look_inside(self) -> None:
        """Search the running sandbox's memory volumes, as root of the node can."""
        uid = playing.sandbox_pods(self.stage)[0]["metadata"]["uid"]
        self.in_memory = self.node(
            "grep", "--recursive", "--files-with-matches", "--fixed-strings", CANARY, f"/var/lib/kubelet/pods/{uid}/volumes"
        )

    def keep_logs(self) -> None:
        """Read the log of every container there is."""
        for pod in self.stage.cluster.get("pods", "--all-namespaces")["items"]:
            where = ("-n", pod["metadata"]["namespace"], pod["metadata"]["name"], "--all-containers", "--ignore-errors")
            self.logs.append(self.stage.cluster.kubectl("logs", *where))


@pytest.fixture(scope="module")
def traces(stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traces]:
    toolchain.ensure_packages({"tcpdump": "tcpdump"})
    folder = tmp_path_factory.mktemp("leaks")
    share_secret(stage, folder)
    found = Traces(stage, folder)
    capture = [sys.executable, "-m", "localcluster", "exec", "--name", stage.cluster.name, "--"]
    capture += ["tcpdump", "-i", "any", "-U", "-w", str(found.capture), "-Z", "root"]
    with subprocess.Popen(capture, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=layout.REPOSITORY) as tcpdump:
        try:
            playing.until(found.capture.exists, "the capture has begun", timeout=20)
            playing.start(stage, "leaky", **single_task())
            playing.reached(stage, "leaky", "InputsVerified")
            playing.until(lambda: found.look_inside() or bool(found.in_memory), "the secret is in the sandbox's memory volume", timeout=40)
            found.keep_logs()
            playing.reached(stage, "leaky", "Settled")
            found.keep_logs()
        finally:
            found.node("pkill", "-x", "tcpdump")
            tcpdump.wait(timeout=20)
    yield found
    playing.forget(stage, "leaky")


def share_secret(stage: Stage, folder: pathlib.Path) -> None:
    """Seal the secret and put it into the first hospital's store."""
    hospital, plain, sealed = parties.HOSPITALS[0], folder / "canary.txt", folder / "canary.sealed"
    plain.write_text(CANARY * 100)
    play.share(stage.cluster, hospital, plain, sealed, DATASET)
    plain.unlink()
    stage.cluster.kubectl("wait", "--for=condition=Registered", f"dataset/{DATASET}", "-n", hospital.name, "--timeout=120s")


def single_task() -> dict[str, Any]:
    """One server, one input, no peers."""
    return {
        "program": {"image": "", "command": ["python", "-c", PROGRAM], "resources": {"cpu": "100m", "memory": "64Mi"}},
        "roles": [{"name": "solo", "replicas": 1}],
        "topology": {"type": "None"},
        "inputs": [{"dataset": DATASET, "to": {"role": "solo", "index": 0}, "path": "canary.txt"}],
        "quorum": None,
        "result": {"from": "solo", "maxSize": "1Mi"},
    }


def test_the_search_can_find_it_where_it_may_be(traces: Traces) -> None:
    assert "canary.txt" in traces.in_memory


def test_it_is_not_in_etcd(traces: Traces) -> None:
    dump = subprocess.run(
        [sys.executable, "-m", "localcluster", "etcd-dump", "--name", traces.stage.cluster.name],
        capture_output=True,
        check=True,
        cwd=layout.REPOSITORY,
    ).stdout
    assert b"leaky" in dump  # the dump is not empty: the task's name is there
    assert CANARY.encode() not in dump


def test_it_is_not_in_any_log_or_event(traces: Traces) -> None:
    assert traces.logs
    assert CANARY not in "".join(traces.logs)
    assert CANARY not in json.dumps(traces.stage.cluster.get("events", "--all-namespaces"))


def test_it_is_not_on_the_node_s_disk(traces: Traces) -> None:
    """Seen from the host, where the pods' memory volumes are not mounted: what is left is disk."""
    assert matches(layout.Layout(traces.stage.cluster.name).node, CANARY) == ""


def test_it_is_not_in_a_capture_of_everything_that_crossed_the_network(traces: Traces) -> None:
    data = traces.capture.read_bytes()
    assert len(data) > 1_000_000  # the task's traffic is in it
    assert CANARY.encode() not in data


def test_the_parties_keys_are_nowhere_but_in_their_secrets(traces: Traces) -> None:
    node = layout.Layout(traces.stage.cluster.name).node
    for party in parties.PARTIES:
        key = party.key_file.read_text().strip().removeprefix("0x")
        assert key not in "".join(traces.logs)
        assert key.encode() not in traces.capture.read_bytes()
        # etcd holds the Secret that the party itself made, and nothing else on the disk does.
        assert [path for path in matches(node, key).split() if "/lib/etcd/" not in path] == []


def matches(folder: pathlib.Path, text: str) -> str:
    """Files below a folder that hold the text."""
    command = ["grep", "--recursive", "--binary-files=text", "--files-with-matches", "--fixed-strings", "--devices=skip", text, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout
