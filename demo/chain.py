"""The chain of the demo: anvil in a pod of its own namespace, a block a second, with the contracts on it.

Parties reach it by its Service; this machine by a port-forward, as any user would.
"""

import contextlib
import json
import pathlib
import re
import subprocess
import time
from collections.abc import Iterable, Iterator
from typing import Any

from web3 import Web3

from demo.cluster import Cluster
from demo.parties import CHAIN_NAMESPACE, PARTIES, WORK, Party
from localcluster import progress

URL = f"http://anvil.{CHAIN_NAMESPACE}.svc:8545"
CHAIN_ID = 31337
FUNDS = 10 * 10**18
# The first of anvil's well-known development keys: it pays for the deployment and everybody's first coins.
DEPLOYER = "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"


def start(cluster: Cluster, image: str, *, mining: str = "--block-time 1") -> None:
    """Run anvil. Its state outlives a restart of the container. `mining`: anvil's own words for when there is a block."""
    labels = {"app.kubernetes.io/name": "anvil"}
    security = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    command = f"anvil --host 0.0.0.0 --chain-id {CHAIN_ID} {mining} --state /state/chain.json --state-interval 5 --silent"
    container = {
        "name": "anvil",
        "image": image,
        "command": command.split(),
        "env": [{"name": "HOME", "value": "/state"}],
        "ports": [{"containerPort": 8545}],
        "readinessProbe": {"tcpSocket": {"port": 8545}, "periodSeconds": 1},
        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "512Mi"}},
        "securityContext": security,
        "volumeMounts": [{"name": "state", "mountPath": "/state"}],
    }
    pod = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "fsGroup": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
        "volumes": [{"name": "state", "emptyDir": {}}],
    }
    meta = {"name": "anvil", "namespace": CHAIN_NAMESPACE, "labels": labels}
    cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": CHAIN_NAMESPACE, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
        },
        {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"selector": labels, "ports": [{"port": 8545}]}},
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": meta,
            "spec": {
                "replicas": 1,
                "strategy": {"type": "Recreate"},
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": pod},
            },
        },
    )
    cluster.kubectl("rollout", "status", "-n", CHAIN_NAMESPACE, "deployment/anvil", "--timeout=120s")


@contextlib.contextmanager
def reachable(cluster: Cluster) -> Iterator[Web3]:
    """Forward a port of this machine to the chain while the body runs."""
    command = ["kubectl", "port-forward", "-n", CHAIN_NAMESPACE, "service/anvil", ":8545"]
    with subprocess.Popen(command, env=cluster.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as forward:
        try:
            line = forward.stdout.readline() if forward.stdout else ""
            found = re.search(r":(\d+) ->", line)
            if not found:
                raise progress.Failure(
                    f"no port-forward to the chain: {line.strip()}", next=f"kubectl logs -n {CHAIN_NAMESPACE} deployment/anvil"
                )
            yield Web3(Web3.HTTPProvider(f"http://127.0.0.1:{found.group(1)}"))
        finally:
            forward.terminate()


def deploy(cluster: Cluster, web3: Web3) -> dict[str, str]:
    """Deploy the contracts with the CLI, once per chain. Returns their addresses."""
    file = WORK / "contracts.json"
    genesis = web3.eth.get_block(0)["hash"].to_0x_hex()
    if file.exists():
        known: dict[str, str] = json.loads(file.read_text())
        if known.get("genesis") == genesis and all(
            web3.eth.get_code(Web3.to_checksum_address(known[c])) for c in ("registry", "scheduler", "channels")
        ):
            return known
    key = WORK / "keys" / "deployer.key"
    key.write_text(DEPLOYER)
    answer = cluster.run("veilpod", "chain", "deploy", "--rpc", url(web3), "--key", str(key), "--output", "json")
    addresses: dict[str, str] = json.loads(answer)
    file.write_text(json.dumps(addresses | {"genesis": genesis}, indent=1))
    return addresses


def url(web3: Web3) -> str:
    """Where this machine reaches the chain while the port-forward lasts."""
    return str(getattr(web3.provider, "endpoint_uri", ""))


def fund(web3: Web3, parties: Iterable[Party] = PARTIES) -> None:
    """Give parties their first coins, to those that have less than half of them."""
    source = web3.eth.accounts[0]
    sent = [
        web3.eth.send_transaction({"from": source, "to": Web3.to_checksum_address(party.address), "value": Web3.to_wei(10, "ether")})
        for party in parties
        if web3.eth.get_balance(Web3.to_checksum_address(party.address)) < FUNDS // 2
    ]
    for transaction in sent:
        web3.eth.wait_for_transaction_receipt(transaction, timeout=30, poll_latency=0.2)


def wait_blocks(web3: Web3, count: int) -> None:
    """Wait until the chain has grown by this many blocks."""
    target = web3.eth.block_number + count
    deadline = time.monotonic() + 30 + 5 * count
    while web3.eth.block_number < target:
        if time.monotonic() > deadline:
            raise progress.Failure("the chain has stopped making blocks", next=f"kubectl logs -n {CHAIN_NAMESPACE} deployment/anvil")
        time.sleep(0.2)  # noqa: TID251 - the chain offers no push over HTTP


def artifacts() -> dict[str, Any]:
    """The contracts' ABIs, by name."""
    folder = pathlib.Path(__file__).resolve().parent.parent / "operator" / "veilpod" / "chain" / "artifacts"
    return {file.stem: json.loads(file.read_text())["abi"] for file in folder.glob("*.json")}
