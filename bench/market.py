"""Where sandboxes are measured: a requester, three computing servers and four relays on a fresh local cluster, each a helm release.

The chain mines a block for each transaction at once, and one a second besides so that its clock goes on; parties believe a block when
they see it. What is measured on it has no waiting for blocks in it, but all that our own code does about the chain: simulate, sign, write
to disk, send, look for the receipt, look for others' events. One thing to know: a block's time is at least a second after the last one's,
so fifty tasks at once put the chain's clock minutes ahead of everybody's; deadlines are generous.
"""

import concurrent.futures
import dataclasses
import json
import subprocess
import sys
from typing import Any

from demo import chain, images, install, parties, play, stage
from demo.cluster import Cluster

from localcluster import layout, progress, waiting

MINING = "--block-time 1 --mixed-mining"
CAPACITY = 20  # sandboxes of a server at a time
MEMBERS = (parties.REQUESTER, *parties.SERVERS, *parties.RELAYS)
WORK = (parties.REQUESTER, *parties.SERVERS)  # those who do something for a task
JOBS = "bench-jobs"
CORES = 48  # what the node says it has for the crowd


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Market:
    """A cluster with everybody on it, and a program's image."""

    cluster: Cluster
    image: str
    recipient: str

    def task(self, name: str, *, command: list[str], servers: int = 1) -> dict[str, Any]:
        """The smallest sensible task: no inputs, servers that do not talk; more than one are a star."""
        hub, sites = {"name": "hub", "replicas": 1}, {"name": "site", "replicas": servers - 1}
        star = {"topology": {"type": "Star", "hub": "hub", "ports": [9092]}} if servers > 1 else {}
        return {
            "apiVersion": "veilpod.dev/v1alpha1",
            "kind": "ComputeTask",
            "metadata": {"name": name, "namespace": parties.REQUESTER.name},
            "spec": {
                "program": {"image": self.image, "command": command, "resources": {"cpu": "100m", "memory": "32Mi"}},
                "roles": [hub, sites] if servers > 1 else [hub],
                "result": {"from": "hub", "recipient": self.recipient, "maxSize": "64Ki"},
                "payment": {"budget": "0.001", "perServer": "0.0001"},
                "deadlines": {"schedule": "30m", "inputs": "20m", "compute": "30m", "total": "2h"},
                **star,
            },
        }

    def job(self, name: str, *, command: list[str]) -> dict[str, Any]:
        """The same program as a bare Job, with the same resources and the same hardening of its container."""
        limits = {"cpu": "100m", "memory": "32Mi"}
        container = {
            "name": "program",
            "image": self.image,
            "command": command,
            "resources": {"requests": limits, "limits": limits},
            "securityContext": {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}},
        }
        pod = {
            "automountServiceAccountToken": False,
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 10,
            "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [container],
        }
        return {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": name, "namespace": JOBS},
            "spec": {"backoffLimit": 0, "template": {"spec": pod}},
        }

    def create(self, *objects: dict[str, Any]) -> None:
        """Have the API server take these."""
        self.cluster.kubectl("create", "-f", "-", text=json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)}))

    def delete(self, *names: str) -> None:
        """Delete tasks, and do not wait for their end."""
        self.cluster.kubectl("delete", "ct", *names, "-n", parties.REQUESTER.name, "--wait=false")

    def offer_cores(self) -> None:
        """Have the node offer more processors than it has, so that as many sandboxes as wanted are there at once, none with less.

        A kubelet corrects what it is said to have; this one is started again with the habit of looking once an hour.
        """
        file = layout.Layout(self.cluster.name).etc / "kubelet.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"nodeStatusUpdateFrequency": "1h"}))
        since = self._kubelet_pid()
        node = [sys.executable, "-m", "localcluster", "exec", "--name", self.cluster.name, "--", "pkill", "-x", "kubelet"]
        subprocess.run(node, check=True, capture_output=True)
        if not waiting.until(lambda: self._kubelet_pid() != since, timeout=30):
            raise progress.Failure("the kubelet does not come back")
        cores = json.dumps({"status": {"capacity": {"cpu": str(CORES)}, "allocatable": {"cpu": str(CORES)}}})

        def offered() -> bool:
            self.cluster.kubectl("patch", "node", layout.NODE_NAME, "--subresource=status", "-p", cores)
            waiting.pause(3)  # what a kubelet that has just started says comes late
            return bool(self.cluster.get("node", layout.NODE_NAME)["status"]["allocatable"]["cpu"] == str(CORES))

        if not waiting.until(offered, timeout=90):
            raise progress.Failure("the node does not keep what it offers")

    def _kubelet_pid(self) -> int:
        return int(json.loads(layout.Layout(self.cluster.name).components.read_text())["kubelet"]["pid"])


def open_market(cluster: Cluster) -> Market:
    """Install everybody and wait until they are ready."""
    parties.WORK.mkdir(parents=True, exist_ok=True)
    stage.chain_tools()
    progress.say("\nImages")
    wanted = [image for image in images.catalogue() if image.target != "tumour-model"]
    references = images.deliver(cluster, "", wanted)

    progress.say("\nThe chain")
    parties.ensure_keys(str(parties.ROOT / ".venv" / "bin" / "veilpod"))
    with progress.step("anvil"):
        chain.start(cluster, references["anvil"], mining=MINING)
    with chain.reachable(cluster) as web3, progress.step("contracts and first coins"):
        contracts = chain.deploy(cluster, web3)
        chain.fund(web3, MEMBERS)

    progress.say("\nEight strangers")
    with progress.step("releases"):
        install.admin(cluster)
        with concurrent.futures.ThreadPoolExecutor(max_workers=3) as pool:
            for outcome in [pool.submit(install.release_with, cluster, one, _values(one, references, contracts)) for one in MEMBERS]:
                outcome.result()
    with progress.step("operators ready, relays registered"):
        for member in MEMBERS:
            cluster.kubectl("rollout", "status", "deployment", "-n", member.name, "--timeout=240s")
        for member in parties.RELAYS:
            cluster.kubectl("wait", "--for=condition=Registered", "onionrelay", "--all", "-n", member.name, "--timeout=240s")
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": JOBS}})
    return Market(cluster=cluster, image=references["relay"], recipient=play.recipient(cluster))


def _values(party: parties.Party, references: dict[str, str], contracts: dict[str, str]) -> dict[str, Any]:
    values = install.values(party, references, contracts)
    values["chain"]["confirmations"] = 0
    if "compute" in values:
        values["compute"]["capacity"] = CAPACITY
    return values
