"""System calls that Python has no function for. Numbers are x86-64's and the generic table's, which aarch64 uses."""

import ctypes
import os
import platform

LIBC = ctypes.CDLL(None, use_errno=True)
_X86 = platform.machine() == "x86_64"
NUMBERS = {
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "pidfd_open": (434, 434), "pidfd_getfd": (438, 438), "syslog": (103, 116),
    "mount": (165, 40), "unshare": (272, 97), "setns": (308, 268), "chroot": (161, 51), "bpf": (321, 280), "add_key": (248, 217),
    "perf_event_open": (298, 241), "userfaultfd": (323, 282), "io_uring_setup": (425, 425), "open_by_handle_at": (304, 265),
    "init_module": (175, 105), "sethostname": (170, 161), "keyctl": (250, 219),
}  # fmt: skip


def call(name: str, *arguments: object) -> int:
    """Make a system call. Raises OSError."""
    ctypes.set_errno(0)
    given = [ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments]
    result = int(LIBC.syscall(ctypes.c_long(NUMBERS[name][0 if _X86 else 1]), *given))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
