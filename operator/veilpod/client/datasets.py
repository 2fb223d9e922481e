"""A data owner's work: seal a file, describe it, put it into a store. Paper step 5, on the owner's side.

Plaintext is read in pieces and never leaves this machine.
"""

import asyncio
import contextlib
import dataclasses
import hashlib
import os
import pathlib
import secrets
from collections.abc import Iterator
from typing import Any, BinaryIO

from veilpod.client import exchange
from veilpod.client.kubectl import Kubectl
from veilpod.client.releases import UPLOAD_PORT, store_pod
from veilpod.core import dataset
from veilpod.core.canonical import to_hex
from veilpod.core.sealing import recipient_bytes
from veilpod.errors import InvalidInput, ProtocolViolation, Refused, Transient

_PIECE = 1 << 20
_PATIENCE_SECONDS = 60.0
_PAUSE_SECONDS = 2.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SealedFile:
    """A sealed object as a file."""

    name: str
    digest: bytes
    size: int


def seal(source: pathlib.Path, target: pathlib.Path, *, to: str, name: str) -> SealedFile:
    """Seal a file to a custodian (`veil1…`). The target appears whole or not at all. Raises InvalidInput."""
    data_key = secrets.token_bytes(dataset.KEY_BYTES)
    header = dataset.make_header(
        name=name, custodian=recipient_bytes(to), data_key=data_key, prefix=secrets.token_bytes(dataset.PREFIX_BYTES)
    )
    found, size = hashlib.sha256(), 0
    unfinished = target.with_name(target.name + ".part")
    try:
        with source.open("rb") as plain, unfinished.open("wb") as file:
            for piece in dataset.seal_stream(_pieces(plain), header=header, data_key=data_key):
                found.update(piece)
                size += len(piece)
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(target)
    except OSError as error:
        raise InvalidInput("CannotSeal", f"cannot seal {source} into {target}: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
    return SealedFile(name=name, digest=found.digest(), size=size)


def inspect(path: pathlib.Path) -> SealedFile:
    """Read name, digest and size of a sealed file. Raises InvalidInput or ProtocolViolation("BadObject")."""
    try:
        with path.open("rb") as file:
            header = dataset.parse_header(file.read(dataset.MAX_HEADER + 64))
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").digest()
            size = file.tell()
    except OSError as error:
        raise InvalidInput("CannotRead", f"cannot read {path}: {error.strerror}") from error
    if header is None:
        raise ProtocolViolation("BadObject", f"{path} ends within its header: seal it again")
    return SealedFile(name=header.name, digest=digest, size=size)


def manifest(sealed: SealedFile, *, owner: str | None, custody: str) -> dict[str, Any]:
    """The Dataset that offers a sealed file, with a policy that admits everybody: narrow it."""
    spec: dict[str, Any] = {
        "dataset": sealed.name,
        "digest": f"sha256:{sealed.digest.hex()}",
        "size": sealed.size,
        **({"owner": owner} if owner else {}),
        "custody": custody,
        "policy": {"programs": [], "requesters": [], "minTier": "T0", "programConfinement": "Required"},
    }
    name = sealed.name.lower().replace("_", "-")
    return {"apiVersion": "veilpod.dev/v1alpha1", "kind": "Dataset", "metadata": {"name": name}, "spec": spec}


async def put(path: pathlib.Path, kubectl: Kubectl, *, release: str | None) -> bool:
    """Upload a sealed file to the namespace's store. False: it was there already. Raises Refused with the store's reason."""
    sealed = await asyncio.to_thread(inspect, path)
    pod = await store_pod(kubectl, "store", release=release)
    patience = asyncio.get_running_loop().time() + _PATIENCE_SECONDS
    while True:
        try:
            return await _put_once(path, sealed, pod, kubectl)
        except (Refused, Transient, OSError) as error:
            # A Dataset that was applied a moment ago is not announced yet, and a store that has just started does not listen yet.
            waiting_helps = not isinstance(error, Refused) or error.reason == "NotAnnounced"
            if not waiting_helps or asyncio.get_running_loop().time() > patience:
                raise
        await asyncio.sleep(_PAUSE_SECONDS)


async def _put_once(path: pathlib.Path, sealed: SealedFile, pod: str, kubectl: Kubectl) -> bool:
    async with kubectl.forward(pod, UPLOAD_PORT) as port, exchange.opened(port) as talk:
        answer = await talk.ask({"put": "dataset", "digest": to_hex(sealed.digest), "size": sealed.size})
        if answer.get("have") is True:
            return False
        with path.open("rb") as file:
            while piece := await asyncio.to_thread(file.read, _PIECE):
                await talk.send(piece)
        await talk.answer()
        return True


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    while piece := file.read(_PIECE):
        yield piece
