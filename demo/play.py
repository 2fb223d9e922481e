"""The play itself, by the commands that a data owner and a data scientist would type.

Seal and put the data; apply the task, watch it, wait for it; read the result.
"""

import json
import pathlib
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import yaml

from demo import install
from demo.cluster import Cluster
from demo.parties import HOSPITALS, REQUESTER, RESULT_KEY, ROOT, WORK, Party
from localcluster import progress

EXAMPLE = ROOT / "examples" / "tumour-model"
TASK = "tumour-model"
DATA = WORK / "data"


def split_data() -> None:
    """Cut the example's data once."""
    if not (DATA / "heldout.csv").exists():
        subprocess.run([sys.executable, str(EXAMPLE / "split.py"), str(DATA)], check=True, capture_output=True)


def share_data(cluster: Cluster) -> None:
    """Each hospital shares its table."""
    for hospital in HOSPITALS:
        with progress.step(f"{hospital.name} seals and stores its data") as step:
            if hospital.dataset in cluster.kubectl("get", "datasets", "-n", hospital.name, "-o", "name"):
                step.cached()
                continue
            plain, sealed = DATA / f"{hospital.name.removeprefix('hospital-')}.csv", DATA / f"{hospital.dataset}.sealed"
            share(cluster, hospital, plain, sealed, hospital.dataset)
    for hospital in HOSPITALS:
        with progress.step(f"{hospital.dataset} registered"):
            for condition in ("Stored", "Registered"):
                cluster.kubectl(
                    "wait", f"--for=condition={condition}", f"dataset/{hospital.dataset}", "-n", hospital.name, "--timeout=120s"
                )


def share(cluster: Cluster, hospital: Party, plain: pathlib.Path, sealed: pathlib.Path, name: str) -> None:
    """Seal a file to the hospital's own store's custody key, declare the Dataset, put the sealed file into the store."""
    custody = json.loads(cluster.run("veilpod", "keys", "show", str(hospital.key_file), "--output", "json"))["custody"]
    text = cluster.run("veilpod", "dataset", "seal", str(plain), str(sealed), "--to", custody, "--name", name, "--custody", "Store")
    manifest = yaml.safe_load(text)
    manifest["spec"]["policy"]["programConfinement"] = install.confinement(cluster)
    cluster.kubectl("apply", "-n", hospital.name, "-f", "-", text=yaml.safe_dump(manifest))
    cluster.run("veilpod", "dataset", "put", str(sealed), "-n", hospital.name)


def manifest(image: str, recipient: str, name: str = TASK) -> dict[str, Any]:
    """The example's manifest with the two names filled in."""
    task: dict[str, Any] = yaml.safe_load((EXAMPLE / "task.yaml").read_text())
    task["metadata"]["name"] = name
    task["spec"]["program"]["image"] = image
    task["spec"]["result"]["recipient"] = recipient
    return task


def recipient(cluster: Cluster) -> str:
    """The public half of the requester's result key."""
    answer = json.loads(cluster.run("veilpod", "keys", "show", str(RESULT_KEY), "--output", "json"))
    return str(answer["recipient"])


def run_task(cluster: Cluster, image: str) -> None:
    """Apply the task and wait until it is settled, showing each condition as it turns true."""
    file = WORK / "task.yaml"
    file.write_text(yaml.safe_dump(manifest(image, recipient(cluster)), sort_keys=False))
    progress.say(f"\n$ kubectl apply -n {REQUESTER.name} -f {file.relative_to(ROOT)}")
    cluster.kubectl("apply", "-n", REQUESTER.name, "-f", str(file))
    progress.say(f"$ kubectl get ct {TASK} -n {REQUESTER.name} -w")
    command = ["kubectl", "get", "ct", TASK, "-n", REQUESTER.name, "-w"]
    with subprocess.Popen(command, env=cluster.environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as watch:
        shown = threading.Thread(target=_show, args=(watch.stdout or iter(()),), daemon=True)
        shown.start()
        try:
            cluster.kubectl("wait", "--for=condition=Settled", f"ct/{TASK}", "-n", REQUESTER.name, "--timeout=600s", timeout=620)
        except progress.Failure as failure:
            status = cluster.run("veilpod", "task", "status", TASK, "-n", REQUESTER.name)
            raise progress.Failure(
                f"the task did not settle:\n{status}", next=f"veilpod task status {TASK} -n {REQUESTER.name}"
            ) from failure
        finally:
            watch.terminate()
            shown.join(timeout=10)


def _show(lines: Iterator[str]) -> None:
    for line in lines:
        progress.say("  " + line.rstrip())


def read_result(cluster: Cluster, rpc: str) -> pathlib.Path:
    """Fetch, decrypt, verify and unpack the result as its recipient would."""
    target = WORK / "result"
    shutil.rmtree(target, ignore_errors=True)  # an earlier run's
    command = ["veilpod", "result", TASK, "-n", REQUESTER.name, "--key", str(RESULT_KEY), "-o", str(target), "--rpc", rpc]
    progress.say(f"\n$ {' '.join(command)}")
    progress.say(cluster.run(*command))
    return target


def forget_task(cluster: Cluster) -> None:
    """Delete an earlier run's task, so that the play can be repeated."""
    cluster.kubectl("delete", "ct", TASK, "-n", REQUESTER.name, "--ignore-not-found", "--timeout=180s")
