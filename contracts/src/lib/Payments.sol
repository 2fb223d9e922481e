// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

/// @title Moving ETH (asset zero) and ERC-20 tokens in and out.
/// @dev Caveats:
/// - A payment out never reverts because of the payee; the caller keeps a credit instead. It does revert when the caller of the
///   transaction left too little gas: otherwise anybody could starve the payee's call (63/64 rule) and turn it into a credit.
/// - A token that takes a fee on transfer, or has no code, is refused on the way in. A token that rebases, or that can be told to
///   lie about balances, breaks the books of channels in that token and of no others.
library Payments {
    error SendValue(uint256 expected);
    error UseTokenContract(address token);
    error UseTokenWithoutFee(address token);
    error ApproveToken(address token, address from, uint256 amount);
    error RaiseGasLimit();

    address internal constant ETH = address(0);

    /// What a payee may burn while it is paid: enough for a smart account's receive hook, too little to stop a payout to many.
    uint256 private constant ETH_GAS = 50_000;
    uint256 private constant TOKEN_GAS = 200_000;
    /// The dearest CALL itself (cold, with value, to a new account), which the EVM deducts before it applies the 63/64 rule.
    uint256 private constant CALL_GAS = 40_000;

    function pullToken(address token, address from, uint256 amount) internal {
        if (amount == 0) return;

        uint256 before = _balance(token);
        if (!_transferFrom(token, from, amount)) revert ApproveToken(token, from, amount);
        unchecked {
            if (_balance(token) - before != amount) revert UseTokenWithoutFee(token);
        }
    }

    /// @return ok false when the payee or the token refused.
    function tryPush(address asset, address to, uint256 amount) internal returns (bool ok) {
        uint256 cap = asset == ETH ? ETH_GAS : TOKEN_GAS;
        if (gasleft() < cap + cap / 63 + CALL_GAS) revert RaiseGasLimit();

        return asset == ETH ? _send(to, amount, cap) : _transfer(asset, to, amount, cap);
    }

    /// @dev For a withdrawal by the payee itself: all the gas it brought.
    function tryPushAll(address asset, address to, uint256 amount) internal returns (bool ok) {
        return asset == ETH ? _send(to, amount, gasleft()) : _transfer(asset, to, amount, gasleft());
    }

    /// @dev What this contract has. An account without code answers nothing.
    function _balance(address token) private view returns (uint256 amount) {
        bool ok;
        assembly ("memory-safe") {
            mstore(0x00, shl(224, 0x70a08231)) // balanceOf(address)
            mstore(0x04, address())
            ok := staticcall(gas(), token, 0x00, 0x24, 0x00, 0x20)
            ok := and(ok, gt(returndatasize(), 0x1f))
            amount := mload(0x00)
        }
        if (!ok) revert UseTokenContract(token);
    }

    function _send(address to, uint256 amount, uint256 cap) private returns (bool ok) {
        assembly ("memory-safe") {
            // No answer is copied: a payee cannot make us pay for a huge one.
            ok := call(cap, to, amount, 0, 0, 0, 0)
        }
    }

    function _transfer(address token, address to, uint256 amount, uint256 cap) private returns (bool ok) {
        assembly ("memory-safe") {
            let pointer := mload(0x40)
            mstore(pointer, shl(224, 0xa9059cbb)) // transfer(address,uint256)
            mstore(add(pointer, 0x04), to)
            mstore(add(pointer, 0x24), amount)
            ok := call(cap, token, 0, pointer, 0x44, 0x00, 0x20)
            ok := and(ok, or(iszero(returndatasize()), and(gt(returndatasize(), 0x1f), eq(mload(0x00), 1))))
        }
    }

    function _transferFrom(address token, address from, uint256 amount) private returns (bool ok) {
        assembly ("memory-safe") {
            let pointer := mload(0x40)
            mstore(pointer, shl(224, 0x23b872dd)) // transferFrom(address,address,uint256)
            mstore(add(pointer, 0x04), from)
            mstore(add(pointer, 0x24), address())
            mstore(add(pointer, 0x44), amount)
            ok := call(gas(), token, 0, pointer, 0x64, 0x00, 0x20)
            ok := and(ok, or(iszero(returndatasize()), and(gt(returndatasize(), 0x1f), eq(mload(0x00), 1))))
        }
    }
}
