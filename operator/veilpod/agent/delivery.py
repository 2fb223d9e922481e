"""From the program's output to a result in the requester's mailbox (paper step 8, "model signing and encryption").

Packing, sealing and hashing are pure (`core.result`); here they are done off the event loop, signed with the task key, and sent in pieces.
"""

import asyncio
import dataclasses
import hashlib
import pathlib

from veilpod.agent import volumes
from veilpod.agent.identity import Identity
from veilpod.agent.mailbox import MailboxClient
from veilpod.core.agent_messages import Configuration, SealedResultInfo
from veilpod.core.meeting import RESULT_CHUNK, ResultPiece, sign_author
from veilpod.core.result import Log, Result, pack, result_hash_of_digest, seal_result
from veilpod.core.sealing import recipient_bytes
from veilpod.core.typed_data import result_digest
from veilpod.errors import PeerUnavailable, ProtocolViolation, Refused

_PIECE_SECONDS = 120.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SealedResult:
    """S, and what the chain is told about it."""

    sealed: bytes
    info: SealedResultInfo
    author: bytes  # our sandbox key's signature: the task key is not ours alone


async def make_result(configuration: Configuration, identity: Identity, *, out: pathlib.Path, program_log: Log) -> SealedResult:
    """Read the output, seal and sign it. Raises Refused("ResultTooLarge" | "ProgramFailed")."""
    sealed, digest = await asyncio.to_thread(_seal, configuration, out, program_log)
    hashed = result_hash_of_digest(configuration.task, digest)
    signature = identity.group.sign(result_digest(configuration.domain, configuration.task, result_hash=hashed))
    info = SealedResultInfo(result_hash=hashed, digest=digest, size=len(sealed), signature=signature)
    return SealedResult(sealed=sealed, info=info, author=sign_author(configuration.task, digest, identity.signing))


async def deliver(client: MailboxClient, configuration: Configuration, result: SealedResult) -> None:
    """Put the result into the mailbox, piece by piece. Raises Refused("DeliveryFailed")."""
    offset, restarts = 0, 0
    try:
        while offset < result.info.size:
            piece = ResultPiece(
                task=configuration.task,
                offset=offset,
                total=result.info.size,
                digest=result.info.digest,
                signature=result.info.signature,
                author=result.author,
                chunk=result.sealed[offset : offset + RESULT_CHUNK],
            )
            try:
                answer = await client.ask("put-result", piece.document(), seconds=_PIECE_SECONDS)
            except Refused as error:
                # The mailbox lost what it had (its volume was replaced): begin again, once.
                if error.reason != "Gap" or restarts:
                    raise
                offset, restarts = 0, restarts + 1
                continue
            if answer.get("complete") is True:
                return
            offset += len(piece.chunk)
        raise ProtocolViolation("DeliveryFailed", "the mailbox has every piece and not the whole", party="mailbox")
    except (Refused, PeerUnavailable, ProtocolViolation) as error:
        raise Refused("DeliveryFailed", f"the result could not be delivered: {error}") from error


def _seal(configuration: Configuration, out: pathlib.Path, program_log: Log) -> tuple[bytes, bytes]:
    limit = configuration.spec.result.max_size
    entries, left_out = volumes.collect(out, limit=limit)
    result = Result(archive=pack(entries, limit=limit), log=program_log, left_out=tuple(left_out))
    sealed = seal_result(result, task=configuration.task, recipient=recipient_bytes(configuration.spec.result.recipient))
    return sealed, hashlib.sha256(sealed).digest()
