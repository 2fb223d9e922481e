// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

/// @title Signatures of accounts (65 bytes r, s, v) and of contracts (ERC-1271).
/// @dev Caveats:
/// - ecrecover is tried first, so a delegated account (EIP-7702) signs with its own key as before.
/// - `s` must be in the lower half of the order. No caller may treat a signature as an identifier all the same.
/// - An ERC-1271 signer may change its mind between two calls. It can only hurt itself: it is asked when its consent is used.
library Signatures {
    uint256 internal constant LENGTH = 65;
    uint256 private constant HALF_ORDER = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0;
    bytes4 private constant MAGIC = 0x1626ba7e; // isValidSignature(bytes32,bytes)

    /// @return whether `signer` signed `digest`. Never reverts for a bad signature; the zero address signs nothing.
    function isValid(address signer, bytes32 digest, bytes calldata signature) internal view returns (bool) {
        if (signer == address(0)) return false;
        if (recover(digest, signature) == signer) return true;
        return signer.code.length != 0 && _isValidERC1271(signer, digest, signature);
    }

    /// @return signer the signing account, or zero for anything malformed.
    function recover(bytes32 digest, bytes calldata signature) internal view returns (address signer) {
        assembly ("memory-safe") {
            if eq(signature.length, 65) {
                // ecrecover's input: digest, v, r, s; r and s as they came.
                let pointer := mload(0x40)
                mstore(pointer, digest)
                mstore(add(pointer, 0x20), byte(0, calldataload(add(signature.offset, 0x40))))
                calldatacopy(add(pointer, 0x40), signature.offset, 0x40)
                if iszero(gt(mload(add(pointer, 0x60)), HALF_ORDER)) {
                    // It answers nothing, instead of a word, when there is no such signature.
                    mstore(0x00, 0)
                    pop(staticcall(gas(), 1, pointer, 0x80, 0x00, 0x20))
                    signer := mload(0x00)
                }
            }
        }
    }

    function _isValidERC1271(address signer, bytes32 digest, bytes calldata signature) private view returns (bool ok) {
        bytes memory question = abi.encodeWithSelector(MAGIC, digest, signature);
        bytes4 magic = MAGIC;
        assembly ("memory-safe") {
            // Only one word of the answer is copied: a signer cannot make the caller pay for a huge one.
            mstore(0x00, 0)
            ok := staticcall(gas(), signer, add(question, 0x20), mload(question), 0x00, 0x20)
            ok := and(ok, and(gt(returndatasize(), 0x1f), eq(mload(0x00), magic)))
        }
    }
}
