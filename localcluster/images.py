"""Container images without a registry: a base image from Debian's packages, builds with podman, archives for the cluster.

    base = images.ensure_base()
    digest = images.build("operator", "Dockerfile", ".", {"BASE": base})
    archive = images.save(images.name_of("operator"), cache / "operator.tar")
    images.load("dev", archive)     # pods may now name localhost/veilpod-operator@{digest}

An archive is saved uncompressed, as podman's store holds the layers: then the digest of its manifest is the one that podman knows, and the
one by which the kubelet reports the running image. Compressed again on the way out, an image would get another digest with every version of
the compressor.
"""

import functools
import hashlib
import os
import pathlib
import subprocess
import tempfile
from collections.abc import Mapping

from localcluster import containerd, layout, lifecycle, locks, progress, toolchain

SUITE = "bookworm"
PACKAGES = ("python3-minimal", "python3-venv", "ca-certificates")
BASE = f"localhost/veilpod-base:{SUITE}"
_KEY = hashlib.sha256(repr((SUITE, PACKAGES)).encode()).hexdigest()[:16]
_KEY_LABEL = "dev.veilpod.localcluster.base"
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_CA_INSIDE = "/etc/ssl/certs/ca-certificates.crt"
# Settings of pip that name files or habits of this machine, not how packages are reached.
_PIP_PRIVATE = {"PIP_CERT", "PIP_FIND_LINKS", "PIP_CACHE_DIR", "PIP_TARGET", "PIP_PREFIX", "PIP_CONFIG_FILE", "PIP_REQUIRE_VIRTUALENV"}


def name_of(target: str) -> str:
    """Return the reference by tag under which `build` stores a target of the Dockerfile."""
    return f"localhost/veilpod-{target}:dev"


def ensure_base() -> str:
    """Return the base image's reference; make it from Debian's packages if podman has not got it (20 s)."""
    toolchain.require_root()
    toolchain.ensure_packages(toolchain.TO_MAKE_IMAGES)
    with progress.step("base image") as step, locks.held(layout.cache_directory() / "base.lock"):
        if _inspect(BASE, f'{{{{index .Labels "{_KEY_LABEL}"}}}}') == _KEY:
            step.cached()
            return BASE
        root = layout.cache_directory() / f"base-{_KEY}.tar"
        if not root.exists():
            partial = root.with_name(f".{_KEY}-{os.getpid()}.tar")
            _run(["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, str(partial)])
            partial.rename(root)
        changes = [f"ENV PATH={_DEFAULT_PATH}", f"LABEL {_KEY_LABEL}={_KEY}"]
        _podman("import", "--quiet", *(option for change in changes for option in ("--change", change)), str(root), BASE)
    return BASE


def build(target: str, dockerfile: pathlib.Path | str, context: pathlib.Path | str, build_args: Mapping[str, str] | None = None) -> str:
    """Build a target of a Dockerfile as `name_of(target)`; return its manifest's digest (sha256:...)."""
    toolchain.require_root()
    toolchain.ensure_packages(toolchain.TO_MAKE_IMAGES)
    image = name_of(target)
    arguments = [option for name, value in (build_args or {}).items() for option in ("--build-arg", f"{name}={value}")]
    with progress.step(f"image: {target}"), tempfile.TemporaryDirectory() as scratch:
        _podman(
            "build",
            "--quiet",
            # chroot needs neither cgroups nor an OCI runtime that likes this machine's; the host's network because there is no other.
            "--isolation=chroot",
            "--network=host",
            "--pull=never",
            "--format=oci",
            f"--target={target}",
            f"--tag={image}",
            f"--file={dockerfile}",
            *arguments,
            *_mounts(pathlib.Path(scratch)),
            str(context),
        )
        return _inspect(image, "{{.Digest}}")


def save(image: str, archive: pathlib.Path) -> pathlib.Path:
    """Write an image of podman's store as an OCI archive; return the archive."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    partial = archive.with_name(f".{archive.name}.{os.getpid()}")
    partial.unlink(missing_ok=True)
    _podman("save", "--quiet", "--uncompressed", "--format=oci-archive", f"--output={partial}", image)
    partial.rename(archive)
    return archive


def load(cluster: str, *archives: pathlib.Path) -> dict[str, str]:
    """Import OCI archives into a running cluster; return name@digest for each reference in them."""
    pid = lifecycle.require(cluster).inner.pid
    with progress.step(f"load {archives[0].name if len(archives) == 1 else f'{len(archives)} images'}"):
        return containerd.load(pid, *archives)


def _mounts(scratch: pathlib.Path) -> list[str]:
    """How this machine reaches package registries, lent to the build: mounted, so that nothing of it stays in the image."""
    volumes = []
    bundle = os.environ.get("SSL_CERT_FILE", "")
    if bundle and pathlib.Path(bundle).is_file():
        volumes.append(f"--volume={bundle}:{_CA_INSIDE}:ro")
    if settings := pip_settings(os.environ):
        config = scratch / "pip.conf"
        config.write_text(settings)
        volumes.append(f"--volume={config}:/etc/pip.conf:ro")
    return volumes


def pip_settings(environment: Mapping[str, str]) -> str:
    """Return a pip.conf that says what the PIP_* variables say; empty if they say nothing that holds inside a build."""
    lines = [
        f"{name.removeprefix('PIP_').lower().replace('_', '-')} = {value}"
        for name, value in sorted(environment.items())
        if name.startswith("PIP_") and name not in _PIP_PRIVATE and value
    ]
    return "\n".join(["[global]", *lines, ""]) if lines else ""


@functools.cache
def _environment() -> dict[str, str]:
    """Choose the storage driver: podman's own choice, or vfs where that does not work (a machine whose root is an overlay itself)."""
    probe = subprocess.run(["podman", "info"], capture_output=True, stdin=subprocess.DEVNULL)
    return dict(os.environ) if probe.returncode == 0 else os.environ | {"STORAGE_DRIVER": "vfs"}


def _podman(*arguments: str) -> None:
    _run(["podman", *arguments], _environment())


def _inspect(image: str, template: str) -> str:
    """Return what the template says of an image, or nothing if podman has no such image."""
    command = ["podman", "image", "inspect", "--format", template, image]
    return subprocess.run(command, env=_environment(), capture_output=True, text=True, stdin=subprocess.DEVNULL).stdout.strip()


def _run(command: list[str], environment: Mapping[str, str] | None = None) -> None:
    log = layout.BUILD / f"{command[0]}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        result = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    if result.returncode != 0:
        raise progress.Failure(f"{' '.join(command[:2])} failed", log=log, next="can this machine reach Debian's packages and PyPI?")
