"""When a cluster that has started is of use: its node takes pods, and names resolve."""

import json
import os
import pathlib
import shutil
import subprocess
from collections.abc import Callable

from localcluster import config, containerd, layout, oci, progress, toolchain, waiting

READY_TIMEOUT = 180.0


def wait(cluster: layout.Layout, pid: int, alive: Callable[[], bool]) -> None:
    """Load the pause image, then wait for the node and its DNS. `pid` and `alive` are those of the cluster's process 1."""
    with progress.step("pause image"):
        containerd.load(pid, _pause_archive())
    for title, resource, condition in (
        ("node ready", "node/" + layout.NODE_NAME, "condition=Ready"),
        ("DNS ready", "-n kube-system deployment/coredns", "condition=Available"),
    ):
        with progress.step(title):
            _await(cluster, resource.split(), condition, alive)


def _pause_archive() -> pathlib.Path:
    """Return the image that holds a pod's namespaces: Debian's static catatonit and nothing else."""
    archive = layout.cache_directory() / "pause.tar"
    if not archive.exists():
        program = pathlib.Path(shutil.which("catatonit", path=toolchain.PATH) or "catatonit")
        partial = archive.with_suffix(f".{os.getpid()}")
        oci.write_static(partial, config.PAUSE_IMAGE, program, ["/catatonit", "-P"])
        partial.rename(archive)
    return archive


def _await(cluster: layout.Layout, resource: list[str], condition: str, alive: Callable[[], bool]) -> None:
    kubectl = [str(layout.BUILD / "bin" / "kubectl"), f"--kubeconfig={cluster.kubeconfig}"]
    said = ""

    def ready() -> bool:
        # A resource that does not exist yet is an error to kubectl wait, not a reason to wait.
        nonlocal said
        command = [*kubectl, "wait", f"--for={condition}", "--timeout=30s", *resource]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        said = result.stderr.strip()
        return result.returncode == 0 or not alive()

    if waiting.until(ready, timeout=READY_TIMEOUT) and alive():
        return
    restarted = [name for name, entry in components_of(cluster).items() if entry["restarts"]]
    suspect = restarted[0] if restarted else "kubelet"
    raise progress.Failure(
        f"{' '.join(resource)} did not become ready: {said}" + (f"; {', '.join(restarted)} died" if restarted else ""),
        log=cluster.logs / f"{suspect}.log",
        next=f"python3 -m localcluster down --name {cluster.name}, then up again",
    )


def components_of(cluster: layout.Layout) -> dict[str, dict[str, int]]:
    """Return component -> its pid inside the namespaces, and how often it was started again."""
    try:
        known: dict[str, dict[str, int]] = json.loads(cluster.components.read_text())
    except FileNotFoundError:
        return {}
    return known
