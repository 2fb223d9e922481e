"""Key files of people: 32 bytes in hex for a chain key, 96 bytes in hex for a result key. Made once, readable by their owner only.

What is shown is public: an address, a recipient. A private key is never printed.
"""

import dataclasses
import os
import pathlib
import secrets

from veilpod.core.keys import SigningKey, custody_key, signing_key
from veilpod.core.sealing import HybridPrivateKey, recipient_text
from veilpod.errors import InvalidInput

_RESULT_BYTES = 96


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PublicParts:
    """What may be told about a key file. Empty fields do not apply."""

    kind: str
    address: str = ""  # of a chain key
    custody: str = ""  # of a chain key: what data sets are sealed to when its holder has custody
    recipient: str = ""  # of a result key


def make(kind: str, path: pathlib.Path) -> PublicParts:
    """Make a new key file, never over an old one. Raises InvalidInput("KeyExists")."""
    # A random 32-byte string is a valid secp256k1 key but for a chance of 2^-128, and then reading it back says so.
    text = secrets.token_hex(32) if kind == "chain" else HybridPrivateKey.generate().to_bytes().hex()
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise InvalidInput("KeyExists", f"{path} exists and is left as it is: name another file") from error
    except OSError as error:
        raise InvalidInput("CannotWrite", f"cannot write {path}: {error.strerror}") from error
    with open(descriptor, "w") as file:
        file.write(text + "\n")
    return show(path)


def show(path: pathlib.Path) -> PublicParts:
    """Read the public parts of either kind of key file. Raises InvalidInput."""
    if len(_text(path).removeprefix("0x")) == 2 * _RESULT_BYTES:
        return PublicParts(kind="result", recipient=recipient_text(result_key(path).public_bytes))
    key = chain_key(path)
    return PublicParts(kind="chain", address=key.address, custody=recipient_text(custody_key(key).public_bytes))


def chain_key(path: pathlib.Path) -> SigningKey:
    """Load a chain key. Raises InvalidInput."""
    return signing_key(_text(path))


def result_key(path: pathlib.Path) -> HybridPrivateKey:
    """Load a result key. Raises InvalidInput("InvalidKey")."""
    try:
        return HybridPrivateKey.from_bytes(bytes.fromhex(_text(path).removeprefix("0x")))
    except ValueError as error:
        raise InvalidInput("InvalidKey", f"{path} is no result key: make one with `veilpod keys new result FILE`") from error


def _text(path: pathlib.Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput("NoKey", f"cannot read the key file {path}: {getattr(error, 'strerror', None) or 'not text'}") from error
