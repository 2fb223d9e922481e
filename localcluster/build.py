"""The cluster's programs, from pinned Go modules.

Three modules, because their dependencies disagree: `kube` (all of Kubernetes, etcd, CoreDNS and our own small programs in one file),
`runtime` (containerd, runc, CNI plugins) and `helm`. Each is built into the cache under a key of its sources and go.sum: nothing is built
twice, and a cache that was deleted costs minutes, no more. go.sum pins every byte that is compiled.
"""

import dataclasses
import hashlib
import os
import pathlib
import re
import shutil
import subprocess

from localcluster import layout, locks, progress, toolchain

# The names by which the program of go/kube/main.go knows what to be.
KUBE_PROGRAMS = (
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kube-proxy",
    "kubelet",
    "kubectl",
    "coredns",
    "netpol",
    "storage",
    "forward",
    "etcd-dump",
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """A directory under go/ and what to make of it. `versions`: linker variable -> module whose version it takes."""

    name: str
    packages: tuple[str, ...]
    cgo_packages: tuple[str, ...] = ()
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    links: tuple[str, ...] = ()

    @property
    def source(self) -> pathlib.Path:
        return layout.SOURCES / "go" / self.name


KUBE = Module(
    name="kube",
    packages=(".",),
    versions={"k8s.io/component-base/version.gitVersion": "k8s.io/kubernetes"},
    links=KUBE_PROGRAMS,
)
RUNTIME = Module(
    name="runtime",
    packages=(
        "github.com/containerd/containerd/v2/cmd/containerd",
        "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
        "github.com/containerd/containerd/v2/cmd/ctr",
        "github.com/containernetworking/plugins/plugins/ipam/host-local",
        "github.com/containernetworking/plugins/plugins/main/loopback",
        "github.com/containernetworking/plugins/plugins/main/ptp",
        "github.com/containernetworking/plugins/plugins/meta/portmap",
    ),
    # runc enters namespaces from C before Go's runtime starts threads, and asks libseccomp for its filters.
    cgo_packages=("github.com/opencontainers/runc",),
    versions={
        "github.com/containerd/containerd/v2/version.Version": "github.com/containerd/containerd/v2",
        "main.version": "github.com/opencontainers/runc",
    },
)
HELM = Module(
    name="helm",
    packages=("helm.sh/helm/v4/cmd/helm",),
    versions={"helm.sh/helm/v4/internal/version.version": "helm.sh/helm/v4"},
)
MODULES = (KUBE, RUNTIME, HELM)


def ensure(module: Module) -> pathlib.Path:
    """Return the directory of the module's programs, building them if the cache has not got them."""
    directory = layout.cache_directory() / "bin" / f"{module.name}-{key(module)}"
    if not directory.exists():
        toolchain.ensure_packages(toolchain.TO_BUILD if module.cgo_packages else {})
        toolchain.go()
    with progress.step(f"programs: {module.name}") as step:
        if directory.exists():
            step.cached()
            return directory
        with locks.held(directory.parent / f"{module.name}.lock"):
            if not directory.exists():
                step.note("built")
                _build(module, directory)
    return directory


def ensure_all() -> dict[str, pathlib.Path]:
    """Return module name -> directory of programs, and point build/bin at those that people and scripts call."""
    directories = {module.name: ensure(module) for module in MODULES}
    for program, module in {"kubectl": "kube", "etcd-dump": "kube", "ctr": "runtime", "helm": "helm"}.items():
        link(layout.BUILD / "bin" / program, directories[module] / program)
    return directories


def link(path: pathlib.Path, target: pathlib.Path) -> None:
    """Make or replace a symbolic link without a moment at which it is absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(path)


def key(module: Module) -> str:
    """Hash what decides the module's bytes: its sources, its go.mod and go.sum, and how it is built."""
    digest = hashlib.sha256(repr(module).encode())
    for path in sorted(module.source.rglob("*")):
        if path.is_file() and not path.name.endswith("_test.go"):
            digest.update(f"\0{path.relative_to(module.source)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def pinned(module: Module, path: str) -> str:
    """Return the version of a dependency that go.mod pins."""
    text = (module.source / "go.mod").read_text()
    match = re.search(rf"^\s*{re.escape(path)} (v\S+)", text, re.MULTILINE)
    if match is None:
        raise ValueError(f"{module.name}/go.mod does not pin {path}")
    return match[1]


def linker_flags(module: Module) -> str:
    """Without these every program reports version v0.0.0, and kubectl warns of the skew."""
    flags = ["-s", "-w"]
    for variable, path in module.versions.items():
        version = pinned(module, path)
        flags += ["-X", f"{variable}={version.removeprefix('v') if variable == 'main.version' else version}"]
        if variable.endswith("gitVersion"):
            major, minor = version.removeprefix("v").split(".")[:2]
            flags += ["-X", variable.replace("gitVersion", f"gitMajor={major}"), "-X", variable.replace("gitVersion", f"gitMinor={minor}")]
    return " ".join(flags)


def _build(module: Module, directory: pathlib.Path) -> None:
    partial = directory.with_name(f".{directory.name}.{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    _compile(module, partial, module.packages, cgo=False)
    if module.cgo_packages:
        _compile(module, partial, module.cgo_packages, cgo=True)
    for name in module.links:
        (partial / name).symlink_to(module.name)
    partial.rename(directory)


def _compile(module: Module, output: pathlib.Path, packages: tuple[str, ...], *, cgo: bool) -> None:
    log = layout.BUILD / f"go-{module.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [toolchain.go(), "build", "-trimpath", "-buildvcs=false", "-mod=readonly", "-ldflags", linker_flags(module)]
    command += ["-tags", "seccomp"] if cgo else []
    environment = os.environ | {"CGO_ENABLED": "1" if cgo else "0", "GOWORK": "off"}
    with log.open("wb") as stream:
        result = subprocess.run([*command, "-o", f"{output}/", *packages], cwd=module.source, env=environment, stdout=stream, stderr=stream)
    if result.returncode != 0:
        raise progress.Failure(f"cannot build {module.name}", log=log, next="is a Go module proxy reachable (GOPROXY)?")
