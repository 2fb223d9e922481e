"""OCI archives without a container engine: read the digest of one, write the pause image.

An OCI archive is a tar of content-addressed blobs and an index.json. A pod may name an image by the digest of its manifest, which is what
the index holds, and which changes when the layers are compressed again: so the archive, not the store it was saved from, is asked.
"""

import gzip
import hashlib
import io
import json
import pathlib
import tarfile
from typing import Any

from localcluster import progress

_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
REFERENCE = "org.opencontainers.image.ref.name"


def digests(archive: pathlib.Path) -> dict[str, str]:
    """Return reference -> manifest digest for the named images of the archive."""
    try:
        with tarfile.open(archive) as tar:
            index = json.loads((tar.extractfile("index.json") or io.BytesIO()).read())
    except (tarfile.TarError, KeyError, json.JSONDecodeError) as error:
        raise progress.Failure(f"{archive} is no OCI archive: {error}", next="podman save --format oci-archive") from error
    return {entry["annotations"][REFERENCE]: entry["digest"] for entry in index["manifests"] if REFERENCE in entry.get("annotations", {})}


def write_static(archive: pathlib.Path, reference: str, program: pathlib.Path, command: list[str]) -> None:
    """Write an image that holds one static program and nothing else. Equal inputs give equal bytes, so equal digests."""
    layer = _tar({command[0].lstrip("/"): program.read_bytes()}, mode=0o755)
    blobs: dict[str, bytes] = {}

    def add(data: bytes, media_type: str) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = data
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": command, "User": "65535:65535"},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    layers = [add(gzip.compress(layer, mtime=0), _LAYER + "+gzip")]
    manifest = {"schemaVersion": 2, "mediaType": _MANIFEST, "config": add(json.dumps(config).encode(), _CONFIG), "layers": layers}
    entry = add(json.dumps(manifest).encode(), _MANIFEST) | {"annotations": {REFERENCE: reference}}
    blobs["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
    blobs["oci-layout"] = b'{"imageLayoutVersion": "1.0.0"}'
    archive.parent.mkdir(parents=True, exist_ok=True)
    archive.write_bytes(_tar(blobs, mode=0o644))


def _tar(files: dict[str, bytes], mode: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in sorted(files.items()):
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), mode
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()
