// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {IChannelManager} from "../interfaces/IChannelManager.sol";

/// @dev A channel: phase:8 | epoch:16 | sequence:40 | deadline:32 | balanceA:80 | balanceB:80, from the highest bit to the lowest.
/// The phase needs three of its eight bits; the two highest remember who acted and whether a penalty is due.
type Word is uint256;

using Words for Word global;

/// @title Reading and writing a channel's one word.
library Words {
    /// Opening: b opened. Disputed: b challenged.
    uint8 internal constant BY_B = 1 << 7;
    /// Disputed: the challenger was beaten by two or more sequence numbers.
    uint8 internal constant PENALTY = 1 << 6;
    uint8 private constant PHASE_MASK = 7;

    function encode(
        IChannelManager.Phase phase_,
        uint8 flags_,
        uint56 version_,
        uint32 deadline_,
        uint80 balanceA_,
        uint80 balanceB_
    ) internal pure returns (Word) {
        return Word.wrap(
            (uint256(uint8(phase_) | flags_) << 248) | (uint256(version_) << 192) | (uint256(deadline_) << 160)
                | (uint256(balanceA_) << 80) | balanceB_
        );
    }

    /// @dev Only `encode` writes words, so the range check of an enum conversion could never fail; it would be paid in every call.
    function phase(Word w) internal pure returns (IChannelManager.Phase phase_) {
        assembly ("memory-safe") {
            phase_ := and(shr(248, w), 7)
        }
    }

    function flags(Word w) internal pure returns (uint8) {
        return uint8(Word.unwrap(w) >> 248) & ~PHASE_MASK;
    }

    function byB(Word w) internal pure returns (bool) {
        return flags(w) & BY_B != 0;
    }

    /// epoch:16 | sequence:40
    function version(Word w) internal pure returns (uint56) {
        return uint56(Word.unwrap(w) >> 192);
    }

    function epoch(Word w) internal pure returns (uint16) {
        return uint16(Word.unwrap(w) >> 232);
    }

    function sequence(Word w) internal pure returns (uint40) {
        return uint40(Word.unwrap(w) >> 192);
    }

    function deadline(Word w) internal pure returns (uint32) {
        return uint32(Word.unwrap(w) >> 160);
    }

    function balanceA(Word w) internal pure returns (uint80) {
        return uint80(Word.unwrap(w) >> 80);
    }

    function balanceB(Word w) internal pure returns (uint80) {
        return uint80(Word.unwrap(w));
    }

    function total(Word w) internal pure returns (uint256) {
        return uint256(balanceA(w)) + balanceB(w);
    }
}
