// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

/// @title One lock for every function that moves money.
/// @dev Transient storage: the lock costs 200 gas and cannot survive its transaction, so a contract can never be left locked.
abstract contract Lock {
    error DoNotReenter();

    bool private transient locked;

    modifier lock() {
        if (locked) revert DoNotReenter();
        locked = true;
        _;
        locked = false;
    }
}
