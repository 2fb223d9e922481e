"""The chart, installed the way its users do: the cluster's part once, then one release per party in a namespace of its own."""

import base64
import concurrent.futures
import json
import re
from typing import Any

from demo import chain
from demo.cluster import Cluster
from demo.parties import ADMIN_NAMESPACE, PARTIES, RELAYS, WORK, Party
from localcluster import progress

CHART = "helm/veilpod"
STAKE = 10**17
IMAGES = ("operator", "agent", "relay", "store", "watchtower")


def admin(cluster: Cluster) -> None:
    """Install what is cluster-wide: CRDs, classes, admission policies."""
    classes: dict[str, Any] = {"standard": {"programConfinement": confinement(cluster)}}
    if "gvisor" not in cluster.kubectl("get", "runtimeclasses", "-o", "name"):
        classes["sandboxed"] = None
    helm(cluster, "veilpod", ADMIN_NAMESPACE, {"cluster": {"install": True, "sandboxClasses": classes}, "crds": {"keep": False}})


def confinement(cluster: Cluster) -> str:
    """What the demo's class and data ask of kernels: what its own nodes can, for its program has ports (`veilpod doctor` tells, too)."""
    kernels = cluster.kubectl("get", "nodes", "-o", "jsonpath={.items[*].status.nodeInfo.kernelVersion}").split()
    old = [kernel for kernel in kernels if tuple(int(part) for part in re.findall(r"\d+", kernel)[:2]) < (6, 7)]
    return "WhenSupported" if old else "Required"


def parties(cluster: Cluster, references: dict[str, str], contracts: dict[str, str]) -> None:
    """Install every party's release. They know nothing of each other."""
    with concurrent.futures.ThreadPoolExecutor(max_workers=3) as pool:
        for outcome in [pool.submit(release, cluster, party, references, contracts) for party in PARTIES]:
            outcome.result()


def ready(cluster: Cluster) -> None:
    """Wait until every operator is ready: its node registered, its caches filled."""
    for party in PARTIES:
        with progress.step(f"{party.name} ready"):
            cluster.kubectl("rollout", "status", "deployment", "-n", party.name, "--timeout=240s")
    for party in RELAYS:
        with progress.step(f"{party.name} registered"):
            cluster.kubectl("wait", "--for=condition=Registered", "onionrelay", "--all", "-n", party.name, "--timeout=240s")


def release(cluster: Cluster, party: Party, references: dict[str, str], contracts: dict[str, str]) -> None:
    """Install one party's release in a namespace of its own, or upgrade it."""
    release_with(cluster, party, values(party, references, contracts))


def release_with(cluster: Cluster, party: Party, content: dict[str, Any]) -> None:
    """Install or upgrade a party's release with values of its own."""
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "chain-key", "namespace": party.name},
        "data": {"key": base64.b64encode(party.key_file.read_bytes()).decode()},
    }
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": party.name, "labels": labels}}, secret)
    helm(cluster, party.name, party.name, content)


def values(party: Party, references: dict[str, str], contracts: dict[str, str]) -> dict[str, Any]:
    """What this party writes into its values.yaml."""
    registry = references["operator"].rpartition("/")[0]
    images: dict[str, Any] = {"registry": registry}
    for name in references.keys() & IMAGES:
        repository, _, digest = references[name].rpartition("/")[2].partition("@")
        images[name] = {"repository": repository, "digest": digest}
    return {
        "roles": {party.role: True},
        "images": images,
        "chain": {
            "rpcUrl": chain.URL,
            "chainId": chain.CHAIN_ID,
            "contracts": {name: contracts[name] for name in ("registry", "scheduler", "channels")},
            "keySecret": {"name": "chain-key", "key": "key"},
            "confirmations": 1,
        },
        "persistence": {"size": "256Mi"},
        "networkPolicy": {"metricsFrom": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]},
        **({"compute": {"stake": str(STAKE), "capacity": 4}} if party.role == "compute" else {}),
        **({"storage": {"size": "256Mi", "quota": str(200 << 20)}} if party.role == "storage" else {}),
        **({"requester": {"mailbox": {"size": "256Mi"}}} if party.role == "requester" else {}),
        **({"relay": {"create": True}} if party.role == "relay" else {}),
        **({"watchtower": {"keySecret": {"name": "chain-key"}, "size": "64Mi"}} if party.role == "watchtower" else {}),
    }


def helm(cluster: Cluster, release: str, namespace: str, content: dict[str, Any]) -> None:
    """Install or upgrade a release with these values."""
    file = WORK / "values" / f"{release}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=1))
    with_wait = ["--wait", "--timeout=180s"] if content.get("cluster") else []
    cluster.run("helm", "upgrade", "--install", release, CHART, "-n", namespace, "--create-namespace", "-f", str(file), *with_wait)
