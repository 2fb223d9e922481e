"""The cluster's keys and certificates, made anew for every cluster by the openssl command.

Two authorities: etcd has its own, or every certificate of the cluster (a kubelet's, say) would open the database directly, past all access
rules.
"""

import dataclasses
import pathlib
import subprocess

from localcluster import layout

DAYS = "365"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """A certificate to issue. `organizations` are Kubernetes groups; `names` are subject alternative names (DNS:..., IP:...)."""

    file: str
    common_name: str
    organizations: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    authority: str = "ca"

    @property
    def subject(self) -> str:
        return "".join(f"/O={organization}" for organization in self.organizations) + f"/CN={self.common_name}"


API_NAMES = (
    "DNS:kubernetes",
    "DNS:kubernetes.default",
    "DNS:kubernetes.default.svc",
    "DNS:kubernetes.default.svc.cluster.local",
    "DNS:localhost",
    "IP:127.0.0.1",
    f"IP:{layout.API_SERVICE_ADDRESS}",
    f"IP:{layout.NODE_ADDRESS}",
)

CERTIFICATES = (
    Certificate(file="etcd", common_name="etcd", names=("IP:127.0.0.1",), authority="etcd-ca"),
    Certificate(file="etcd-client", common_name="kube-apiserver", authority="etcd-ca"),
    Certificate(file="apiserver", common_name="kube-apiserver", names=API_NAMES),
    Certificate(file="apiserver-kubelet-client", common_name="kube-apiserver", organizations=("system:masters",)),
    Certificate(file="admin", common_name="admin", organizations=("system:masters",)),
    Certificate(file="kube-controller-manager", common_name="system:kube-controller-manager"),
    Certificate(file="kube-scheduler", common_name="system:kube-scheduler"),
    Certificate(file="kube-proxy", common_name="system:kube-proxy"),
    Certificate(file="netpol", common_name="localcluster:netpol"),
    Certificate(file="storage", common_name="localcluster:storage"),
    Certificate(file="kubelet", common_name=f"system:node:{layout.NODE_NAME}", organizations=("system:nodes",)),
    Certificate(file="kubelet-serving", common_name=layout.NODE_NAME, names=(f"IP:{layout.NODE_ADDRESS}", f"DNS:{layout.NODE_NAME}")),
)


def issue_all(directory: pathlib.Path) -> None:
    """Fill the directory with both authorities, all certificates and the key that signs service account tokens."""
    directory.mkdir(parents=True, mode=0o700)
    for authority in ("ca", "etcd-ca"):
        _openssl(directory, authority, f"/CN=veilpod-local-{authority}", ["basicConstraints = critical, CA:TRUE", "keyUsage = keyCertSign"])
    for certificate in CERTIFICATES:
        _openssl(directory, certificate.file, certificate.subject, extensions(certificate), signed_by=certificate.authority)
    _run(["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", str(directory / "sa.key")])
    _run(["openssl", "pkey", "-in", str(directory / "sa.key"), "-pubout", "-out", str(directory / "sa.pub")])


def extensions(certificate: Certificate) -> list[str]:
    """Return the x509v3 lines. Every certificate may act as a client; only one with names is believed as a server."""
    usages = "clientAuth, serverAuth" if certificate.names else "clientAuth"
    lines = ["basicConstraints = critical, CA:FALSE", f"extendedKeyUsage = {usages}"]
    return [*lines, f"subjectAltName = {', '.join(certificate.names)}"] if certificate.names else lines


def _openssl(directory: pathlib.Path, file: str, subject: str, lines: list[str], signed_by: str | None = None) -> None:
    # A configuration of our own: the system's adds CA:TRUE to everything that `req -x509` makes.
    config = directory / f"{file}.cnf"
    config.write_text("\n".join(["[req]", "distinguished_name = dn", "x509_extensions = ext", "[dn]", "[ext]", *lines, ""]))
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", DAYS]
    command += ["-config", str(config), "-subj", subject, "-keyout", str(directory / f"{file}.key"), "-out", str(directory / f"{file}.crt")]
    if signed_by is not None:
        command += ["-CA", str(directory / f"{signed_by}.crt"), "-CAkey", str(directory / f"{signed_by}.key")]
    _run(command)
    config.unlink()


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL)
