// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

/// @title One lock for everything that calls out: payments, and tokens that are pulled in.
/// @dev What calls nobody needs none. Transient storage: the lock costs 200 gas and cannot survive its transaction, so a contract can never be left locked.
abstract contract Lock {
    error DoNotReenter();

    uint256 private transient locked;

    modifier lock() {
        if (locked != 0) revert DoNotReenter();
        locked = 1;
        _;
        locked = 0;
    }
}
