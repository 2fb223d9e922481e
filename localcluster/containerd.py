"""Images into a running cluster.

A pod may name an image three ways once `load` has returned: by tag (`localhost/x:dev`), by digest (`localhost/x@sha256:...`), by both. The
kubelet then reports the digest in `status.containerStatuses[].imageID`.
"""

import contextlib
import json
import pathlib
import subprocess
import tempfile
from collections.abc import Iterator
from typing import Any

from localcluster import layout, oci, progress


def socket_of(pid: int) -> str:
    """Return containerd's socket as the host sees it, through the root of a process inside. Short, wherever the checkout is."""
    return f"/proc/{pid}/root{layout.CONTAINERD_SOCKET}"


def load(pid: int, *archives: pathlib.Path) -> dict[str, str]:
    """Import OCI archives unless their images are there; return name@digest for each reference in them."""
    known = set(_ctr(pid, "images", "list", "--quiet").split())
    named = {archive: {name: by_digest(name, digest) for name, digest in oci.digests(archive).items()} for archive in archives}
    missing = [archive for archive in archives if not set(named[archive].values()) <= known]
    if missing:
        with _talk(pid, "images", "import", "-") as importing:
            assert importing.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # its own words say why
                oci.merge(missing, importing.stdin)
    for reference, digested in (pair for archive in missing for pair in named[archive].items()):
        # ctr import keeps the tag only. A reference by digest is a name like any other to containerd's CRI, and without it the kubelet
        # would try to pull.
        _ctr(pid, "images", "tag", "--force", reference, digested)
    return {name: digested for pairs in named.values() for name, digested in pairs.items()}


def document(pid: int, digest: str) -> dict[str, Any]:
    """Return a JSON document of an image: its manifest, or its configuration."""
    parsed: dict[str, Any] = json.loads(_ctr(pid, "content", "get", digest))
    return parsed


def by_digest(reference: str, digest: str) -> str:
    """Return name@digest for a name:tag; the colon of a registry's port is no tag's."""
    repository = reference.rpartition(":")[0] if ":" in reference.rpartition("/")[2] else reference
    return f"{repository}@{digest}"


def _ctr(pid: int, *arguments: str) -> str:
    with _talk(pid, *arguments) as ctr:
        assert ctr.stdout is not None
        return ctr.stdout.read().decode()


@contextlib.contextmanager
def _talk(pid: int, *arguments: str) -> "Iterator[subprocess.Popen[bytes]]":
    """Run ctr; at the end of what is done with its pipes it must have succeeded."""
    command = [str(layout.BUILD / "bin" / "ctr"), "--address", socket_of(pid), "--namespace", "k8s.io", *arguments]
    with tempfile.TemporaryFile() as complaints:
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaints) as ctr:
            yield ctr
            ctr.communicate()
        complaints.seek(0)
        if ctr.returncode != 0:
            raise progress.Failure(
                f"ctr {' '.join(arguments)}: {complaints.read().decode().strip()}",
                next="does containerd run? python3 -m localcluster status",
            )
