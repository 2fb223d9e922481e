"""Configuration files of the node's programs, as pure builders. All paths are inside the cluster's namespaces.

Most programs read YAML, of which JSON is a part: dictionaries are enough.
"""

import base64
import json
import pathlib
from typing import Any

from localcluster import layout

PAUSE_IMAGE = "localhost/veilpod-pause:1"


def write_all(cluster: layout.Layout) -> None:
    """Write every file that components.py names."""
    etc = cluster.etc
    (etc / "cni").mkdir(parents=True, exist_ok=True)
    files: dict[str, str] = {
        "audit-policy.json": _json(audit_policy()),
        "kubelet.json": _json(kubelet(cluster.cgroup)),
        "kube-proxy.json": _json(kube_proxy()),
        "containerd.toml": containerd(),
        "cni/10-ptp.conflist": _json(cni()),
        # No name servers: there is no way out of the network that one could be reached by.
        "resolv.conf": "",
    }
    for name in ("admin", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet", "netpol", "storage"):
        server = f"https://{layout.NODE_ADDRESS}:{layout.API_PORT}"
        files[f"{name}.kubeconfig"] = _json(kubeconfig(server, name, name, cluster.pki))
    for path, text in files.items():
        (etc / path).write_text(text)
        (etc / path).chmod(0o600)


def kubeconfig(server: str, name: str, user: str, pki: pathlib.Path) -> dict[str, Any]:
    """Carry the keys themselves, not paths: the file works from anywhere and can be copied."""

    def embedded(file: str) -> str:
        return base64.b64encode((pki / file).read_bytes()).decode()

    credentials = {"client-certificate-data": embedded(f"{user}.crt"), "client-key-data": embedded(f"{user}.key")}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {"server": server, "certificate-authority-data": embedded("ca.crt")}}],
        "users": [{"name": user, "user": credentials}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": user}}],
        "current-context": name,
    }


def audit_policy() -> dict[str, Any]:
    """Return what the API server writes down of who changed what: every write, without its content; no reads, no leases."""
    return {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [
            {"level": "None", "verbs": ["get", "list", "watch"]},
            {"level": "None", "resources": [{"group": "coordination.k8s.io"}]},
            {"level": "Metadata"},
        ],
    }


def kubelet(cgroup: str) -> dict[str, Any]:
    """Return a kubelet's configuration for a machine that is not a server."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{layout.INSIDE_PKI}/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": f"{layout.INSIDE_PKI}/kubelet-serving.crt",
        "tlsPrivateKeyFile": f"{layout.INSIDE_PKI}/kubelet-serving.key",
        "readOnlyPort": 0,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": cgroup,
        # From 1.35 the kubelet refuses cgroup v1 by default; a developer's machine may have nothing else.
        "failCgroupV1": False,
        "failSwapOn": False,
        "clusterDNS": [layout.DNS_ADDRESS],
        "clusterDomain": "cluster.local",
        "resolvConf": f"{layout.INSIDE_ETC}/resolv.conf",
        "containerRuntimeEndpoint": f"unix://{layout.CONTAINERD_SOCKET}",
        "volumePluginDir": "/var/lib/kubelet/volumeplugins",
        "maxPods": 250,
        # What a test kills again and again comes back at once, not after five minutes.
        "crashLoopBackOff": {"maxContainerRestartPeriod": "1s"},
        # What a fork bomb in a pod comes to: the memory of a pod's limit would hold far more threads than a node has numbers for.
        "podPidsLimit": 1024,
        # The disk and the memory are the developer's: nearly full is normal there, and nobody could pull a collected image again.
        "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "nodefs.inodesFree": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
        # Lowering it needs CAP_SYS_RESOURCE, which root in a container has not got.
        "oomScoreAdj": 0,
    }


def kube_proxy() -> dict[str, Any]:
    """Return kube-proxy's configuration."""
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clientConnection": {"kubeconfig": f"{layout.INSIDE_ETC}/kube-proxy.kubeconfig"},
        "clusterCIDR": layout.POD_NETWORK,
        "hostnameOverride": layout.NODE_NAME,
        "metricsBindAddress": "127.0.0.1:10249",
        "oomScoreAdj": 0,
        # Zero leaves the kernel's settings alone: some are shared with the host.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    }


def cni() -> dict[str, Any]:
    """Route, do not bridge: then every packet of a pod passes the hooks on which NetworkPolicy is enforced."""
    ipam = {"type": "host-local", "subnet": layout.POD_NETWORK, "routes": [{"dst": "0.0.0.0/0"}], "dataDir": "/var/lib/cni"}
    ptp = {"type": "ptp", "ipMasq": False, "ipam": ipam}
    return {"cniVersion": "1.0.0", "name": "veilpod", "plugins": [ptp, {"type": "portmap", "capabilities": {"portMappings": True}}]}


def containerd() -> str:
    """Return containerd's configuration: two runtimes, our pause image, nothing outside the node's directories."""
    return f"""\
version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.snapshotter.v1.devmapper"]

[grpc]
  address = "{layout.CONTAINERD_SOCKET}"

# The default is /opt/containerd, on the host's disk.
[plugins."io.containerd.internal.v1.opt"]
  path = "/var/lib/containerd/opt"

[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "{PAUSE_IMAGE}"

[plugins."io.containerd.cri.v1.runtime"]
  # Both need what root in a container has not got: CAP_SYS_RESOURCE, and a kernel with AppArmor.
  restrict_oom_score_adj = true
  disable_apparmor = true

[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dirs = ["{layout.INSIDE_BIN}/runtime"]
  conf_dir = "{layout.INSIDE_ETC}/cni"

[plugins."io.containerd.cri.v1.runtime".containerd]
  default_runtime_name = "runc"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
    BinaryName = "{layout.INSIDE_BIN}/runtime/runc"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.gvisor]
  runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.gvisor.options]
    BinaryName = "{layout.INSIDE_BIN}/gvisor/runsc-for-runc-shim"
"""


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=2) + "\n"
