"""What a program can do with the network behind the launcher: nothing but unix sockets among its own, and TCP on the task's ports.

Each attempt is made twice: by a program that nobody confined, where it must work, or the attempt would prove nothing, and behind the
launcher.
"""

import pathlib
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
from tests.unit.launcher.test_launch import EXITED, GO, GO_ANYWAY, NOT_CONFINED, SIGNALED, Start, launcher, python, started

from veilpod.agent import confinement

__all__ = ["launcher", "started"]  # fixtures

pytestmark = pytest.mark.skipif(confinement._landlock_abi() < 6, reason="this kernel's Landlock is too old")

SYSCALL = "import ctypes; call = ctypes.CDLL(None, use_errno=True).syscall; "
CONNECT = "import socket; socket.create_connection(('127.0.0.1', {relay}), 5)"
MADE = "import socket; socket.socket("


@pytest.fixture
def relay() -> Iterator[int]:
    """Something in the same network namespace that is not the program's business."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def peer() -> Iterator[int]:
    """The agent's end of a port of the task."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


ATTEMPTS = {
    "connects to a relay": CONNECT,
    "connects to a relay over IPv6": "import socket; socket.socket(socket.AF_INET6).connect(('::ffff:127.0.0.1', {relay}))",
    "connects from a child": f"import subprocess, sys; subprocess.run([sys.executable, '-c', {CONNECT!r}], check=True)",
    "binds another port": "import socket; socket.create_server(('127.0.0.1', 0))",
    "sends a datagram": f"{MADE}socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {{relay}}))",
    "speaks MPTCP": f"{MADE}socket.AF_INET, socket.SOCK_STREAM, 262).connect(('127.0.0.1', {{relay}}))",
    "sends data in the SYN": f"{MADE}socket.AF_INET).sendto(b'x', 0x20000000, ('127.0.0.1', {{relay}}))",
    "asks for addresses and routes": f"{MADE}socket.AF_NETLINK, socket.SOCK_RAW, 0)",
    "writes packets": f"{MADE}socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)",
    "connects to an abstract socket of the agent's": "import socket; socket.socket(socket.AF_UNIX).connect('\\0{name}')",
    "uses io_uring": SYSCALL + "assert call(425, 4, bytes(120)) >= 0",
    "signals a process outside": "import os; os.kill({outside}, 0)",
}
# What needs more than this kernel or machine may have: only refused, not shown to work elsewhere.
UNSHOWN = {
    "speaks SCTP": f"{MADE}socket.AF_INET, socket.SOCK_STREAM, 132)",
    "speaks to the hypervisor": f"{MADE}40, socket.SOCK_STREAM)",
    "reads every frame": f"{MADE}17, socket.SOCK_RAW)",
    "swaps the protocol under a socket": f"{MADE}socket.AF_INET).setsockopt(6, 31, b'smc')",
    "asks for a kernel cipher": f"{MADE}38, socket.SOCK_SEQPACKET)",
}


def text_of(code: str, relay: int, name: str, outside: int) -> str:
    for word, value in (("relay", relay), ("name", name), ("outside", outside)):
        code = code.replace("{" + word + "}", str(value))
    return code


@pytest.mark.parametrize("attempt", sorted(ATTEMPTS))
def test_an_attempt_that_works_elsewhere_fails_here(started: Start, relay: int, peer: int, attempt: str) -> None:
    name = f"veilpod-test-confine-{relay}"
    with socket.socket(socket.AF_UNIX) as listener, subprocess.Popen(["sleep", "60"]) as outside:
        listener.bind("\0" + name)
        listener.listen(8)
        code = text_of(ATTEMPTS[attempt], relay, name, outside.pid)
        try:
            subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
            agent = started(*python(code))
            agent.go(ports=(peer,))
            assert agent.until_exit() == (EXITED, 1), agent.output
            assert b"Error" in agent.output[2]
        finally:
            outside.kill()


@pytest.mark.parametrize("attempt", sorted(UNSHOWN))
def test_an_exotic_attempt_fails_too(started: Start, peer: int, attempt: str) -> None:
    agent = started(*python(UNSHOWN[attempt]))
    agent.go(ports=(peer,))
    assert agent.until_exit() == (EXITED, 1)
    assert b"OSError" in agent.output[2]


