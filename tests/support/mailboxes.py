"""A task with two servers, and everything its sandboxes would put into a mailbox."""

import hashlib

from tests.support import ceremonies, sandboxes

from veilpod.core.ceremony.words import Ceremony
from veilpod.core.ids import NodeId, ServerIndex
from veilpod.core.keys import checksum_address
from veilpod.core.meeting import Acceptance, Descriptor, ForStore, Note, ResultPiece, make_note, seal_descriptor, sign_author
from veilpod.core.result import result_hash_of_digest
from veilpod.core.store_messages import TaskTerms
from veilpod.core.typed_data import Domain, result_digest, sandbox_key_digest, statements_hash

TASK = sandboxes.TASK
KEYS = [sandboxes.keys(1), sandboxes.keys(2)]
OFFERS = [sandboxes.offer(k, index=i) for i, k in enumerate(KEYS)]
DOMAIN = Domain(chain_id=31337, contract=checksum_address(b"\x0c" * 20))
TERMS = TaskTerms(task=TASK, owners=tuple(k.server.address for k in KEYS), result_from=ServerIndex(0), max_size=1 << 20, domain=DOMAIN)
CEREMONY = Ceremony(
    task=TASK,
    statements=statements_hash([offer.statement.digest for offer in OFFERS]),
    signers=tuple(k.signing.address for k in KEYS),
)
POSTS, GROUP = ceremonies.play(ceremonies.members(CEREMONY, [k.signing for k in KEYS]))


def acceptance(index: int, *, marker: bytes = b"c") -> Acceptance:
    hashed = statements_hash([offer.statement.digest for offer in OFFERS])
    descriptor = Descriptor(relay=NodeId(7), cookie=marker * 20, service_key=b"s" * 32, expires=1_800_000_000, sender=ServerIndex(index))
    return Acceptance(
        task=TASK,
        index=ServerIndex(index),
        signature=KEYS[index].server.sign(sandbox_key_digest(DOMAIN, TASK, key=GROUP.address, statements_hash=hashed)),
        descriptors=(
            seal_descriptor(
                descriptor, task=TASK, to=ForStore(node=NodeId(9)), reader_key=KEYS[index].onion.public_key().public_bytes_raw()
            ),
        ),
    )


def note(index: int, event: str = "Computed", *, time: int = 1_790_000_000, code: str = "") -> Note:
    return make_note(task=TASK, index=ServerIndex(index), event=event, code=code, time=time, key=KEYS[index].signing)


def pieces(sealed: bytes, *, size: int = 1000) -> list[ResultPiece]:
    digest = hashlib.sha256(sealed).digest()
    signature = GROUP.sign(result_digest(DOMAIN, TASK, result_hash=result_hash_of_digest(TASK, digest)))
    author = sign_author(TASK, digest, KEYS[0].signing)
    return [
        ResultPiece(
            task=TASK, offset=at, total=len(sealed), digest=digest, signature=signature, author=author, chunk=sealed[at : at + size]
        )
        for at in range(0, len(sealed), size)
    ]
