"""What runs on the benched cluster, and what is asked of it: transfers between pods, deliveries into fresh sandboxes."""

import base64
import contextlib
import dataclasses
import json
import pathlib
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from demo import cluster as stage

from bench import inside, pods, source
from bench.report import ROOT
from bench.usage import cgroup, cpu_seconds
from localcluster import layout, progress, waiting
from veilpod.core.canonical import from_hex, to_hex
from veilpod.core.ids import TaskId
from veilpod.core.task.spec import TaskSpec

SIZE = 256 << 20  # plaintext bytes
RELAYS = tuple(f"relay-{number}" for number in (1, 2, 3))
LOG = ROOT / "build" / "bench" / "cluster.log"


class Driver:
    """The pod that plays the operators, over `kubectl exec`."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._to, self._from = process.stdin, process.stdout

    def __call__(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Have a command done. Raises Failure with its words when it fails."""
        assert self._to is not None
        assert self._from is not None
        with contextlib.suppress(BrokenPipeError):  # the driver is gone, as the empty answer says
            self._to.write(json.dumps({"do": do, **arguments}) + "\n")
            self._to.flush()
        answer = json.loads(self._from.readline() or '{"error": "the driver is gone"}')
        if "ok" not in answer:
            raise progress.Failure(f"{do}: {answer['error']}", log=LOG)
        found: dict[str, Any] = answer["ok"]
        return found


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """A pod that runs: where it is reached, and the cgroup of its one container that matters here."""

    ip: str
    uid: str
    cgroup: pathlib.Path


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One delivery: seconds of the whole, of meeting and granting, of decrypting into place; CPU seconds of each part."""

    seconds: float
    meeting: float
    opening: float
    cpu: Mapping[str, float]


class World:
    """The cluster with everything on it that outlives a sandbox."""

    def __init__(self, where: stage.Cluster, references: Mapping[str, str], driver: Driver) -> None:
        self._where, self._references, self._driver = where, references, driver
        self._source, self._store = self._found(pods.WORLD, "source", "source"), self._found(pods.WORLD, "store", "store")
        self._relays = [self._found(pods.WORLD, name, "relay") for name in RELAYS]
        self._count = 0
        self._spec: TaskSpec

    def fill(self) -> None:
        """Make the relays known to each other, and fill the store."""
        exits = [f"{self._source.ip}:{inside.SOURCE_PORT}", f"{self._store.ip}:{inside.STORE_PORT}"]
        self._driver("relays", hosts=[relay.ip for relay in self._relays], exits=exits)
        sealed = self._driver("fill", host=self._store.ip, size=SIZE)
        self._spec = pods.spec(program=self._references["relay"], digest=from_hex(sealed["digest"], 32), size=sealed["size"])

    def transfer(self, way: str) -> float:
        """MB/s from the source's pod to the driver's: `plain` or over a `circuit`."""
        return SIZE / float(self._driver(way, host=self._source.ip, size=SIZE)["seconds"]) / 1e6

    def deliver(self, cpu: int | None) -> Delivery:
        """Make a sandbox, deliver to it, delete it."""
        self._count += 1
        name, task = f"sandbox-{self._count}", TaskId(bytes([self._count]) * 32)
        hosts = [relay.ip for relay in self._relays]
        self._where.apply(pods.sandbox(name, task=task, spec=self._spec, agent=self._references["agent"], relays=hosts, cpu=cpu))
        if not waiting.until(lambda: "running" in self._container(pods.SANDBOXES, name, "agent").get("state", {}), timeout=90, every=0.5):
            raise progress.Failure(f"the agent of {name} does not run: {self._where.get('pod', '-n', pods.SANDBOXES, name)['status']}")
        made = self._found(pods.SANDBOXES, name, "agent")
        self._driver("prepare", task=to_hex(task), ip=made.ip, uid=made.uid, spec=base64.b64encode(self._spec.encode()).decode())
        parts = {"store": [self._store], "relays": self._relays, "agent": [made]}
        before = _used(parts)
        told = self._driver("deliver")
        used = {part: after - before[part] for part, after in _used(parts).items()}
        self._driver("forget")
        self._where.kubectl("delete", "pod", "-n", pods.SANDBOXES, name, "--timeout=60s")
        return Delivery(seconds=told["seconds"], meeting=told["meeting"], opening=told["opening"], cpu=used)

    def _found(self, namespace: str, name: str, container: str) -> Pod:
        pod = self._where.get("pod", "-n", namespace, name)
        identity = self._container(namespace, name, container)["containerID"].rpartition("/")[2]
        above = layout.Layout(self._where.name).cgroup
        return Pod(ip=pod["status"]["podIP"], uid=pod["metadata"]["uid"], cgroup=cgroup(above, identity))

    def _container(self, namespace: str, pod: str, name: str) -> dict[str, Any]:
        """Its status; empty while there is none."""
        status = self._where.get("pod", "-n", namespace, pod)["status"]
        every = [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]
        return next((item for item in every if item["name"] == name), {})


def _used(parts: Mapping[str, Sequence[Pod]]) -> dict[str, float]:
    return {part: sum(cpu_seconds(pod.cgroup) for pod in members) for part, members in parts.items()}


def install(where: stage.Cluster, references: Mapping[str, str]) -> None:
    """Make everything but sandboxes, and wait until it runs."""
    code = references["relay"]
    everything = [
        *(pods.relay(number, code) for number in range(1, len(RELAYS) + 1)),
        pods.store(references["store"]),
        pods.carrier("source", code, ["python3", "-c", _text(source.__file__), str(inside.SOURCE_PORT)]),
        pods.carrier("driver", code, ["sleep", "86400"]),
    ]
    where.apply(*pods.namespaces(), *everything)
    names = [pod["metadata"]["name"] for pod in everything]
    where.kubectl("wait", "-n", pods.WORLD, "--for=condition=Ready", "--timeout=120s", *(f"pod/{name}" for name in names))


@contextlib.contextmanager
def driving(where: stage.Cluster) -> Iterator[Driver]:
    """Start the driver's process in its pod; what it complains of is in build/bench/cluster.log."""
    LOG.parent.mkdir(parents=True, exist_ok=True)
    command = ["kubectl", "exec", "-i", "-n", pods.WORLD, "driver", "--", "python3", "-c", _text(inside.__file__)]
    with LOG.open("w") as log:
        process = subprocess.Popen(
            command, env=where.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
        )
        try:
            yield Driver(process)
        finally:
            process.kill()
            process.communicate()


def _text(module: str) -> str:
    return pathlib.Path(module).read_text("utf-8")
