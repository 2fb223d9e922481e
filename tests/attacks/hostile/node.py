"""The node: its kernel's knobs, its devices, its namespaces, its other tenants."""

import ctypes
import os
import pathlib

from hostile.calls import call
from hostile.neighbours import writes
from hostile.registry import Surroundings, attempt

NEWUSER, NEWNS, NEWNET, NEWPID = 0x10000000, 0x00020000, 0x40000000, 0x20000000


@attempt()
def becomes_root(at: Surroundings) -> str:
    os.setuid(0)
    return "root"


@attempt()
def makes_a_user_namespace(at: Surroundings) -> str:
    call("unshare", NEWUSER)
    return "a user namespace"


@attempt()
def makes_a_network_namespace(at: Surroundings) -> str:
    call("unshare", NEWNET)
    return "a network namespace"


@attempt()
def joins_another_namespace(at: Surroundings) -> str:
    handle = os.open("/proc/1/ns/mnt", os.O_RDONLY)
    call("setns", handle, NEWNS)
    return "the first process's mounts"


@attempt()
def mounts(at: Surroundings) -> str:
    call("unshare", NEWNS)
    call("mount", b"none", b"/mnt", b"tmpfs", 0, None)
    return "a mount"


@attempt()
def changes_its_root(at: Surroundings) -> str:
    call("chroot", b"/tmp")
    return "a root"


@attempt(shown=False)
def reads_a_disk(at: Surroundings) -> str:
    node = pathlib.Path(at.get("devices", "/tmp")) / f"device-{os.getpid()}"
    disk = int(next(line for line in pathlib.Path("/proc/partitions").read_text().splitlines()[2:]).split()[0])
    os.mknod(node, 0o600 | 0o060000, os.makedev(disk, 0))
    try:
        with open(node, "rb"):
            return "a disk"
    finally:
        node.unlink()


@attempt()
def reads_the_kernels_log(at: Surroundings) -> str:
    return f"{call('syslog', 3, ctypes.create_string_buffer(4096), 4096) + 1} bytes"


@attempt()
def sets_what_runs_when_a_process_crashes(at: Surroundings) -> str:
    return writes("/proc/sys/kernel/core_pattern")


@attempt(shown=False)
def presses_the_magic_key(at: Surroundings) -> str:
    return writes("/proc/sysrq-trigger")


@attempt()
def turns_a_knob_in_sysfs(at: Surroundings) -> str:
    return writes("/sys/kernel/mm/transparent_hugepage/enabled")


@attempt()
def makes_a_cgroup(at: Surroundings) -> str:
    for place in ("/sys/fs/cgroup/memory", "/sys/fs/cgroup"):
        if os.path.isfile(f"{place}/cgroup.procs"):
            made = f"{place}/escape-{os.getpid()}"
            os.mkdir(made)
            os.rmdir(made)
            return "a cgroup"
    return ""


@attempt()
def raises_its_own_limits(at: Surroundings) -> str:
    for limit in ("memory/memory.limit_in_bytes", "memory.max"):
        if os.path.exists(f"/sys/fs/cgroup/{limit}"):
            return writes(f"/sys/fs/cgroup/{limit}")
    return ""


@attempt(shown=False)
def loads_a_kernel_module(at: Surroundings) -> str:
    # Nothing is loaded: an empty module is no module, which only who may load one is told.
    try:
        call("init_module", b"", 0, b"")
    except OSError as error:
        if error.errno == 8:  # ENOEXEC
            return "only a module is missing"
        raise
    return "loaded"


@attempt()
def traces_the_kernel(at: Surroundings) -> str:
    attributes = (ctypes.c_uint32 * 32)(1, 128, 0)  # a software clock, for every process of a processor
    return f"counter {call('perf_event_open', attributes, -1, 0, -1, 0)}"


@attempt()
def loads_a_kernel_program(at: Surroundings) -> str:
    map_of_bytes = (ctypes.c_uint32 * 18)(2, 4, 4, 1)
    return f"map {call('bpf', 0, map_of_bytes, 72)}"


@attempt()
def keeps_a_key_in_the_kernel(at: Surroundings) -> str:
    # The keyring of a user outlives its processes, and pods of one node have one user.
    key = call("add_key", b"user", b"veilpod-attack", b"left behind", 11, -4)
    call("keyctl", 9, key, -4)  # let go of it again
    return f"key {key}"


@attempt()
def handles_page_faults_of_the_kernel(at: Surroundings) -> str:
    return f"handle {call('userfaultfd', 0)}"


@attempt()
def renames_the_host(at: Surroundings) -> str:
    name = os.uname().nodename.encode()
    call("unshare", 0x04000000)
    call("sethostname", name, len(name))
    return "its name"


@attempt()
def opens_files_by_number(at: Surroundings) -> str:
    handle = (ctypes.c_uint32 * 4)(8, 1, 2, 0)
    try:
        call("open_by_handle_at", os.open("/", os.O_RDONLY), handle, 0)
    except OSError as error:
        if error.errno == 116:  # ESTALE: the kernel looked
            return "only the right number is missing"
        raise
    return "a file"
