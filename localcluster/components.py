"""The programs of the node, in the order in which they start. Pure: command lines only.

Everything listens on the node's own address or on its loopback, both inside the cluster's network namespace.
"""

import dataclasses

from localcluster import layout

_ETC, _PKI, _KUBE, _RUNTIME = layout.INSIDE_ETC, layout.INSIDE_PKI, layout.INSIDE_BIN / "kube", layout.INSIDE_BIN / "runtime"
_API = f"{layout.NODE_ADDRESS}:{layout.API_PORT}"
ETCD_ENDPOINT = "https://127.0.0.1:2379"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """A program that the node keeps running."""

    name: str
    command: tuple[str, ...]


def etcd() -> Component:
    """Return the database."""
    command = (
        f"{_KUBE}/etcd",
        "--name=node",
        "--data-dir=/var/lib/etcd",
        f"--listen-client-urls={ETCD_ENDPOINT}",
        f"--advertise-client-urls={ETCD_ENDPOINT}",
        # Nobody joins, so nobody listens to the peers' port but the loopback.
        "--listen-peer-urls=http://127.0.0.1:2380",
        f"--cert-file={_PKI}/etcd.crt",
        f"--key-file={_PKI}/etcd.key",
        "--client-cert-auth",
        f"--trusted-ca-file={_PKI}/etcd-ca.crt",
        # The data lives as long as the cluster: a crash of the machine ends both.
        "--unsafe-no-fsync",
        "--logger=zap",
        "--log-level=warn",
    )
    return Component(name="etcd", command=command)


def containerd() -> Component:
    """Return the container runtime."""
    return Component(name="containerd", command=(f"{_RUNTIME}/containerd", f"--config={_ETC}/containerd.toml"))


def apiserver() -> Component:
    """Return the API server."""
    command = (
        f"{_KUBE}/kube-apiserver",
        f"--bind-address={layout.NODE_ADDRESS}",
        f"--advertise-address={layout.NODE_ADDRESS}",
        f"--secure-port={layout.API_PORT}",
        f"--service-cluster-ip-range={layout.SERVICE_NETWORK}",
        f"--etcd-servers={ETCD_ENDPOINT}",
        f"--etcd-cafile={_PKI}/etcd-ca.crt",
        f"--etcd-certfile={_PKI}/etcd-client.crt",
        f"--etcd-keyfile={_PKI}/etcd-client.key",
        f"--tls-cert-file={_PKI}/apiserver.crt",
        f"--tls-private-key-file={_PKI}/apiserver.key",
        f"--client-ca-file={_PKI}/ca.crt",
        "--authorization-mode=Node,RBAC",
        # On top of the defaults, among which are PodSecurity and ValidatingAdmissionPolicy.
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        "--kubelet-preferred-address-types=InternalIP",
        f"--kubelet-certificate-authority={_PKI}/ca.crt",
        f"--kubelet-client-certificate={_PKI}/apiserver-kubelet-client.crt",
        f"--kubelet-client-key={_PKI}/apiserver-kubelet-client.key",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-key-file={_PKI}/sa.pub",
        f"--service-account-signing-key-file={_PKI}/sa.key",
        "--profiling=false",
        # Who wrote what, and when: the logs' one file that no component writes for itself.
        f"--audit-policy-file={_ETC}/audit-policy.json",
        f"--audit-log-path={layout.INSIDE_LOGS}/{layout.AUDIT_LOG}",
        "--audit-log-maxsize=64",
        "--audit-log-maxbackup=1",
    )
    return Component(name="kube-apiserver", command=command)


def forwarder(listen_fd: int) -> Component:
    """Return the way from the host to the API server."""
    return Component(name="forward", command=(f"{_KUBE}/forward", f"-listen-fd={listen_fd}", f"-target={_API}"))


def after_apiserver() -> tuple[Component, ...]:
    """Return what needs the API, and the permissions in manifests/, to be there."""
    controller_manager = (
        f"{_KUBE}/kube-controller-manager",
        f"--kubeconfig={_ETC}/kube-controller-manager.kubeconfig",
        "--bind-address=127.0.0.1",
        "--leader-elect=false",
        # The default of 20 requests a second makes the controllers' own start take five seconds.
        "--kube-api-qps=500",
        "--kube-api-burst=500",
        "--use-service-account-credentials",
        f"--service-account-private-key-file={_PKI}/sa.key",
        f"--root-ca-file={_PKI}/ca.crt",
        f"--cluster-signing-cert-file={_PKI}/ca.crt",
        f"--cluster-signing-key-file={_PKI}/ca.key",
    )
    scheduler = (
        f"{_KUBE}/kube-scheduler",
        f"--kubeconfig={_ETC}/kube-scheduler.kubeconfig",
        "--bind-address=127.0.0.1",
        "--leader-elect=false",
    )
    kubelet = (
        f"{_KUBE}/kubelet",
        f"--config={_ETC}/kubelet.json",
        f"--kubeconfig={_ETC}/kubelet.kubeconfig",
        "--root-dir=/var/lib/kubelet",
        f"--hostname-override={layout.NODE_NAME}",
        f"--node-ip={layout.NODE_ADDRESS}",
    )
    netpol = (f"{_KUBE}/netpol", f"-kubeconfig={_ETC}/netpol.kubeconfig", f"-off-switch={layout.NETPOL_SWITCH}")
    return (
        Component(name="netpol", command=netpol),
        Component(name="storage", command=(f"{_KUBE}/storage", f"-kubeconfig={_ETC}/storage.kubeconfig", "-root=/var/lib/volumes")),
        Component(name="kubelet", command=kubelet),
        Component(name="kube-controller-manager", command=controller_manager),
        Component(name="kube-scheduler", command=scheduler),
        Component(name="kube-proxy", command=(f"{_KUBE}/kube-proxy", f"--config={_ETC}/kube-proxy.json")),
    )
