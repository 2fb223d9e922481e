"""How to reach the Kubernetes API: the pod's service account, or a kubeconfig file for development.

Only what an operator needs: a server, a CA, a bearer token (re-read, the kubelet rotates it) or a client certificate. Exec
plugins and other interactive logins are a person's tools and are refused with a sentence.
"""

import base64
import dataclasses
import os
import pathlib
import ssl
import tempfile
import urllib.parse
from typing import Any

import yaml

from veilpod.errors import InvalidInput

_SERVICE_ACCOUNT = pathlib.Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Connection:
    """One API server and how to log in."""

    server: str
    ca_data: str | None = None  # PEM
    token: str | None = None
    token_file: pathlib.Path | None = None
    certificate: str | None = None  # PEM
    private_key: str | None = None  # PEM

    @property
    def endpoint(self) -> str:
        """The API server's address as "host:port"."""
        return urllib.parse.urlsplit(self.server).netloc

    def bearer(self) -> str | None:
        """The token to send now. The file wins: it is rotated."""
        return self.token_file.read_text().strip() if self.token_file else self.token

    def ssl_context(self) -> ssl.SSLContext | None:
        """A TLS context that trusts this server's CA only; None for plain http."""
        if self.server.startswith("http://"):
            return None
        context = ssl.create_default_context(cadata=self.ca_data)
        if self.certificate and self.private_key:
            # The standard library loads client certificates from files only.
            with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
                file.write(self.certificate + "\n" + self.private_key)
                file.flush()
                context.load_cert_chain(file.name)
        return context


def discover() -> Connection:
    """Find the connection the usual way: KUBECONFIG, the service account, ~/.kube/config. Raises InvalidInput("NoCluster")."""
    if explicit := os.environ.get("KUBECONFIG"):
        return from_kubeconfig(pathlib.Path(explicit))
    if os.environ.get("KUBERNETES_SERVICE_HOST") and (_SERVICE_ACCOUNT / "token").exists():
        return from_service_account(_SERVICE_ACCOUNT)
    if (default := pathlib.Path.home() / ".kube" / "config").exists():
        return from_kubeconfig(default)
    raise InvalidInput("NoCluster", "no service account, no KUBECONFIG and no ~/.kube/config: run in a pod or set KUBECONFIG")


def from_service_account(directory: pathlib.Path) -> Connection:
    """Use the pod's projected service account."""
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    host = f"[{host}]" if ":" in host else host
    return Connection(server=f"https://{host}:{port}", ca_data=(directory / "ca.crt").read_text(), token_file=directory / "token")


def from_kubeconfig(path: pathlib.Path) -> Connection:
    """Use the current context of a kubeconfig file. Raises InvalidInput("BadKubeconfig")."""
    try:
        document = yaml.safe_load(path.read_text())
        context = _named(document, "contexts", document["current-context"])["context"]
        cluster = _named(document, "clusters", context["cluster"])["cluster"]
        user = _named(document, "users", context["user"]).get("user") or {}
        if "exec" in user or "auth-provider" in user:
            raise InvalidInput("BadKubeconfig", "this kubeconfig logs in with a plugin; give the operator a token or a client certificate")
        return Connection(
            server=cluster["server"],
            ca_data=_pem(cluster, "certificate-authority", path),
            token=user.get("token"),
            token_file=path.parent / user["tokenFile"] if "tokenFile" in user else None,
            certificate=_pem(user, "client-certificate", path),
            private_key=_pem(user, "client-key", path),
        )
    except (OSError, KeyError, TypeError, StopIteration, ValueError, yaml.YAMLError) as error:
        raise InvalidInput("BadKubeconfig", f"cannot use this kubeconfig: {type(error).__name__} {error}") from error


def _named(document: dict[str, Any], section: str, name: str) -> dict[str, Any]:
    entry: dict[str, Any] = next(item for item in document[section] if item["name"] == name)
    return entry


def _pem(entry: dict[str, Any], field: str, path: pathlib.Path) -> str | None:
    if data := entry.get(f"{field}-data"):
        return base64.b64decode(data).decode()
    if name := entry.get(field):
        return (path.parent / str(name)).read_text()
    return None
