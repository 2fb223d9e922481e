"""The ABI's codec: eth_abi's, that of web3. Loaded when first used: it takes a fifth of a second, and most commands speak to no chain."""

from collections.abc import Sequence
from typing import Any


class Undecodable(Exception):
    """Bytes that are not of these types."""


def encode(types: Sequence[str], values: Sequence[Any]) -> bytes:
    """Encode values of these types."""
    import eth_abi.abi

    return eth_abi.abi.encode(types, values)


def decode(types: Sequence[str], data: bytes) -> tuple[Any, ...]:
    """Decode values of these types. Raises Undecodable."""
    import eth_abi.abi
    from eth_abi.exceptions import DecodingError

    try:
        return eth_abi.abi.decode(types, data)
    except (DecodingError, OverflowError, ValueError) as error:
        raise Undecodable(str(error)) from error
