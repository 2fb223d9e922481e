"""A cluster of their own for the end-to-end tests: fresh at the start of the session, gone without a trace at its end.

With pytest-xdist each worker has its own, and its own strangers on it.
"""

import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from localcluster import images, layout, lifecycle

# The demo's stage is set on the session's own cluster, in a folder of its own. A worker's names the process that began it all.
NAME = os.environ["VEILPOD_STAGE"] = (
    f"test-{os.getppid()}-{os.environ['PYTEST_XDIST_WORKER']}" if "PYTEST_XDIST_WORKER" in os.environ else f"test-{os.getpid()}"
)

from demo import cluster as stage_cluster
from demo import parties
from demo import stage as setting


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A running cluster and how to speak to it."""

    name: str
    kubeconfig: pathlib.Path

    @property
    def environment(self) -> dict[str, str]:
        """What kubectl and helm need to find it."""
        path = os.pathsep.join([str(layout.BUILD / "bin"), os.environ["PATH"]])
        return os.environ | {"KUBECONFIG": str(self.kubeconfig), "PATH": path}

    @property
    def layout(self) -> layout.Layout:
        return layout.Layout(self.name)

    def run(self, *arguments: str, stdin: str | None = None, timeout: float = 120) -> "subprocess.CompletedProcess[str]":
        """Run kubectl; the caller looks at the exit status."""
        return subprocess.run(
            ["kubectl", *arguments], env=self.environment, input=stdin, capture_output=True, text=True, timeout=timeout, check=False
        )

    def kubectl(self, *arguments: str, stdin: str | None = None, timeout: float = 120) -> str:
        """Run kubectl and return what it prints; fail with its words."""
        result = self.run(*arguments, stdin=stdin, timeout=timeout)
        assert result.returncode == 0, f"kubectl {' '.join(arguments)}: {result.stderr}"
        return result.stdout

    def apply(self, *objects: dict[str, Any]) -> None:
        """Apply manifests."""
        self.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)}))

    def get(self, *arguments: str) -> dict[str, Any]:
        """Run kubectl get and return the parsed answer."""
        parsed: dict[str, Any] = json.loads(self.kubectl("get", *arguments, "-o", "json"))
        return parsed


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """First what plays on the stage: it waits, while what is tested beside it computes. The quick tests fill the gaps at the end."""
    on_stage = {item.path for item in items if "stage" in getattr(item, "fixturenames", ())}
    items.sort(key=lambda item: item.path not in on_stage)


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    try:
        yield Cluster(name=NAME, kubeconfig=lifecycle.up(NAME))
    finally:
        lifecycle.down(NAME, keep_logs=bool(request.session.testsfailed))


@pytest.fixture(scope="session")
def base_image(cluster: Cluster) -> str:
    """Return name@digest of an image with Python in it, loaded into the cluster."""
    base = images.ensure_base()
    archive = images.save(base, layout.cache_directory() / "images" / "base-test.tar")
    return images.load(cluster.name, archive)[base]


@pytest.fixture(scope="session")
def ours(cluster: Cluster) -> dict[str, str]:
    """Images of ours by digest, built as a release is."""
    base = images.ensure_base()
    loaded = {}
    for target in ("agent", "operator"):
        images.build(target, layout.REPOSITORY / "Dockerfile", layout.REPOSITORY, {"BASE": base})
        archive = images.save(images.name_of(target), layout.cache_directory() / "images" / f"{target}-test.tar")
        loaded[target] = images.load(cluster.name, archive)[images.name_of(target)]
    return loaded


@pytest.fixture(scope="session")
def cluster_release(cluster: Cluster) -> Cluster:
    """Install what an admin installs once: CRDs, SandboxClasses, the fence around sandbox namespaces."""
    chart = str(layout.REPOSITORY / "helm" / "veilpod")
    command = ["helm", "upgrade", "--install", "veilpod", chart, "--namespace", "veilpod-system", "--create-namespace"]
    result = subprocess.run(
        [*command, "--set", "cluster.install=true", "--wait", "--timeout", "1m"],
        env=cluster.environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return cluster


@pytest.fixture(scope="session")
def stage(cluster_release: Cluster) -> Iterator[setting.Stage]:
    """Ten strangers on the session's cluster, as `make demo` sets them up."""
    yield setting.prepare(stage_cluster.local(cluster_release.name))
    shutil.rmtree(parties.WORK, ignore_errors=True)
