"""Where everything of a cluster is, on the host and inside its namespaces.

On the host a cluster is one directory, ``build/cluster/NAME``. Inside, its sub-directory ``node`` is mounted as ``/var`` and a fresh tmpfs
as ``/run``: the node has the paths every Kubernetes node has, socket paths stay short however deep the checkout lies, and two clusters
cannot meet. All that the node writes to disk is therefore under ``build/cluster/NAME/node``; memory volumes are tmpfs mounts that only the
cluster's own mount namespace shows.
"""

import dataclasses
import hashlib
import os
import pathlib
import re

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
BUILD = REPOSITORY / "build"
SOURCES = REPOSITORY / "localcluster"

# RFC 2544 keeps 198.18.0.0/15 for benchmarks: no network that a developer's machine can reach uses it.
POD_NETWORK = "198.18.0.0/16"
SERVICE_NETWORK = "198.19.0.0/17"
API_SERVICE_ADDRESS = "198.19.0.1"
DNS_ADDRESS = "198.19.0.10"
NODE_ADDRESS = "198.19.255.1"
NODE_NAME = "node"
API_PORT = 6443
AUDIT_LOG = "audit.log"

# Paths inside the cluster's mount namespace.
INSIDE = pathlib.PurePosixPath("/var/veilpod")
INSIDE_ETC = INSIDE / "etc"
INSIDE_PKI = INSIDE / "pki"
INSIDE_BIN = INSIDE / "bin"
INSIDE_LOGS = INSIDE / "logs"
CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
NETPOL_SWITCH = INSIDE / "netpol-off"

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?")


def cache_directory() -> pathlib.Path:
    """Return the directory of everything that is expensive to make again; deleting it costs time, never correctness."""
    if explicit := os.environ.get("VEILPOD_CACHE"):
        return pathlib.Path(explicit).resolve()
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache").resolve() / "veilpod"


@dataclasses.dataclass(frozen=True, slots=True)
class Layout:
    """The host's view of the cluster called `name`."""

    name: str

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"a cluster's name is 1-32 of a-z, 0-9 and '-', not {self.name!r}")

    @property
    def directory(self) -> pathlib.Path:
        return BUILD / "cluster" / self.name

    @property
    def kubeconfig(self) -> pathlib.Path:
        return self.directory / "kubeconfig"

    @property
    def record(self) -> pathlib.Path:
        """Which processes are ours, and the API server's port."""
        return self.directory / "record.json"

    @property
    def logs(self) -> pathlib.Path:
        return self.directory / "logs"

    @property
    def node(self) -> pathlib.Path:
        """The node's /var."""
        return self.directory / "node"

    @property
    def private(self) -> pathlib.Path:
        """Our own corner of the node's /var: configuration, keys, mount points for the programs."""
        return self.node / "veilpod"

    @property
    def etc(self) -> pathlib.Path:
        return self.private / "etc"

    @property
    def pki(self) -> pathlib.Path:
        return self.private / "pki"

    @property
    def netpol_switch(self) -> pathlib.Path:
        return self.private / "netpol-off"

    @property
    def components(self) -> pathlib.Path:
        """What the node last said of its components: name -> pid inside the namespace and restarts."""
        return self.private / "components.json"

    @property
    def lock(self) -> pathlib.Path:
        return BUILD / "cluster" / ".locks" / self.name

    @property
    def cgroup(self) -> str:
        # All checkouts on the machine share this one name space.
        checkout = hashlib.sha256(str(self.directory).encode()).hexdigest()[:8]
        return f"/veilpod-{self.name}-{checkout}"
