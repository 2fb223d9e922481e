"""The pods of the NetworkPolicy tests, and the question who reaches whom, asked from inside the pods with real packets."""

import concurrent.futures
import dataclasses
import itertools
import json
import pathlib
from typing import Any

from localcluster import waiting
from tests.e2e import conftest
from tests.e2e.netpol_cases import NAMESPACES, PODS, Case, Probe

SCRIPT = pathlib.Path(__file__).with_name("netpol_pod.py").read_text()
PORTS = ((80, "TCP", "web"), (81, "TCP", "admin"), (80, "UDP", "talk"))
SETTLES = 15.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Six pods in three namespaces. `addresses`: namespace/name -> IP."""

    cluster: conftest.Cluster
    addresses: dict[str, str]

    def ask(self, source: str, targets: list[tuple[str, int, str]]) -> list[bool]:
        """Try to connect from a pod to each (address, port, protocol); return what worked."""
        namespace, name = source.split("/")
        command = ("exec", "-n", namespace, name, "--", "python3", "-c", SCRIPT, json.dumps(targets))
        answers: list[bool] = json.loads(self.cluster.kubectl(*command))
        return answers

    def matrix(self) -> dict[Probe, bool]:
        """Try every connection between two different pods."""
        with concurrent.futures.ThreadPoolExecutor(len(self.addresses)) as pool:
            return dict(itertools.chain.from_iterable(pool.map(self._row, self.addresses)))

    def _row(self, source: str) -> list[tuple[Probe, bool]]:
        probes = [Probe(source, target, port, protocol) for target in self.addresses if target != source for port, protocol, _ in PORTS]
        answers = self.ask(source, [(self.addresses[probe.target], probe.port, probe.protocol) for probe in probes])
        return list(zip(probes, answers, strict=True))

    def expect(self, case: Case) -> None:
        """Wait until the network is what the case says. Raises AssertionError with the connections that are not."""
        wrong: list[str] = []

        def agrees() -> bool:
            wrong[:] = [
                f"{probe.source} -> {probe.target} {probe.protocol} {probe.port} is {'open' if answer else 'closed'}"
                for probe, answer in self.matrix().items()
                if answer != case.open(probe)
            ]
            return not wrong

        assert waiting.until(agrees, timeout=SETTLES), f"{case.title}: {wrong}"

    def expect_answer(self, source: str, target: tuple[str, int, str], answer: bool) -> None:
        """Wait until one connection works, or does not."""
        assert waiting.until(lambda: self.ask(source, [target]) == [answer], timeout=SETTLES), f"{source} -> {target} is not {answer}"

    def forget_policies(self) -> None:
        for namespace in NAMESPACES:
            self.cluster.kubectl("delete", "networkpolicies", "--all", "-n", namespace)


def create(cluster: conftest.Cluster, image: str) -> World:
    """Make the namespaces and pods and wait until they listen."""
    for namespace in NAMESPACES:
        metadata = {"name": namespace, "labels": {"ns": namespace}}
        cluster.apply(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata},
            *(pod_manifest(namespace, name, image) for name in PODS),
            _service(namespace, "a"),
        )
    addresses = {}
    for namespace in NAMESPACES:
        cluster.kubectl("wait", "-n", namespace, "--for=condition=Ready", "pod", "--all", "--timeout=60s")
        for pod in cluster.get("pods", "-n", namespace)["items"]:
            addresses[f"{namespace}/{pod['metadata']['name']}"] = pod["status"]["podIP"]
    assert len(addresses) == len(NAMESPACES) * len(PODS)
    return World(cluster=cluster, addresses=addresses)


def pod_manifest(namespace: str, name: str, image: str) -> dict[str, Any]:
    container = {
        "name": "probe",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-c", SCRIPT, "serve"],
        "ports": [{"containerPort": port, "protocol": protocol, "name": label} for port, protocol, label in PORTS],
        "readinessProbe": {"tcpSocket": {"port": 81}, "periodSeconds": 1},
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"pod": name}},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [container],
            # A name that may not be resolved is an answer to wait for: not the usual twenty seconds.
            "dnsConfig": {"options": [{"name": "timeout", "value": "1"}, {"name": "attempts", "value": "1"}]},
        },
    }


def _service(namespace: str, name: str) -> dict[str, Any]:
    ports = [{"port": 8000, "targetPort": "web"}]
    spec = {"selector": {"pod": name}, "ports": ports}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace}, "spec": spec}