@pytest.mark.skipif(sys.platform != "linux" or not pathlib.Path("/proc/self/exe").exists(), reason="Linux alone")
@pytest.mark.parametrize(
    "code",
    [
        SYSCALL + "call(0x40000000 | 39)",
        # mov eax, 20; int 0x80; ret: getpid as a 32-bit program asks for it
        "import ctypes, mmap; page = mmap.mmap(-1, 4096, prot=7); page.write(bytes.fromhex('b814000000cd80c3'));"
        " ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()",
    ],
    ids=["x32", "i386"],
)
def test_who_calls_the_kernel_by_other_numbers_dies(started: Start, code: str) -> None:
    agent = started(*python(code))
    agent.go()
    how, signal = agent.until_exit()
    assert (how, signal in (11, 31)) == (SIGNALED, True)


def test_the_ports_of_the_task_are_the_programs(started: Start, peer: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        own = probe.getsockname()[1]
    serve = (
        f"import socket, threading; server = socket.create_server(('127.0.0.1', {own}));"
        f" socket.create_connection(('127.0.0.1', {own}), 5); server.accept();"
        f" socket.create_connection(('127.0.0.1', {peer}), 5); socket.socketpair(); print('served')"
    )
    agent = started(*python(serve))
    agent.go(ports=(own, peer))
    assert agent.until_exit() == (EXITED, 0), agent.output
    assert agent.output[1] == b"served\n"


def test_without_ports_no_internet_socket_exists_at_all(started: Start) -> None:
    agent = started(*python("import socket; socket.socketpair(); socket.socket(socket.AF_UNIX); socket.socket()"))
    agent.go()
    assert agent.until_exit() == (EXITED, 1)
    assert b"Address family not supported" in agent.output[2]


# A kernel without Landlock, such as gVisor's: its first system call does not exist.
BEFORE_LANDLOCK = """
import ctypes, os, struct, sys
rules = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *rule) for rule in (
    (0x20, 0, 0, 0), (0x15, 0, 1, 444), (0x06, 0, 0, 0x50000 | 38), (0x06, 0, 0, 0x7FFF0000))))
filter = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", 4, ctypes.addressof(rules)))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, filter) == 0
os.execv(sys.argv[1], sys.argv[1:])
"""
OLD = (sys.executable, "-c", BEFORE_LANDLOCK)


def test_a_program_with_ports_does_not_start_where_it_cannot_be_kept_to_them(started: Start, peer: int) -> None:
    agent = started(*python("print('ran')"), within=OLD)
    agent.go(ports=(peer,))
    assert agent.until_exit() == (NOT_CONFINED, 0)
    assert agent.output[1] == b""


def test_an_agent_that_knows_may_start_it_all_the_same_with_tcp_alone(started: Start, relay: int) -> None:
    attempt = f"{CONNECT.replace('{relay}', str(relay))}; socket.socket(socket.AF_INET, socket.SOCK_DGRAM)"
    agent = started(*python(attempt), within=OLD)
    agent.go(ports=(1024,), word=GO_ANYWAY)
    assert agent.until_exit() == (EXITED, 1)
    assert b"Address family not supported" in agent.output[2], "the connection was made, the datagram socket was not"


@pytest.mark.parametrize("word", [GO, GO_ANYWAY])
def test_without_ports_a_program_is_confined_on_every_kernel(started: Start, word: int) -> None:
    agent = started(*python("import socket; socket.socketpair(); socket.socket()"), within=OLD)
    agent.go(word=word)
    assert agent.until_exit() == (EXITED, 1)
    assert b"Address family not supported" in agent.output[2]


def test_what_this_kernel_can_is_done_whatever_the_agent_says(started: Start, relay: int, peer: int) -> None:
    agent = started(*python(CONNECT.replace("{relay}", str(relay))))
    agent.go(ports=(peer,), word=GO_ANYWAY)
    assert agent.until_exit() == (EXITED, 1)
    assert b"Permission" in agent.output[2]
