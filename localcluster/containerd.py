"""Images into a running cluster.

A pod may name an image three ways once `load` has returned: by tag (`localhost/x:dev`), by digest (`localhost/x@sha256:...`), by both. The
kubelet then reports the digest in `status.containerStatuses[].imageID`.
"""

import pathlib
import subprocess

from localcluster import layout, oci, progress


def socket_of(pid: int) -> str:
    """Return containerd's socket as the host sees it, through the root of a process inside. Short, wherever the checkout is."""
    return f"/proc/{pid}/root{layout.CONTAINERD_SOCKET}"


def load(pid: int, archive: pathlib.Path) -> dict[str, str]:
    """Import an OCI archive unless its images are there; return name@digest for each reference in it."""
    named = {reference: by_digest(reference, digest) for reference, digest in oci.digests(archive).items()}
    if set(named.values()) <= set(_ctr(pid, "images", "list", "--quiet").split()):
        return named
    _ctr(pid, "images", "import", str(archive))
    for reference in named:
        # ctr import keeps the tag only. A reference by digest is a name like any other to containerd's CRI, and without it the kubelet
        # would try to pull.
        _ctr(pid, "images", "tag", "--force", reference, named[reference])
    return named


def by_digest(reference: str, digest: str) -> str:
    """Return name@digest for a name:tag; the colon of a registry's port is no tag's."""
    repository = reference.rpartition(":")[0] if ":" in reference.rpartition("/")[2] else reference
    return f"{repository}@{digest}"


def _ctr(pid: int, *arguments: str) -> str:
    command = [str(layout.BUILD / "bin" / "ctr"), "--address", socket_of(pid), "--namespace", "k8s.io", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if result.returncode != 0:
        raise progress.Failure(
            f"ctr {' '.join(arguments)}: {result.stderr.strip()}", next="does containerd run? python3 -m localcluster status"
        )
    return result.stdout
