"""Everything before the task: tools, images, chain, contracts, coins, releases, data. The end-to-end tests start from the same stage."""

import dataclasses
import shutil
import subprocess

from demo import chain, images, install, play
from demo.cluster import Cluster
from demo.parties import ROOT, WORK, ensure_keys
from localcluster import progress, toolchain


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A cluster on which ten strangers wait for a task."""

    cluster: Cluster
    references: dict[str, str]  # image -> reference by digest
    contracts: dict[str, str]  # registry, scheduler, channels -> address


def prepare(cluster: Cluster, registry: str = "") -> Stage:
    """Set the stage; what is there already is kept."""
    WORK.mkdir(parents=True, exist_ok=True)
    chain_tools()
    progress.say("\nImages")
    references = images.deliver(cluster, registry)

    if not cluster.name:
        with progress.step("is this cluster fit? (veilpod doctor)"):
            cluster.run("veilpod", "doctor", "--image", references["relay"])

    progress.say("\nThe chain")
    ensure_keys("veilpod" if shutil.which("veilpod") else str(ROOT / ".venv" / "bin" / "veilpod"))
    with progress.step("anvil"):
        chain.start(cluster, references["anvil"])
    with chain.reachable(cluster) as web3:
        with progress.step("contracts"):
            contracts = chain.deploy(cluster, web3)
        with progress.step("first coins"):
            chain.fund(web3)

    progress.say("\nTen strangers")
    with progress.step("the cluster's part of the chart"):
        install.admin(cluster)
    with progress.step("one release each"):
        install.parties(cluster, references, contracts)
    install.ready(cluster)

    progress.say("\nThe data")
    play.split_data()
    play.share_data(cluster)
    return Stage(cluster=cluster, references=references, contracts=contracts)


def chain_tools() -> None:
    """Install the pinned anvil from its npm package."""
    if (ROOT / "contracts" / "node_modules" / ".bin" / "anvil").exists():
        return
    with progress.step("anvil's package"):
        npm = str(toolchain.node().with_name("npm"))
        result = subprocess.run(
            [npm, "ci", "--prefix", "contracts", "--no-audit", "--no-fund"], cwd=ROOT, capture_output=True, text=True, check=False
        )
        if result.returncode != 0:
            raise progress.Failure(f"npm ci failed:\n{result.stderr[-800:]}", next="npm ci --prefix contracts")
