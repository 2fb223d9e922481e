"""The golden vectors, made again from docs/protocol/onion.md alone: nothing of veilpod is imported here but the file of vectors."""

import hashlib
import hmac
import json
import pathlib
import struct

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

VECTORS = json.loads((pathlib.Path(__file__).parents[3] / "vectors" / "onion.json").read_text())
PROTOID = b"veilpod-ntor-x25519-mlkem768-sha256-1"
BODY = 4080


def mac(key, data):
    return hmac.digest(key, data, "sha256")


def hkdf_expand(secret, info, size):
    out, block = b"", b""
    for number in range(1, 3):
        block = mac(secret, block + info + bytes((number,)))
        out += block
    return out[:size]


def hkdf(ikm, salt, info, size):
    return hkdf_expand(mac(salt or bytes(32), ikm), info, size)


def expand(secret, label, size):
    return hkdf_expand(secret, PROTOID + b":" + label, size)


def private(text):
    return X25519PrivateKey.from_private_bytes(bytes.fromhex(text))


def exchange(key, public):
    return key.exchange(X25519PublicKey.from_public_bytes(public))


def ends(data):
    return data[:64].hex() + "…" + data[-64:].hex()


def fill(size):
    return bytes(index % 256 for index in range(size))


def u16(data):
    return struct.pack(">H", len(data)) + data


def onionskin(identity, public_b, x, mlkem):
    return identity + public_b + x.public_key().public_bytes_raw() + mlkem.public_key().public_bytes_raw()


def onward_key(exchanged, skin, context):
    return expand(mac(PROTOID + b":onward_extract", exchanged + skin + PROTOID + context), b"onward", 16)


def test_section_5_joining():
    v = VECTORS["ntor"]
    x, y, b = private(v["client_x25519"]), private(v["server_ephemeral"]), private(v["server_static"])
    mlkem = MLKEM768PrivateKey.from_seed_bytes(bytes.fromhex(v["client_mlkem_seed"]))
    identity, ciphertext, encapsulated = (bytes.fromhex(v[name]) for name in ("identity", "ciphertext", "encapsulated"))
    assert mlkem.decapsulate(ciphertext) == encapsulated
    public_y, public_b = (key.public_key().public_bytes_raw() for key in (y, b))
    skin = onionskin(identity, public_b, x, mlkem)
    context = struct.pack(">BBBBI", 1, 2, 1, 1, 7)
    create = context + u16(skin) + u16(b"")
    assert v["create"] == create.hex()
    assert v["extend"] == (struct.pack(">I", 9) + identity + create).hex()
    shared = exchange(x, public_y) + exchange(x, public_b) + encapsulated
    secret_input = shared + skin + public_y + ciphertext + PROTOID + context
    verify = mac(PROTOID + b":verify", secret_input)
    said = verify + identity + public_b + public_y + ciphertext + skin[64:] + PROTOID + context + b"Server"
    assert v["created"] == (u16(public_y + ciphertext + mac(PROTOID + b":mac", said)) + u16(b"")).hex()
    assert v["seed"] == mac(PROTOID + b":key_extract", secret_input).hex()
    assert v["onward_key"] == onward_key(exchange(x, public_b), skin, context).hex()


def test_section_5_three_hops_by_one_create():
    v = VECTORS["one_shot"]
    create = extend = b""
    for number in (3, 2, 1):
        identity = Ed25519PrivateKey.from_private_bytes(bytes((80 + number,)) * 32).public_key().public_bytes_raw()
        public_b = private(f"{90 + number:02x}" * 32).public_key().public_bytes_raw()
        x = private(f"{60 + number:02x}" * 32)
        skin = onionskin(identity, public_b, x, MLKEM768PrivateKey.from_seed_bytes(bytes((60 + number,)) * 64))
        context = struct.pack(">BBBBI", 1, 2, 1, number, 7)
        onward = b""
        if create:
            onward = AESGCM(onward_key(exchange(x, public_b), skin, context)).encrypt(bytes(12), extend, b"veilpod-onward-create-1")
        create = context + u16(skin) + u16(onward)
        extend = struct.pack(">I", number) + identity + create
    assert v["create"] == {"size": len(create), "sha256": hashlib.sha256(create).hexdigest()}
    assert len(create) <= BODY - 16
    answer = b"third"
    for number in (2, 1):
        key = expand(bytes((70 + number,)) * 32, b"answer", 16)
        answer = u16(bytes((number,)) * 1152) + u16(AESGCM(key).encrypt(bytes(12), answer, b"veilpod-onward-created-1"))
    assert v["created"] == {"size": len(answer), "sha256": hashlib.sha256(answer).hexdigest()}


def test_section_4_keys():
    v = VECTORS["keys"]
    seed = bytes.fromhex(v["seed"])
    for label, size in (("forward", 32), ("backward", 32), ("report", 16), ("answer", 16), ("session", 32)):
        assert v[label] == expand(seed, label.encode(), size).hex()
    secret = bytes.fromhex(v["forward"])
    assert v["forward_key"] == expand(secret, b"key", 16).hex()
    assert v["forward_salt"] == expand(secret, b"salt", 4).hex()
    assert v["forward_ratcheted"] == expand(secret, b"ratchet", 32).hex()


