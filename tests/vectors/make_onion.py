"""Golden vectors of the onion wire format: `python -m tests.vectors.make_onion` writes onion.json again.

Everything but one ML-KEM ciphertext is derived from counters, so another implementation can make the same bytes. A change here is a
change of the protocol.
"""

import dataclasses
import hashlib
import itertools
import json
import pathlib
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from tests.support.onion import CHAIN_ID, REGISTRY, entry, owner
from veilpod.core.identity import make_proof
from veilpod.core.ids import NodeId
from veilpod.core.onion import ntor
from veilpod.core.onion.cells import Command, Header, HeaderMask, put_header
from veilpod.core.onion.directory import RelayEntry
from veilpod.core.onion.geometry import GEOMETRY, HEADER, CellClass
from veilpod.core.onion.joining import Joining, nest, seal_answer
from veilpod.core.onion.layers import HopKeys, client_seal, put_end_to_end, relay_open
from veilpod.core.onion.legs import Numbers, pack_link, places
from veilpod.core.onion.link import Initiator, Responder
from veilpod.core.onion.messages import Create, Created, DestroyReason, Extend, RelayCommand, put_message
from veilpod.core.onion.reports import Side, make_report, pack_destroy, wrap_report

PATH = pathlib.Path(__file__).with_name("onion.json")
SMALL = GEOMETRY[CellClass.SMALL]


def secret(number: int) -> bytes:
    """32 bytes of one number."""
    return bytes((number,)) * 32


def x25519(number: int) -> X25519PrivateKey:
    return X25519PrivateKey.from_private_bytes(secret(number))


def fill(size: int) -> bytes:
    """Stands for random bytes."""
    return bytes(itertools.islice(itertools.cycle(range(256)), size))


def vectors() -> dict[str, Any]:
    """Every vector as hex."""
    return {
        "ntor": _ntor(),
        "one_shot": _one_shot(),
        "keys": _keys(),
        "cells": _cells(),
        "end_to_end": _end_to_end(),
        "places": _places(),
        "report": _report(),
        "link": _link(),
    }


def _ephemeral(number: int) -> ntor.Ephemeral:
    return ntor.Ephemeral(x25519=x25519(number), mlkem=MLKEM768PrivateKey.from_seed_bytes(secret(number) * 2))


def _ntor() -> dict[str, str]:
    """A handshake. FIPS 203 lets nobody choose what is encapsulated: its ciphertext is kept from the last time."""
    client, server, static = _ephemeral(1), x25519(2), x25519(3)
    create = Create(cell_class=CellClass.SMALL, position=1, key_epoch=7, onionskin=b"")
    target = ntor.Target(identity_key=secret(4), onion_key=ntor.public_bytes(static), context=create.context)
    skin = ntor.onionskin(target, client)
    parsed = ntor.parse_onionskin(skin)
    ciphertext = _kept("ntor", "ciphertext") or parsed.encapsulate()[1]
    encapsulated = (client.mlkem.decapsulate(ciphertext), ciphertext)
    answer = ntor.respond(target, static=static, client=parsed, ephemeral=server, encapsulated=encapsulated)
    create = dataclasses.replace(create, onionskin=skin)
    return {
        "client_x25519": secret(1).hex(),
        "client_mlkem_seed": (secret(1) * 2).hex(),
        "server_ephemeral": secret(2).hex(),
        "server_static": secret(3).hex(),
        "identity": secret(4).hex(),
        "encapsulated": encapsulated[0].hex(),
        "ciphertext": ciphertext.hex(),
        "create": create.pack().hex(),
        "extend": Extend(node_id=9, identity_key=secret(4), create=create.pack()).pack().hex(),
        "created": Created(reply=answer.reply).pack().hex(),
        "seed": answer.seed.hex(),
        "onward_key": answer.onward_key.hex(),
    }


def _kept(part: str, name: str) -> bytes:
    known = json.loads(PATH.read_text()) if PATH.exists() else {}
    return bytes.fromhex(known.get(part, {}).get(name, ""))


def _one_shot() -> dict[str, Any]:
    """One CREATE for three relays, and the three answers nested; SHA-256 of what is long."""
    hops = [
        Joining(entry=_relay(number), position=number, cell_class=CellClass.SMALL, ephemeral=_ephemeral(60 + number))
        for number in (1, 2, 3)
    ]
    create = nest(hops).create
    answer = b"third"
    for number in (2, 1):
        sealed = seal_answer(HopKeys(secret(70 + number)), answer)
        answer = Created(reply=bytes((number,)) * ntor.REPLY, onward=sealed).pack()
    return {"create": _long(create), "created": _long(answer)}


def _relay(number: int) -> RelayEntry:
    identity, onion = Ed25519PrivateKey.from_private_bytes(secret(80 + number)), ntor.public_bytes(x25519(90 + number))
    listed: dict[str, Any] = {"owner": owner(number), "onion_key": onion, "key_epoch": 7}
    proof = make_proof(identity, registry=REGISTRY, chain_id=CHAIN_ID, **listed)
    return entry(number, identity_key=identity.public_key().public_bytes_raw(), proof=proof, **listed)


