"""A relay's identity key where its owner keeps it: entries of a Secret, one for each replica, as OpenSSL writes an Ed25519 key.

The relay reads its own entry from a file; its operator never sees the Secret. A relay without a usable entry ends, and its exit code is
all that its operator learns of the reason: no path, no key and no text leaves the pod.
"""

from collections.abc import Mapping
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from veilpod.errors import InvalidInput

MISSING, MALFORMED, SHARED = "IdentityMissing", "IdentityMalformed", "IdentityShared"
EXIT_CODES = {MISSING: 66, MALFORMED: 65}  # EX_NOINPUT and EX_DATAERR of sysexits.h
REPLICAS = 16  # as many entries as an OnionRelay can have replicas
MAX_BYTES = 4096


def entry(ordinal: int) -> str:
    """The Secret's entry for the replica with this ordinal. No other entry ever gets into a pod."""
    return f"identity-{ordinal}"


def parse(pem: bytes) -> Ed25519PrivateKey:
    """Read an entry: PEM, PKCS#8, Ed25519, without a password. Raises InvalidInput("IdentityMalformed"), which tells nothing of it."""
    key: Any = None
    if len(pem) <= MAX_BYTES:
        try:
            key = serialization.load_pem_private_key(pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            key = None  # the error's text may quote what was read
    if not isinstance(key, Ed25519PrivateKey):
        raise InvalidInput(MALFORMED, "a relay's identity is an Ed25519 key in PEM; make a Secret with `veilpod relay-identity NAME`")
    return key


def spell(key: Ed25519PrivateKey) -> str:
    """Write an entry."""
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()


def runs(pod: Mapping[str, Any]) -> bool:
    """Whether a pod's relay runs just now, as far as its node has said."""
    return any("running" in container.get("state", {}) for container in pod.get("status", {}).get("containerStatuses", ()))


def refusal(pod: Mapping[str, Any]) -> str | None:
    """Why a pod's relay ended when it last did, if that was its identity: MISSING or MALFORMED."""
    for container in pod.get("status", {}).get("containerStatuses", ()):
        ends = [container.get(name, {}).get("terminated") for name in ("state", "lastState")]
        last: Mapping[str, Any] = next((end for end in ends if end), {})
        for reason, code in EXIT_CODES.items():
            if last.get("exitCode") == code:
                return reason
    return None
