"""The cluster that the demo plays on: our local one, or the one the kubeconfig names."""

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

from demo.parties import ROOT
from localcluster import progress


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """How to speak to it: an environment with KUBECONFIG and PATH, in which plain kubectl and helm work."""

    name: str  # of our local cluster; empty when it is the kubeconfig's
    environment: dict[str, str]

    def run(self, *command: str, text: str | None = None, timeout: float = 300) -> str:
        """Run a command in the cluster's environment. Raises Failure with its own words when it fails."""
        result = subprocess.run(
            command, env=self.environment, input=text, capture_output=True, text=True, timeout=timeout, check=False, cwd=ROOT
        )
        if result.returncode != 0:
            shown = " ".join(command[:6]) + (" …" if len(command) > 6 else "")
            raise progress.Failure(
                f"`{shown}` failed:\n{(result.stderr or result.stdout).strip()[-2000:]}", next=f"KUBECONFIG={self.kubeconfig} {shown}"
            )
        return result.stdout

    @property
    def kubeconfig(self) -> str:
        """The kubeconfig that is used."""
        return self.environment.get("KUBECONFIG", "~/.kube/config")

    def kubectl(self, *arguments: str, text: str | None = None, timeout: float = 300) -> str:
        """Run kubectl."""
        return self.run("kubectl", *arguments, text=text, timeout=timeout)

    def get(self, *arguments: str) -> Any:
        """Run `kubectl get -o json` and parse the answer."""
        return json.loads(self.kubectl("get", *arguments, "-o", "json"))

    def apply(self, *objects: dict[str, Any]) -> None:
        """Apply manifests."""
        self.kubectl(
            "apply",
            "--server-side",
            "--force-conflicts",
            "-f",
            "-",
            text=json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)}),
        )


def local(name: str) -> Cluster:
    """Start the local cluster, or find it running."""
    from localcluster import layout, lifecycle

    kubeconfig = lifecycle.up(name)
    path = os.pathsep.join([str(layout.BUILD / "bin"), str(ROOT / ".venv" / "bin"), os.environ["PATH"]])
    return Cluster(name=name, environment=os.environ | {"KUBECONFIG": str(kubeconfig), "PATH": path})


@contextlib.contextmanager
def fresh(name: str) -> Iterator[Cluster]:
    """A local cluster for a block of code, taken down however that ends. Who reads of a failure finds the logs."""
    from localcluster import lifecycle

    failed = False
    try:
        progress.say("The cluster")
        yield local(name)
    except Exception:
        failed = True
        raise
    finally:
        for each in (signal.SIGINT, signal.SIGTERM):  # impatience must not leave half a cluster
            signal.signal(each, signal.SIG_IGN)
        lifecycle.down(name, keep_logs=failed)


def current() -> Cluster:
    """Take the kubeconfig's cluster. Raises Failure when kubectl or helm are missing."""
    for tool in ("kubectl", "helm"):
        if shutil.which(tool) is None:
            raise progress.Failure(f"{tool} is not on the PATH", next=f"install {tool}, or run `make demo` for a local cluster")
    path = os.pathsep.join([str(ROOT / ".venv" / "bin"), os.environ["PATH"]])
    return Cluster(name="", environment=os.environ | {"PATH": path})
