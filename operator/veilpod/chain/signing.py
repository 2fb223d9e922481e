"""Signing a transaction (EIP-1559) with eth_account, the signer of web3. Pure but for the import, which is as slow as web3's."""

from veilpod.chain.fees import Fees
from veilpod.core.keys import SigningKey


def sign_transaction(
    key: SigningKey, *, chain_id: int, nonce: int, to: str | None, value: int, data: str, gas: int, bid: Fees
) -> tuple[str, str]:
    """Sign a call, or a deployment when `to` is None. (hash, raw transaction), both 0x hex."""
    from eth_account import Account  # loaded already by who connected

    fields = {
        "type": 2,
        "chainId": chain_id,
        "nonce": nonce,
        "value": value,
        "data": data,
        "gas": gas,
        "maxFeePerGas": bid.max_fee,
        "maxPriorityFeePerGas": bid.priority_fee,
    }
    signed = Account.sign_transaction(fields | ({} if to is None else {"to": to}), key.secret)
    return "0x" + bytes(signed.hash).hex(), "0x" + bytes(signed.raw_transaction).hex()
