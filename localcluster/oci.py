"""OCI archives without a container engine: read the digest of one, make one of many, write the pause image.

An OCI archive is a tar of content-addressed blobs and an index.json. A pod may name an image by the digest of its manifest, which is what
the index holds, and which changes when the layers are compressed again: so the archive, not the store it was saved from, is asked.
"""

import gzip
import hashlib
import io
import json
import pathlib
import tarfile
from collections.abc import Sequence
from typing import IO, Any

from localcluster import progress

_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_INDEX, _LAYOUT = "index.json", "oci-layout"
REFERENCE = "org.opencontainers.image.ref.name"


def digests(archive: pathlib.Path) -> dict[str, str]:
    """Return reference -> manifest digest for the named images of the archive."""
    named = {entry.get("annotations", {}).get(REFERENCE): entry["digest"] for entry in _manifests(archive)}
    return {reference: digest for reference, digest in named.items() if reference is not None}


def merge(archives: Sequence[pathlib.Path], into: IO[bytes]) -> None:
    """Write one archive of all their images, each blob once: images that share a base share most of their bytes."""
    written: set[str] = {_INDEX, _LAYOUT}
    with tarfile.open(fileobj=into, mode="w|", bufsize=1 << 20) as merged:
        for archive in archives:
            with tarfile.open(archive) as tar:
                for member in tar:
                    if member.isfile() and member.name not in written:
                        written.add(member.name)
                        merged.addfile(member, tar.extractfile(member))
        manifests = [entry for archive in archives for entry in _manifests(archive)]
        for name, content in {_LAYOUT: {"imageLayoutVersion": "1.0.0"}, _INDEX: {"schemaVersion": 2, "manifests": manifests}}.items():
            _add(merged, name, json.dumps(content).encode(), mode=0o644)


def _manifests(archive: pathlib.Path) -> list[dict[str, Any]]:
    try:
        with tarfile.open(archive) as tar:
            entries: list[dict[str, Any]] = json.loads((tar.extractfile(_INDEX) or io.BytesIO()).read())["manifests"]
    except (tarfile.TarError, KeyError, json.JSONDecodeError) as error:
        raise progress.Failure(f"{archive} is no OCI archive: {error}", next="podman save --format oci-archive") from error
    return entries


def write_static(archive: pathlib.Path, reference: str, program: pathlib.Path, command: list[str]) -> None:
    """Write an image that holds one static program and nothing else. Equal inputs give equal bytes, so equal digests."""
    layer = _tar({command[0].lstrip("/"): program.read_bytes()}, mode=0o755)
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": command, "User": "65535:65535"},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    data = gzip.compress(layer, mtime=0)
    write(archive, reference, config, [_entry(data, _LAYER + "+gzip")], {_path(data): data})


def write(archive: pathlib.Path, reference: str, config: dict[str, Any], layers: list[dict[str, Any]], blobs: dict[str, bytes]) -> None:
    """Write an image of this configuration. `layers`: their entries in the manifest; `blobs`: path -> those that the reader has not got."""
    configured = json.dumps(config).encode()
    manifest = {"schemaVersion": 2, "mediaType": _MANIFEST, "config": _entry(configured, _CONFIG), "layers": layers}
    data = json.dumps(manifest).encode()
    entry = _entry(data, _MANIFEST) | {"annotations": {REFERENCE: reference}}
    files = blobs | {
        _path(configured): configured,
        _path(data): data,
        _INDEX: json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode(),
        _LAYOUT: b'{"imageLayoutVersion": "1.0.0"}',
    }
    archive.parent.mkdir(parents=True, exist_ok=True)
    archive.write_bytes(_tar(files, mode=0o644))


def _entry(data: bytes, media_type: str) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": f"sha256:{hashlib.sha256(data).hexdigest()}", "size": len(data)}


def _path(data: bytes) -> str:
    return f"blobs/sha256/{hashlib.sha256(data).hexdigest()}"


def _tar(files: dict[str, bytes], mode: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in sorted(files.items()):
            _add(tar, name, data, mode)
    return buffer.getvalue()


def _add(tar: tarfile.TarFile, name: str, data: bytes, mode: int) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), mode
    tar.addfile(member, io.BytesIO(data))
