"""A real Prometheus in a namespace that the parties let in: it finds every process, and the chart's alerts understand what it finds."""

import json
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from demo.stage import Stage

from localcluster import images, layout, toolchain, waiting

pytestmark = pytest.mark.e2e

HERE = pathlib.Path(__file__).parent / "prometheus"
ALERTS = layout.REPOSITORY / "helm" / "veilpod" / "files" / "alerts.yaml"
NAME = "monitoring"
META = {"name": NAME, "namespace": NAME}


class Prometheus:
    """The server's HTTP API, through the API server's proxy."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def api(self, path: str) -> Any:
        answer = self._stage.cluster.kubectl("get", "--raw", f"/api/v1/namespaces/{NAME}/pods/{NAME}:9090/proxy/api/v1/{path}")
        return json.loads(answer)["data"]

    def query(self, metric: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.api(f"query?query={metric}")["result"]
        return found


@pytest.fixture(scope="module")
def prometheus(stage: Stage, base_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    context = tmp_path_factory.mktemp("prometheus")
    shutil.copy2(toolchain.unpacked("prometheus") / "usr" / "bin" / "prometheus", context)
    images.build("prometheus", HERE / "Dockerfile", context, {"BASE": images.BASE})
    image = images.load(stage.cluster.name, images.save(images.name_of("prometheus"), context / "image.tar"))[images.name_of("prometheus")]
    stage.cluster.apply(*manifests(image, targets(stage)))
    stage.cluster.kubectl("wait", "--for=condition=Ready", f"pod/{NAME}", "-n", NAME, "--timeout=90s")
    yield Prometheus(stage)
    stage.cluster.kubectl("delete", f"namespace/{NAME}", "--wait=false")


def manifests(image: str, discovered: list[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    secure = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": True}
    container = {
        "name": "prometheus",
        "image": image,
        "args": ["--config.file=/etc/prometheus/prometheus.yaml", "--storage.tsdb.path=/data"],
        "readinessProbe": {"httpGet": {"path": "/-/ready", "port": 9090}, "periodSeconds": 1},
        "securityContext": secure,
        "volumeMounts": [{"name": "config", "mountPath": "/etc/prometheus"}, {"name": "data", "mountPath": "/data"}],
    }
    configuration = {file.name: file.read_text() for file in (HERE / "prometheus.yaml", ALERTS)}
    configuration["targets.json"] = json.dumps(discovered)
    return (
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAME}},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": META, "data": configuration},
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": META,
            "spec": {
                "automountServiceAccountToken": False,
                "securityContext": {"runAsUser": 65532, "runAsNonRoot": True, "fsGroup": 65532},
                "containers": [container],
                "volumes": [{"name": "config", "configMap": {"name": NAME}}, {"name": "data", "emptyDir": {}}],
            },
        },
    )


def watched(stage: Stage) -> list[dict[str, Any]]:
    """Every pod of a party that should be watched."""
    pods = stage.cluster.get("pods", "-A", "-l", "app.kubernetes.io/name=veilpod,veilpod.dev/component in (operator,store,relay)")["items"]
    return [pod for pod in pods if pod["status"]["phase"] == "Running" and "deletionTimestamp" not in pod["metadata"]]


def targets(stage: Stage) -> list[dict[str, Any]]:
    """What the chart's PodMonitor has Prometheus scrape: the port called http or metrics, labelled by namespace and component."""
    found = []
    for pod in watched(stage):
        meta = pod["metadata"]
        ports = [port for container in pod["spec"]["containers"] for port in container.get("ports", ())]
        (port,) = [port["containerPort"] for port in ports if port.get("name") in ("http", "metrics")]
        labels = {"namespace": meta["namespace"], "pod": meta["name"], "veilpod_dev_component": meta["labels"]["veilpod.dev/component"]}
        found.append({"targets": [f"{pod['status']['podIP']}:{port}"], "labels": labels})
    return found


def processes(stage: Stage) -> set[str]:
    return {pod["metadata"]["name"] for pod in watched(stage)}


def test_every_process_is_found_and_answers(stage: Stage, prometheus: Prometheus) -> None:
    expected = processes(stage)
    assert len(expected) >= 17  # ten operators, two stores, a mailbox, four relays

    def up() -> set[str]:
        return {sample["metric"]["pod"] for sample in prometheus.query("up") if sample["value"][1] == "1"}

    assert waiting.until(lambda: up() >= expected, timeout=60, every=1), expected - up()


def test_the_alerts_are_evaluated_and_none_that_is_critical_fires(stage: Stage, prometheus: Prometheus) -> None:
    def rules() -> list[dict[str, Any]]:
        return [rule for group in prometheus.api("rules")["groups"] for rule in group["rules"]]

    assert waiting.until(lambda: bool(rules()) and all(rule["health"] != "unknown" for rule in rules()), timeout=60, every=1)
    assert {rule["health"] for rule in rules()} == {"ok"}
    assert [rule["name"] for rule in rules() if rule["state"] == "firing" and rule["labels"]["severity"] == "critical"] == []


def test_every_operator_says_how_old_its_view_of_the_chain_is(stage: Stage, prometheus: Prometheus) -> None:
    operators = {name for name in processes(stage) if "-operator-" in name}

    def seen() -> dict[str, float]:
        return {sample["metric"]["pod"]: float(sample["value"][1]) for sample in prometheus.query("veilpod_chain_head_age_seconds")}

    assert waiting.until(lambda: seen().keys() >= operators, timeout=60, every=1), operators - seen().keys()
    assert all(age < 60 for age in seen().values())
