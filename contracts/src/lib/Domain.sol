// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

/// @title EIP-712 domain: name "Veilpod", version "1", this chain, this contract.
/// @dev Binding both the chain and the contract keeps a signature from being replayed on a fork or on a second deployment.
abstract contract Domain {
    bytes32 private constant DOMAIN_TYPEHASH =
        keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)");

    uint256 private immutable homeChain;
    bytes32 private immutable homeSeparator;

    constructor() {
        homeChain = block.chainid;
        homeSeparator = _separator();
    }

    /// @notice The domain separator on the chain this call runs on.
    function domainSeparator() public view returns (bytes32) {
        // After a chain split the id changes under a deployed contract: the cached value would bind the wrong chain.
        return block.chainid == homeChain ? homeSeparator : _separator();
    }

    function _digest(bytes32 structHash) internal view returns (bytes32 digest) {
        bytes32 separator = domainSeparator();
        assembly ("memory-safe") {
            // 0x1901 || separator || structHash, 66 bytes, over the scratch space and two bytes of the free memory pointer's
            // leading zeros; the pointer's word is restored below.
            let pointer := mload(0x40)
            mstore(0x00, hex"1901")
            mstore(0x02, separator)
            mstore(0x22, structHash)
            digest := keccak256(0x00, 0x42)
            mstore(0x40, pointer)
        }
    }

    function _separator() private view returns (bytes32) {
        return
            keccak256(abi.encode(DOMAIN_TYPEHASH, keccak256("Veilpod"), keccak256("1"), block.chainid, address(this)));
    }
}
