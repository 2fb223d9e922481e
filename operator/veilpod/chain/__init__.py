"""Adapter: the EVM chain (ports.ChainReader and ports.ChainWriter). `connect` is the entrance; `deploy` makes a chain of one's own."""

from veilpod.chain.connection import Chain, connect
from veilpod.chain.contracts import Addresses

__all__ = ["Addresses", "Chain", "connect"]
