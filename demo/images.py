"""The images of the demo: built from this checkout by podman, delivered the way the cluster takes them, named by digest ever after.

An archive is kept per content of its inputs, outside the checkout, so an unchanged image is never built twice; the cache is never required.
"""

import dataclasses
import hashlib
import pathlib
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence

from demo.cluster import Cluster
from demo.parties import ROOT, WORK
from localcluster import images, layout, locks, oci, progress

SOURCE = ROOT / "operator" / "veilpod"
SHARED = (
    SOURCE / "core",
    SOURCE / "net",
    SOURCE / "errors.py",
    SOURCE / "ports.py",
    SOURCE / "__init__.py",
    ROOT / "requirements" / "base.txt",
)
EXAMPLE = ROOT / "examples" / "tumour-model"
_LATELY = 600  # seconds, far more than loading takes


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """One target of a Dockerfile and everything that its content depends on."""

    target: str
    dockerfile: pathlib.Path
    context: pathlib.Path
    inputs: tuple[pathlib.Path, ...]
    traced: bool = False  # the demo lays its circuit tracing on top

    @property
    def key(self) -> str:
        """A digest of the inputs."""
        hashed = hashlib.sha256(images.BASE.encode())
        for file in sorted({file for path in (self.dockerfile, *self.inputs) for file in _files(path)}):
            hashed.update(str(file.relative_to(ROOT)).encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
        return hashed.hexdigest()[:16]


def processes() -> tuple[Image, ...]:
    """The images of our own processes that the demo needs."""
    main, trace = ROOT / "Dockerfile", ROOT / "demo" / "veilpod_demo"
    inputs = {
        "operator": (SOURCE, ROOT / "requirements" / "operator.txt", trace),
        "relay": (*SHARED, SOURCE / "relay"),
        "store": (*SHARED, SOURCE / "store", trace),
        "agent": (*SHARED, SOURCE / "agent", ROOT / "operator" / "launcher", trace),
    }
    return tuple(Image(target=t, dockerfile=main, context=ROOT, inputs=i, traced=trace in i) for t, i in inputs.items())


def catalogue() -> tuple[Image, ...]:
    """Every image of the demo."""
    anvil = ROOT / "contracts" / "node_modules" / ".bin" / "anvil"
    return (
        *processes(),
        Image(
            target="tumour-model",
            dockerfile=EXAMPLE / "Dockerfile",
            context=EXAMPLE,
            inputs=(EXAMPLE / "fedavg", EXAMPLE / "requirements.txt"),
        ),
        Image(
            target="anvil",
            dockerfile=ROOT / "demo" / "chain" / "Dockerfile",
            context=_anvil_context(anvil),
            inputs=(ROOT / "contracts" / "package-lock.json",),
        ),
    )


def watchtower() -> Image:
    """The image that no party of the demo needs, for tests that install one."""
    inputs = (*SHARED, SOURCE / "chain", SOURCE / "watchtower", ROOT / "requirements" / "watchtower.txt")
    return Image(target="watchtower", dockerfile=ROOT / "Dockerfile", context=ROOT, inputs=inputs)


def deliver(cluster: Cluster, registry: str, wanted: Sequence[Image] | None = None) -> dict[str, str]:
    """Build what is not cached and bring it to the cluster: the catalogue, unless told otherwise. Returns target -> reference by digest."""
    with locks.held(layout.cache_directory() / "images.lock"):  # podman has one name for each target
        archives = {image.target: _archive(image) for image in (catalogue() if wanted is None else wanted)}
    if cluster.name:
        loaded = images.load(cluster.name, *archives.values())
        return {target: loaded[next(iter(oci.digests(archive)))] for target, archive in archives.items()}
    if registry:
        return {target: _push(archive, f"{registry.rstrip('/')}/veilpod-{target}") for target, archive in archives.items()}
    return {target: _hand_over(cluster, archive) for target, archive in archives.items()}


def _archive(image: Image) -> pathlib.Path:
    archive = layout.cache_directory() / "images" / f"{image.target}-{image.key}.tar"
    if archive.exists():
        with progress.step(f"image: {image.target}") as step:
            step.cached()
        archive.touch()
        return archive
    base = images.ensure_base()
    images.build(image.target, image.dockerfile, image.context, {"BASE": base})
    if image.traced:
        overlay = {"FROM": images.name_of(image.target)}
        images.build("traced", ROOT / "demo" / "Dockerfile", ROOT / "demo", overlay)
        subprocess.run(["podman", "tag", images.name_of("traced"), images.name_of(image.target)], check=True, capture_output=True)
    forget_outdated(archive.parent, image.target, now=time.time())
    return images.save(images.name_of(image.target), archive)


def forget_outdated(folder: pathlib.Path, target: str, *, now: float) -> None:
    """Remove a target's archives that nobody has asked for lately. Another checkout may be loading one of its own this minute."""
    for archive in folder.glob(f"{target}-*.tar"):
        if now - archive.stat().st_mtime > _LATELY:
            archive.unlink(missing_ok=True)


def _push(archive: pathlib.Path, repository: str) -> str:
    """Push an archive to the user's registry with podman or skopeo's transport."""
    with progress.step(f"push {repository}"):
        digest_file = WORK / "digest"
        command = ["podman", "push", "--quiet", "--digestfile", str(digest_file), _pull(archive), f"docker://{repository}:demo"]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise progress.Failure(
                f"pushing {repository} failed:\n{result.stderr.strip()[-800:]}",
                next=f"podman login {repository.split('/')[0]}   (one without TLS: name it insecure in /etc/containers/registries.conf)",
            )
    return f"{repository}@{digest_file.read_text().strip()}"


def _pull(archive: pathlib.Path) -> str:
    loaded = subprocess.run(["podman", "load", "--quiet", "--input", str(archive)], capture_output=True, text=True, check=True).stdout
    return loaded.strip().rpartition(": ")[2]


def _hand_over(cluster: Cluster, archive: pathlib.Path) -> str:
    """Give an archive to kind, k3d, minikube or a local cluster of ours, told apart by the context's name."""
    context = cluster.kubectl("config", "current-context").strip()
    (reference, digest), *_ = oci.digests(archive).items()
    loaders = {
        "kind-": ["kind", "load", "image-archive", str(archive), "--name", context.removeprefix("kind-")],
        "k3d-": ["k3d", "image", "import", str(archive), "--cluster", context.removeprefix("k3d-")],
        "minikube": ["minikube", "image", "load", str(archive)],
        "veilpod-": [sys.executable, "-m", "localcluster", "load", "--name", context.removeprefix("veilpod-"), str(archive)],
    }
    for prefix, command in loaders.items():
        if context.startswith(prefix):
            if shutil.which(command[0]) is None:
                raise progress.Failure(
                    f"the context {context!r} is {command[0]}'s, but {command[0]} is not on the PATH",
                    next="or push to a registry: REGISTRY=...",
                )
            with progress.step(f"{prefix.strip('-')}: load {archive.name}"):
                cluster.run(*command)
            return f"{reference.rpartition(':')[0]}@{digest}"
    raise progress.Failure(
        f"no way is known to bring images to the context {context!r}",
        next="make demo CLUSTER=current REGISTRY=<a registry that the cluster can pull from>",
    )


def _anvil_context(anvil: pathlib.Path) -> pathlib.Path:
    """A build context that holds the binary alone (npm's .bin is a link)."""
    folder = WORK / "anvil"
    if anvil.exists() and not (folder / "anvil").exists():
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy2(anvil.resolve(), folder / "anvil")
    return folder


def _files(path: pathlib.Path) -> list[pathlib.Path]:
    if path.is_file():
        return [path]
    return [file for file in path.rglob("*") if file.is_file() and "__pycache__" not in file.parts]
