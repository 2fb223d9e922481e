"""EIP-712 digests of what a contract checks a signature over, and of watchtowers' receipts. One word per field: every type here is flat.

The domain is that of contracts/src/lib/Domain.sol: name "Veilpod", version "1", the chain and the contract. A channel update is the hot
path, so the digests are written out by hand; tests compare each with eth-account.
"""

import dataclasses
import functools
from collections.abc import Sequence

from veilpod.core.canonical import keccak256
from veilpod.core.ids import Address, ChannelId, TaskId

DOMAIN_TYPE = "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
STATE_TYPE = "State(bytes32 channelId,uint56 version,uint80 balanceA,uint80 balanceB,bytes32 dataHash)"
CLOSE_TYPE = "Close(bytes32 channelId,uint56 version,uint80 balanceA,uint80 balanceB,bytes32 dataHash)"
OPEN_TYPE = "Open(bytes32 channelId,uint16 epoch,uint80 depositA,uint80 depositB,uint256 deadline)"
SANDBOX_KEY_TYPE = "SandboxKey(bytes32 taskId,address key,bytes32 statementsHash)"
RESULT_TYPE = "Result(bytes32 taskId,bytes32 resultHash)"

GUARD_TYPE = "Guard(bytes32 channelId,uint56 version,bytes32 stateHash,uint64 until)"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """Which contract on which chain: a signature for one is worth nothing to another."""

    chain_id: int
    contract: Address

    @property
    def separator(self) -> bytes:
        """The EIP-712 domain separator. 32 bytes."""
        return _separator(self.chain_id, self.contract)


def state_digest(domain: Domain, channel: ChannelId, *, version: int, balance_a: int, balance_b: int, data_hash: bytes) -> bytes:
    """Digest a channel state. 32 bytes."""
    return _digest(domain, STATE_TYPE, channel, _uint(version, 56), _uint(balance_a, 80), _uint(balance_b, 80), data_hash)


def close_digest(domain: Domain, channel: ChannelId, *, version: int, balance_a: int, balance_b: int, data_hash: bytes) -> bytes:
    """Digest the consent to close at once with a state: never the digest of an ordinary state. 32 bytes."""
    return _digest(domain, CLOSE_TYPE, channel, _uint(version, 56), _uint(balance_a, 80), _uint(balance_b, 80), data_hash)


def open_digest(domain: Domain, channel: ChannelId, *, epoch: int, deposit_a: int, deposit_b: int, deadline: int) -> bytes:
    """Digest the consent to open a channel in one transaction. 32 bytes."""
    return _digest(domain, OPEN_TYPE, channel, _uint(epoch, 16), _uint(deposit_a, 80), _uint(deposit_b, 80), _uint(deadline, 256))


def sandbox_key_digest(domain: Domain, task: TaskId, *, key: Address, statements_hash: bytes) -> bytes:
    """Digest what each computing server signs for `publishKey`. 32 bytes."""
    return _digest(domain, SANDBOX_KEY_TYPE, task, _uint(int(key, 16), 160), statements_hash)


def result_digest(domain: Domain, task: TaskId, *, result_hash: bytes) -> bytes:
    """Digest what the task key signs for `complete`. 32 bytes."""
    return _digest(domain, RESULT_TYPE, task, result_hash)


def guard_digest(domain: Domain, channel: ChannelId, *, version: int, state_hash: bytes, until: int) -> bytes:
    """Digest what a watchtower signs: which state it holds, and until when (unix seconds). No contract checks it. 32 bytes."""
    return _digest(domain, GUARD_TYPE, channel, _uint(version, 56), state_hash, _uint(until, 64))


def statements_hash(digests: Sequence[bytes]) -> bytes:
    """keccak256(abi.encodePacked(digests)): the statement digests in the order of the servers. 32 bytes."""
    return keccak256(b"".join(digests))


def _digest(domain: Domain, type_string: str, *words: bytes) -> bytes:
    for word in words:
        if len(word) != 32:
            raise ValueError("every field is one word of 32 bytes")
    return keccak256(b"\x19\x01" + domain.separator + keccak256(_type_hash(type_string) + b"".join(words)))


@functools.lru_cache(maxsize=64)
def _separator(chain_id: int, contract: Address) -> bytes:
    name, version = keccak256(b"Veilpod"), keccak256(b"1")
    return keccak256(_type_hash(DOMAIN_TYPE) + name + version + _uint(chain_id, 256) + _uint(int(contract, 16), 160))


@functools.cache
def _type_hash(type_string: str) -> bytes:
    return keccak256(type_string.encode())


def _uint(value: int, bits: int) -> bytes:
    if not 0 <= value < 1 << bits:
        raise ValueError(f"not a uint{bits}")
    return value.to_bytes(32, "big")
