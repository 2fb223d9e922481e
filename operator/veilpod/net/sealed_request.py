"""Sealed requests: questions to a store or mailbox that only it can read, and answers that only the asker can read.

    request   u32 length | HPKE X25519 to the node's onion key (32 random bytes: response key || canonical {"op", …})
    answer    u32 length | 12-byte nonce || AES-256-GCM under the response key (canonical {"ok"} or {"error"})

The relay that exits to the node's endpoint sees lengths and nothing else. Requests are anonymous: what an operation needs to know about
its caller is in its arguments, as signatures. Many requests may follow each other on one stream, one at a time.
"""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from veilpod.core.canonical import canonical, parse_canonical
from veilpod.core.sealing import open_classic, seal_classic
from veilpod.errors import PeerUnavailable, ProtocolViolation, Refused, Terminal, Transient
from veilpod.net.framing import frame, read_frame
from veilpod.ports import Stream

RequestHandler = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]

FRAME_LIMIT = 2 << 20
REQUEST_TAG = "veilpod.request.v1"
_RESPONSE_AAD = b"veilpod.response.v1"
_KEY_BYTES = 32
_NONCE_BYTES = 12

log = logging.getLogger(__name__)


async def request(stream: Stream, node_onion_key: bytes, op: str, *, timeout: float = 30.0, **args: Any) -> dict[str, Any]:
    """Ask and wait for the answer. Raises Refused with the node's code, PeerUnavailable, CircuitFailed or ProtocolViolation.

    After any of these but Refused the stream's state is unknown: open another one.
    """
    response_key = secrets.token_bytes(_KEY_BYTES)
    plaintext = response_key + canonical({"op": op, **args})
    sealed = seal_classic(node_onion_key, plaintext, tag=REQUEST_TAG, context=b"")
    try:
        async with asyncio.timeout(timeout):
            await stream.write(frame(sealed, limit=FRAME_LIMIT))
            answer = await read_frame(stream, limit=FRAME_LIMIT, party="node")
    except TimeoutError as error:
        raise PeerUnavailable(f"no answer to {op} in {timeout:.0f} s") from error
    except EOFError as error:
        raise PeerUnavailable(f"the stream ended before the answer to {op}") from error
    return _opened_answer(answer, response_key)


async def serve(stream: Stream, private_key: X25519PrivateKey, handler: RequestHandler, *, idle_timeout: float = 120.0) -> None:
    """Answer requests until the stream ends, idles or carries something that is no request. The caller owns and closes the stream."""
    while True:
        try:
            async with asyncio.timeout(idle_timeout):
                sealed = await read_frame(stream, limit=FRAME_LIMIT, party="client")
        except (EOFError, TimeoutError):
            return
        response_key, message = _opened_request(sealed, private_key)
        answer = await _answer(handler, message)
        nonce = secrets.token_bytes(_NONCE_BYTES)
        body = nonce + AESGCM(response_key).encrypt(nonce, answer, _RESPONSE_AAD)
        async with asyncio.timeout(idle_timeout):
            await stream.write(frame(body, limit=FRAME_LIMIT))


async def _answer(handler: RequestHandler, message: dict[str, Any]) -> bytes:
    op = message.pop("op", None)
    try:
        if not isinstance(op, str):
            raise ProtocolViolation("BadRequest", "a request names its operation", party="client")
        answer = canonical({"ok": await handler(op, message)})
        if len(answer) > FRAME_LIMIT - _NONCE_BYTES - 16:
            raise Refused("AnswerTooLarge", "ask for a smaller piece")
    except Terminal as error:
        return _failure(error.reason, str(error))
    except (Transient, TimeoutError) as error:
        return _failure("Unavailable", str(error) or "timed out")
    except Exception as error:  # noqa: BLE001 - a defect of ours answers one request with an error and no detail
        log.error("request.defect", extra={"error": type(error).__name__})
        return _failure("Internal", "the request failed for a reason that is our defect")
    return answer


def _failure(code: str, message: str) -> bytes:
    return canonical({"error": {"code": code, "message": message[:1000]}})


def _opened_request(sealed: bytes, private_key: X25519PrivateKey) -> tuple[bytes, dict[str, Any]]:
    plaintext = open_classic(private_key, sealed, tag=REQUEST_TAG, context=b"")
    message = parse_canonical(plaintext[_KEY_BYTES:])
    if not isinstance(message, dict):
        raise ProtocolViolation("BadRequest", "a request is an object", party="client")
    return plaintext[:_KEY_BYTES], message


def _opened_answer(answer: bytes, response_key: bytes) -> dict[str, Any]:
    try:
        plaintext = AESGCM(response_key).decrypt(answer[:_NONCE_BYTES], answer[_NONCE_BYTES:], _RESPONSE_AAD)
    except (InvalidTag, ValueError) as error:
        raise ProtocolViolation("BadAnswer", "the answer was not sealed to this request", party="node") from error
    message = parse_canonical(plaintext)
    if isinstance(message, dict) and isinstance(message.get("ok"), dict):
        ok: dict[str, Any] = message["ok"]
        return ok
    failure = message.get("error") if isinstance(message, dict) else None
    if not isinstance(failure, dict) or not isinstance(failure.get("code"), str):
        raise ProtocolViolation("BadAnswer", "an answer is ok or error", party="node")
    if failure["code"] == "Unavailable":
        raise PeerUnavailable(str(failure.get("message", "")))
    raise Refused(failure["code"], str(failure.get("message", "")))