def _long(data: bytes) -> dict[str, Any]:
    return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _keys() -> dict[str, str]:
    seed = secret(5)
    labels = {"forward": 32, "backward": 32, "report": 16, "answer": 16, "session": 32}
    expanded = {label: ntor.expand(seed, label, size) for label, size in labels.items()}
    forward = expanded["forward"]
    derived = {"forward_key": ("key", 16), "forward_salt": ("salt", 4), "forward_ratcheted": ("ratchet", 32)}
    expanded |= {name: ntor.expand(forward, label, size) for name, (label, size) in derived.items()}
    return {"seed": seed.hex()} | {name: value.hex() for name, value in expanded.items()}


def _cells() -> dict[str, Any]:
    """A SMALL cell over three hops: as the client seals it, as each hop passes it on; first 64 and last 64 bytes of each body."""
    seeds = [secret(10 + hop) for hop in range(3)]
    client, relays = ([HopKeys(seed) for seed in seeds] for _ in range(2))
    cell = memoryview(bytearray(SMALL.cell))
    put_message(cell[HEADER : HEADER + SMALL.plain(3)], RelayCommand.DATA, b"veilpod", flags=1, stream_id=3)
    client_seal(client, cell[HEADER:], SMALL)
    bodies = [_ends(cell[HEADER:])]
    masked = memoryview(bytearray(cell))
    put_header(masked, Header(circ_id=0x80000001, command=Command.RELAY, cell_class=CellClass.SMALL))
    HeaderMask(secret(20)[:16]).apply(masked)
    for position, keys in enumerate(relays, 1):
        relay_open(keys, cell[HEADER:], position, SMALL, Command.RELAY, fill)
        bodies.append(_ends(cell[HEADER:]))
    return {
        "seeds": [seed.hex() for seed in seeds],
        "header_key": secret(20)[:16].hex(),
        "masked_header": bytes(masked[:HEADER]).hex(),
        "bodies": bodies,
    }


def _end_to_end() -> dict[str, str]:
    area = memoryview(bytearray(SMALL.plain(3)))
    keys = HopKeys(secret(30))
    numbers = Numbers(number=3, newest=2, arrived=1)
    put_end_to_end(keys.forward, area, SMALL, numbers, RelayCommand.BEGIN, b"input", flags=0, stream_id=1)
    link = pack_link(keys.session_id, key=keys.leg_key, leg=HopKeys(secret(31)).session_id)
    return {
        "seed": secret(30).hex(),
        "session_id": keys.session_id.hex(),
        "message": _ends(area),
        "leg_seed": secret(31).hex(),
        "link": link.hex(),
    }


def _places() -> dict[str, Any]:
    cookie, service_key = secret(32)[:20], secret(33)
    found = places([NodeId(number) for number in range(1, 9)], cookie=cookie, service_key=service_key)
    return {
        "cookie": cookie.hex(),
        "service_key": service_key.hex(),
        "relays": list(range(1, 9)),
        "places": [{"relay": int(place.relay), "cookie": place.cookie.hex()} for place in found],
    }


def _report() -> dict[str, Any]:
    hops = [HopKeys(secret(40 + hop)) for hop in range(3)]
    report = make_report(hops[2], 3, DestroyReason.TAMPERED, Side.PREVIOUS, fill)
    for position in (2, 1):
        report = wrap_report(hops[position - 1], position, report, fill)
    return {"seeds": [secret(40 + hop).hex() for hop in range(3)], "destroy": pack_destroy(DestroyReason.FINISHED, report).hex()}


def _link() -> dict[str, Any]:
    responder_identity, initiator_identity = (Ed25519PrivateKey.from_private_bytes(secret(number)) for number in (50, 51))
    public = responder_identity.public_key().public_bytes_raw()
    out: dict[str, Any] = {"responder_identity": secret(50).hex(), "initiator_identity": secret(51).hex()}
    for name, identity in (("anonymous", None), ("mutual", initiator_identity)):
        initiator = Initiator(ephemeral=x25519(52), expected=public, identity=identity, filler=fill(96))
        responder = Responder(ephemeral=x25519(53), identity=responder_identity)
        reply = responder.reply(initiator.hello)
        third, sending, _ = initiator.finish(reply)
        cell = memoryview(bytearray(SMALL.cell))
        put_header(cell, Header(circ_id=0x80000001, command=Command.PADDING, cell_class=CellClass.SMALL))
        sending.seal(cell)
        sending.mask.apply(cell)
        out[name] = {"hello": initiator.hello.hex(), "reply": reply.hex(), "final": third.hex(), "first_padding_cell": _ends(cell)}
    return out


def _ends(data: memoryview) -> str:
    return bytes(data[:64]).hex() + "…" + bytes(data[-64:]).hex()


if __name__ == "__main__":
    PATH.write_text(json.dumps(vectors(), indent=1, ensure_ascii=False) + "\n")