def sealed(seed, direction, counter, plain, *, command=3, cell_class=1):
    secret = expand(seed, (b"forward", b"backward")[direction], 32)
    nonce = expand(secret, b"salt", 4) + struct.pack(">Q", counter)
    return AESGCM(expand(secret, b"key", 16)).encrypt(nonce, plain, bytes((command, 0, cell_class, direction)))


def message(command, flags, stream_id, data, size):
    return (struct.pack(">BBHI", command, flags, stream_id, len(data)) + data).ljust(size, b"\0")


def test_sections_3_and_4_a_cell_on_its_way():
    v = VECTORS["cells"]
    seeds = [bytes.fromhex(seed) for seed in v["seeds"]]
    plain = message(3, 1, 3, b"veilpod", BODY - 48)
    third = sealed(seeds[2], 0, 0, plain)
    second = sealed(seeds[1], 0, 0, third)
    first = sealed(seeds[0], 0, 0, second)
    links = [first, second + fill(16), third + fill(32), plain + fill(48)]
    assert [len(link) for link in links] == [BODY] * 4
    assert v["bodies"] == [ends(link) for link in links]
    header = struct.pack(">IBB10x", 0x80000001, 3, 0x11)
    mask = Cipher(algorithms.AES(bytes.fromhex(v["header_key"])), modes.ECB()).encryptor().update(first[:16])
    assert v["masked_header"] == bytes(a ^ b for a, b in zip(header, mask, strict=True)).hex()


def test_section_8_a_session_message():
    v = VECTORS["end_to_end"]
    seed = bytes.fromhex(v["seed"])
    assert v["session_id"] == expand(seed, b"session", 32).hex()
    inner = sealed(seed, 0, 0, struct.pack(">III", 3, 2, 1) + message(1, 0, 1, b"input", BODY - 164))
    assert len(inner) == BODY - 136
    assert v["message"] == ends(message(21, 0, 0, inner, BODY - 48))


def test_section_8_a_leg_joins_its_session():
    v = VECTORS["end_to_end"]
    session, leg = bytes.fromhex(v["session_id"]), expand(bytes.fromhex(v["leg_seed"]), b"session", 32)
    key = expand(bytes.fromhex(v["seed"]), b"leg", 32)
    assert v["link"] == (session + hmac.digest(key, b"veilpod-leg-1" + session + leg, "sha256")).hex()


def test_section_8_places_to_meet_again():
    v = VECTORS["places"]
    key = hmac.digest(bytes.fromhex(v["cookie"]), b"veilpod-places-1" + bytes.fromhex(v["service_key"]), "sha256")
    order = sorted(v["relays"], key=lambda relay: hmac.digest(key, b"relay" + relay.to_bytes(4, "big"), "sha256"))
    cookies = [hmac.digest(key, b"cookie" + relay.to_bytes(4, "big"), "sha256")[:20].hex() for relay in order]
    assert v["places"] == [{"relay": relay, "cookie": cookie} for relay, cookie in zip(order, cookies, strict=True)][:3]


def test_section_9_a_report():
    v = VECTORS["report"]
    report = bytes(16) + bytes((2, 1))
    for position, seed in reversed(list(enumerate(map(bytes.fromhex, v["seeds"]), 1))):
        plain = report[: 256 - 16 * position].ljust(256 - 16 * position, b"\0")
        report = AESGCM(expand(seed, b"report", 16)).encrypt(bytes(12), plain, b"veilpod-report-1")
        report += fill(256 - len(report))
    assert v["destroy"] == (bytes((0, 1)) + report).hex()


def test_section_2_the_link():
    v = VECTORS["link"]
    responder, initiator = (
        Ed25519PrivateKey.from_private_bytes(bytes.fromhex(v[f"{side}_identity"])) for side in ("responder", "initiator")
    )
    e_i, e_r = private("34" * 32), private("35" * 32)  # bytes of 52 and 53
    hello, public_r = b"VEILPOD1" + e_i.public_key().public_bytes_raw(), e_r.public_key().public_bytes_raw()
    transcript = hashlib.sha256(hello + public_r).digest()
    secret = hkdf(exchange(e_i, public_r), transcript, b"veilpod.link.v1 secret", 32)

    def proof(key, role):
        signed = b" " * 64 + b"veilpod.link.v1 " + role + b"\0" + transcript
        return key.public_key().public_bytes_raw() + key.sign(signed)

    def seal(role, plain):
        return AESGCM(hkdf(secret, b"", b"veilpod.link.v1 handshake " + role, 16)).encrypt(bytes(12), plain, transcript)

    keys = hkdf(secret, b"", b"veilpod.link.v1 traffic initiator", 36)
    header = struct.pack(">IBB10x", 0x80000001, 0, 0x11)
    body = AESGCM(keys[16:32]).encrypt(keys[32:] + bytes(8), bytes(4064), header)
    mask = Cipher(algorithms.AES(keys[:16]), modes.ECB()).encryptor().update(body[:16])
    cell = bytes(a ^ b for a, b in zip(header, mask, strict=True)) + body
    for name, final in (("anonymous", b"\0" + fill(96)), ("mutual", b"\1" + proof(initiator, b"initiator"))):
        assert v[name] == {
            "hello": hello.hex(),
            "reply": (public_r + seal(b"responder", proof(responder, b"responder"))).hex(),
            "final": seal(b"initiator", final).hex(),
            "first_padding_cell": ends(cell),
        }
