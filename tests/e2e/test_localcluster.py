"""The local cluster is a real one: what the rest of the tests takes for granted is shown here once."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

from localcluster import build, images, inspect, layout, lifecycle, processes, readiness, waiting
from tests.e2e.conftest import Cluster

pytestmark = pytest.mark.e2e


def pod(name: str, image: str, command: str, **spec: Any) -> dict[str, Any]:
    container = {"name": "main", "image": image, "imagePullPolicy": "IfNotPresent", "command": ["sh", "-c", command]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "containers": [container | spec.pop("container", {})],
            **spec,
        },
    }


def finished(cluster: Cluster, name: str) -> str:
    """Wait for a pod to succeed; return what it printed."""
    cluster.kubectl("wait", f"pod/{name}", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=60s")
    printed = cluster.kubectl("logs", name)
    cluster.kubectl("delete", "pod", name)
    return printed


def test_a_pod_names_its_image_by_digest_and_the_kubelet_reports_that_digest(cluster: Cluster, base_image: str) -> None:
    assert "@sha256:" in base_image
    cluster.apply(pod("by-digest", base_image, "sleep 1000"))
    cluster.kubectl("wait", "pod/by-digest", "--for=condition=Ready", "--timeout=60s")
    status = cluster.get("pod", "by-digest")["status"]["containerStatuses"][0]
    cluster.kubectl("delete", "pod", "by-digest")
    assert status["imageID"] == base_image


def test_an_image_that_was_built_here_keeps_podmans_digest(cluster: Cluster, tmp_path: pathlib.Path) -> None:
    (tmp_path / "Dockerfile").write_text("ARG BASE\nFROM ${BASE} AS words\nRUN echo built > /words\nUSER 65532:65532\n")
    digest = images.build("words", tmp_path / "Dockerfile", tmp_path, {"BASE": images.ensure_base()})
    loaded = images.load(cluster.name, images.save(images.name_of("words"), tmp_path / "words.tar"))
    assert loaded == {images.name_of("words"): f"localhost/veilpod-words@{digest}"}
    cluster.apply(pod("words", f"localhost/veilpod-words@{digest}", "cat /words; id -u"))
    assert finished(cluster, "words").split() == ["built", "65532"]


def test_gvisor_pods_run_on_gvisors_kernel_and_exit_with_their_own_code(cluster: Cluster, base_image: str) -> None:
    cluster.apply(
        pod(
            "in-gvisor",
            base_image,
            "dmesg; cat /proc/version; getent hosts kubernetes.default.svc.cluster.local",
            runtimeClassName="gvisor",
        ),
        pod("exits", base_image, "echo last words; exit 7", runtimeClassName="gvisor"),
        pod("on-the-node", base_image, "cat /proc/version"),
    )
    said = finished(cluster, "in-gvisor")
    assert "Starting gVisor" in said
    assert layout.API_SERVICE_ADDRESS in said
    assert "gVisor" not in finished(cluster, "on-the-node")
    cluster.kubectl("wait", "pod/exits", "--for=jsonpath={.status.phase}=Failed", "--timeout=60s")
    assert cluster.kubectl("logs", "exits") == "last words\n"
    assert cluster.get("pod", "exits")["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 7
    cluster.kubectl("delete", "pod", "exits")


def test_a_gvisor_pod_answers_exec_and_dies_when_it_is_deleted(cluster: Cluster, base_image: str) -> None:
    cluster.apply(pod("lives", base_image, "sleep 1000", runtimeClassName="gvisor"))
    cluster.kubectl("wait", "pod/lives", "--for=condition=Ready", "--timeout=60s")
    assert cluster.run("exec", "lives", "--", "sh", "-c", "exit 3").returncode == 3
    begin = time.monotonic()
    cluster.kubectl("delete", "pod", "lives")
    assert time.monotonic() - begin < 10
    inside = processes.namespace(lifecycle.require(cluster.name).inner.pid, "pid")

    def left() -> list[str]:
        names = [processes.name(pid) for pid in processes.in_namespace("pid", inside).values()]
        return [name for name in names if name.startswith("runsc") or name == "exe"]

    # The sandboxes of the tests before this one may still be on their way out.
    assert waiting.until(lambda: not left(), timeout=15), left()


def test_a_pod_may_have_a_user_namespace_of_its_own(cluster: Cluster, base_image: str) -> None:
    cluster.apply(pod("mapped", base_image, "cat /proc/self/uid_map", hostUsers=False))
    inside, outside, count = finished(cluster, "mapped").split()
    assert (inside, count) == ("0", "65536")
    assert int(outside) >= 65536


def test_memory_volumes_never_reach_the_nodes_disk(cluster: Cluster, base_image: str) -> None:
    canary = f"canary-{os.getpid()}-"
    memory = {"volumes": [{"name": "memory", "emptyDir": {"medium": "Memory"}}]}
    mount = {"container": {"volumeMounts": [{"name": "memory", "mountPath": "/memory"}]}}
    # The words are put together inside the pod: its specification, which is on disk, does not hold them.
    write = f"printf %s{{}} {canary}"
    cluster.apply(
        pod("on-tmpfs", base_image, write.format("memory") + " >/memory/file; sleep 1000", **memory, **mount),
        pod("on-disk", base_image, write.format("disk") + " >/tmp/file; sleep 1000"),
    )
    cluster.kubectl("wait", "pod/on-tmpfs", "pod/on-disk", "--for=condition=Ready", "--timeout=60s")

    def found(words: str) -> bool:
        return subprocess.run(["grep", "-rqF", words, str(cluster.layout.node)], check=False, stderr=subprocess.DEVNULL).returncode == 0

    assert waiting.until(lambda: found(canary + "disk"), timeout=10), "the search must find what is there"
    assert not found(canary + "memory")
    cluster.kubectl("delete", "pod", "on-tmpfs", "on-disk")


def test_admission_refuses_what_policies_and_pod_security_forbid(cluster: Cluster, base_image: str) -> None:
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "strict", "labels": labels}})
    refused = cluster.run("run", "loose", "-n", "strict", f"--image={base_image}")
    assert "violates PodSecurity" in refused.stderr

    kind = "admissionregistration.k8s.io/v1"
    rules = [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}]
    spec = {"matchConstraints": {"resourceRules": rules}, "validations": [{"expression": "!has(object.data)", "message": "no data here"}]}
    binding = {"policyName": "no-data", "validationActions": ["Deny"]}
    cluster.apply(
        {"apiVersion": kind, "kind": "ValidatingAdmissionPolicy", "metadata": {"name": "no-data"}, "spec": spec},
        {"apiVersion": kind, "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": "no-data"}, "spec": binding},
    )
    attempt = ("create", "configmap", "full", "-n", "strict", "--from-literal=a=b", "--dry-run=server")
    try:
        assert waiting.until(lambda: "no data here" in cluster.run(*attempt).stderr, timeout=20)
    finally:
        cluster.kubectl("delete", "validatingadmissionpolicybinding,validatingadmissionpolicy", "no-data")


def test_everything_that_is_stored_is_in_the_dump(cluster: Cluster) -> None:
    cluster.kubectl("create", "secret", "generic", "stored", "--from-literal=word=open-sesame")
    dump = subprocess.run(
        [sys.executable, "-m", "localcluster", "etcd-dump", "--name", cluster.name], cwd=layout.REPOSITORY, capture_output=True, check=True
    ).stdout
    cluster.kubectl("delete", "secret", "stored")
    assert b"/registry/secrets/default/stored\n" in dump
    assert b"open-sesame" in dump


def test_a_component_that_dies_is_started_again(cluster: Cluster) -> None:
    def pid_of_scheduler() -> int | None:
        inside = processes.namespace(lifecycle.require(cluster.name).inner.pid, "pid")
        inner = readiness.components_of(cluster.layout).get("kube-scheduler", {}).get("pid", 0)
        return processes.in_namespace("pid", inside).get(inner)

    before = pid_of_scheduler()
    assert before is not None
    os.kill(before, signal.SIGKILL)
    assert waiting.until(lambda: pid_of_scheduler() not in (None, before), timeout=20)
    assert readiness.components_of(cluster.layout)["kube-scheduler"]["restarts"] == 1


def test_up_again_changes_nothing_and_two_clusters_do_not_meet(cluster: Cluster) -> None:
    first = lifecycle.require(cluster.name)
    assert lifecycle.up(cluster.name) == cluster.kubeconfig
    assert lifecycle.require(cluster.name) == first

    name = f"{cluster.name}-2"
    other = Cluster(name=name, kubeconfig=lifecycle.up(name))
    try:
        other.kubectl("create", "namespace", "only-there")
        assert "only-there" not in cluster.kubectl("get", "namespaces")
        second = lifecycle.require(name)
        assert second.port != first.port
        identity = processes.namespace(second.inner.pid, "pid")
    finally:
        lifecycle.down(name)

    assert not processes.in_namespace("pid", identity)
    assert not list(pathlib.Path("/sys/fs/cgroup").glob(f"**{layout.Layout(name).cgroup}"))
    assert str(other.layout.directory) not in pathlib.Path("/proc/self/mountinfo").read_text()
    assert [entry.name for entry in other.layout.directory.iterdir()] == ["logs"]
    assert lifecycle.find(other.layout) is None
    cluster.kubectl("get", "--raw", "/readyz")
    lifecycle.down(name, keep_logs=False)
    assert not other.layout.directory.exists()


def test_a_start_that_fails_names_the_component_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    """A broken etcd stands for any component that dies while the cluster starts."""
    programs = {module.name: build.ensure(module) for module in build.MODULES}
    broken = tmp_path / "kube-broken"
    broken.mkdir()
    for program in programs["kube"].iterdir():
        (broken / program.name).symlink_to(f"/var/veilpod/bin/kube-original/{program.name}")
    (broken / "etcd").unlink()
    (broken / "etcd").write_text("#!/bin/sh\necho the disk is on fire\nexit 1\n")
    (broken / "etcd").chmod(0o755)
    monkeypatch.setattr(build, "ensure_all", lambda: programs | {"kube": broken})
    name = f"broken-{os.getpid()}"
    with pytest.raises(lifecycle.progress.Failure) as failure:
        lifecycle.up(name)
    assert "etcd died" in str(failure.value)
    assert "the disk is on fire" in str(failure.value)
    assert "next: " in str(failure.value)
    assert lifecycle.find(layout.Layout(name)) is None
    assert not list(pathlib.Path("/sys/fs/cgroup").glob(f"**{layout.Layout(name).cgroup}"))
    lifecycle.down(name, keep_logs=False)


def test_a_bound_claim_is_a_directory_of_the_node(cluster: Cluster, base_image: str) -> None:
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}
    cluster.apply(
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "kept", "namespace": "default"}, "spec": claim}
    )
    volume = {"volumes": [{"name": "kept", "persistentVolumeClaim": {"claimName": "kept"}}]}
    mount = {"container": {"volumeMounts": [{"name": "kept", "mountPath": "/kept"}]}}
    cluster.apply(pod("writer", base_image, "echo still here >/kept/file", **volume, **mount))
    finished(cluster, "writer")
    cluster.apply(pod("reader", base_image, "cat /kept/file", **volume, **mount))
    assert finished(cluster, "reader") == "still here\n"
    cluster.kubectl("delete", "pvc", "kept")


def test_status_lists_what_runs(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect.status(cluster.name) == 0
    printed = capsys.readouterr().out
    assert all(component in printed for component in ("etcd", "kube-apiserver", "kubelet", "netpol"))
    assert json.loads(cluster.layout.components.read_text()).keys() >= {"containerd"}
