"""The agent and the launcher beside the program: their memory, their descriptors, their files; tokens; what the kubelet keeps."""

import ctypes
import os
import pathlib

from hostile.calls import call
from hostile.registry import Surroundings, attempt

PTRACE_SEIZE = 0x4206


def writes(path: str) -> str:
    with open(path, "a"):
        return f"{path} may be written"


@attempt()
def finds_the_agents_process(at: Surroundings) -> str:
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit() and entry.name not in ("1", str(os.getpid())) and b"agent" in (entry / "cmdline").read_bytes():
            return f"process {entry.name}"
    return ""


@attempt()
def reads_the_first_processs_environment(at: Surroundings) -> str:
    return f"{len(pathlib.Path('/proc/1/environ').read_bytes()) + 1} bytes"


@attempt()
def opens_the_first_processs_memory(at: Surroundings) -> str:
    with open("/proc/1/mem", "rb"):
        return "its memory"


@attempt()
def lists_the_first_processs_descriptors(at: Surroundings) -> str:
    return f"{len(os.listdir('/proc/1/fd')) + 1} descriptors"


@attempt()
def traces_the_first_process(at: Surroundings) -> str:
    call("ptrace", PTRACE_SEIZE, 1, 0, 0)
    return "seized"  # and let go when this process ends


@attempt()
def reads_the_first_processs_memory_by_a_call(at: Surroundings) -> str:
    # The stack's address is in the process's own words where they may be read; without it, any address shows who may ask.
    buffer = ctypes.create_string_buffer(8)
    stack = int(pathlib.Path("/proc/1/stat").read_text().rsplit(")", 1)[1].split()[25]) or 0x1000
    local = (ctypes.c_void_p * 2)(ctypes.addressof(buffer), 8)
    remote = (ctypes.c_void_p * 2)(stack, 8)
    return f"{call('process_vm_readv', 1, local, 1, remote, 1, 0)} bytes"


@attempt()
def takes_the_first_processs_descriptors(at: Surroundings) -> str:
    return f"descriptor {call('pidfd_getfd', call('pidfd_open', 1, 0), 0, 0)}"


@attempt()
def reads_a_Kubernetes_token(at: Surroundings) -> str:
    return f"{len(pathlib.Path('/var/run/secrets/kubernetes.io/serviceaccount/token').read_text())} characters"


@attempt()
def finds_the_cluster_in_its_environment(at: Surroundings) -> str:
    return ",".join(name for name in os.environ if name.startswith("KUBERNETES_"))


@attempt(shown=False)
def enters_the_agents_volumes(at: Surroundings) -> str:
    return ",".join(name for name in ("life", "scratch", "pod", "seal") if os.path.exists(f"/veilpod/{name}"))


@attempt(shown=False)
def changes_its_inputs(at: Surroundings) -> str:
    return writes("/veilpod/in/written")


@attempt(shown=False)
def changes_the_launcher(at: Surroundings) -> str:
    return writes("/veilpod/bin/launch")


@attempt()
def writes_its_termination_message(at: Surroundings) -> str:
    return writes(at.get("message", "/veilpod/bin/.end/message"))


@attempt()
def writes_to_the_containers_log(at: Surroundings) -> str:
    return writes("/proc/1/fd/1")


@attempt()
def changes_its_image(at: Surroundings) -> str:
    return writes("/written")


@attempt()
def writes_to_anything_on_a_disk(at: Surroundings) -> str:
    memory = {"tmpfs", "proc", "sysfs", "devpts", "mqueue", "cgroup", "cgroup2"}
    for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines():
        fields, kind = line.split(" - ")[0].split(), line.split(" - ")[1].split()[0]
        if kind not in memory and os.access(fields[4], os.W_OK):
            return f"{fields[4]} on {kind}"
    return ""
