"""`make demo` and `make down`."""

import argparse
import json
import shutil
import time
from typing import Any

from localcluster import lifecycle, progress


def main() -> int:
    """Parse and run."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("command", choices=["run", "down"])
    parser.add_argument("--cluster", choices=["local", "current"], default="local")
    parser.add_argument("--registry", default="", help="where images go when the cluster is the kubeconfig's and not kind, k3d or minikube")
    arguments = parser.parse_args()
    if arguments.command == "down":
        return down(arguments.cluster)
    return run(arguments.cluster, arguments.registry)


def run(kind: str, registry: str) -> int:
    """Play the whole demo and leave the report."""
    from demo import chain, cluster, collect, ledger, page, parties, play, pods, stage

    begin = time.monotonic()
    progress.say("The cluster")
    where = cluster.local(parties.STAGE) if kind == "local" else cluster.current()
    scene = stage.prepare(where, registry)

    progress.say("\nThe task")
    play.forget_task(where)
    namespaces = [f"{server.name}-sandboxes" for server in parties.SERVERS]
    with chain.reachable(where) as web3, pods.watched(where, namespaces, parties.WORK / "pods.jsonl"):
        first = web3.eth.block_number
        play.run_task(where, scene.references["tumour-model"])
        play.read_result(where, chain.url(web3))
        chain.wait_blocks(web3, 2)
        window = ledger.Ledger(web3=web3, contracts=scene.contracts, first=first, last=web3.eth.block_number)
        report = collect.report(where, window, play.TASK, scene.references)
    (parties.WORK / "report.json").write_text(json.dumps(report, indent=1, sort_keys=True))
    (parties.WORK / "report.html").write_text(page.render(report))
    summary(report, time.monotonic() - begin)
    return 0


def summary(report: dict[str, Any], seconds: float) -> None:
    """Say what was proved, in a few lines."""
    accuracy, equation = report["accuracy"], report["balances"]["equation"]
    destroyed = sum(bool(sandbox["destroyed"]) for sandbox in report["sandboxes"])
    progress.say("What was proved")
    alone = accuracy["alone"]
    progress.say(
        f"  accuracy on {accuracy['heldOutCases']} held-out cases: north alone {alone['north']:.1%}, south alone {alone['south']:.1%},"
    )
    progress.say(f"    pooled {accuracy['pooled']:.1%}, federated {accuracy['federated']:.1%}: {accuracy['verdict']}")
    progress.say(f"  {destroyed} of {len(report['sandboxes'])} sandboxes proved gone before anybody was paid")
    progress.say(f"  {len(report['transactions'])} transactions; {equation['text']}: {'holds' if equation['holds'] else 'DOES NOT HOLD'}")
    progress.say(f"\nbuild/demo/report.html shows it, build/demo/report.json holds it ({seconds:.0f} s). `make down` removes every trace.")


def down(kind: str) -> int:
    """Remove every trace: the releases or the whole local cluster, and the demo's files."""
    from demo.parties import STAGE, WORK

    if kind == "local":
        lifecycle.down(STAGE, keep_logs=False)
    else:
        from demo import cluster, remove

        remove.remove(cluster.current())
    shutil.rmtree(WORK, ignore_errors=True)
    return 0


if __name__ == "__main__":
    progress.run(main)
