// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

/// @dev A channel: phase:8 | epoch:16 | sequence:40 | deadline:32 | balanceA:80 | balanceB:80, from the highest bit to the lowest.
/// The phase needs three of its eight bits; the two highest remember who acted and whether a penalty is due.
type Word is uint256;

using Words for Word global;

/// @title Reading and writing a channel's one word.
library Words {
    /// The first eight bits, as they are in the word. Bit 7 (Opening: b opened; Disputed: b challenged) and bit 6 (Disputed: the
    /// challenger was beaten by two or more sequence numbers) ride beside the phase.
    uint256 private constant BY_B = 1 << 255;
    uint256 internal constant PENALTY = 1 << 254;
    uint256 internal constant OPENING = 1 << 248;
    uint256 internal constant OPENING_BY_B = OPENING | BY_B;
    uint256 internal constant OPEN = 2 << 248;
    uint256 internal constant DISPUTED = 3 << 248;
    uint256 internal constant DISPUTED_BY_B = DISPUTED | BY_B;
    uint256 internal constant CLOSED = 4 << 248;

    /// IChannelManager.Phase as numbers: comparing enums would pay for a range check that can never fail.
    uint8 internal constant P_OPENING = 1;
    uint8 internal constant P_OPEN = 2;
    uint8 internal constant P_DISPUTED = 3;

    /// @dev The caller has checked that every part fits its place.
    function encode(uint256 first_, uint256 version_, uint256 deadline_, uint256 balanceA_, uint256 balanceB_)
        internal
        pure
        returns (Word)
    {
        return Word.wrap(first_ | (version_ << 192) | (deadline_ << 160) | (balanceA_ << 80) | balanceB_);
    }

    /// @return the word with other first eight bits and all else as it was.
    function to(Word w, uint256 first_) internal pure returns (Word) {
        return Word.wrap(first_ | (Word.unwrap(w) & ((1 << 248) - 1)));
    }

    function phase(Word w) internal pure returns (uint8) {
        return uint8(Word.unwrap(w) >> 248) & 7;
    }

    /// @return whether there is a session: Opening, Open or Disputed (1 to 3), not None or Closed (0, 4).
    function live(Word w) internal pure returns (bool) {
        return phase(w) & 3 != 0;
    }

    function first(Word w) internal pure returns (uint256) {
        return Word.unwrap(w) & (255 << 248);
    }

    function byB(Word w) internal pure returns (bool) {
        return Word.unwrap(w) & BY_B != 0;
    }

    function penalty(Word w) internal pure returns (bool) {
        return Word.unwrap(w) & PENALTY != 0;
    }

    /// epoch:16 | sequence:40
    function version(Word w) internal pure returns (uint256) {
        return uint56(Word.unwrap(w) >> 192);
    }

    function epoch(Word w) internal pure returns (uint256) {
        return uint16(Word.unwrap(w) >> 232);
    }

    function deadline(Word w) internal pure returns (uint256) {
        return uint32(Word.unwrap(w) >> 160);
    }

    function balanceA(Word w) internal pure returns (uint256) {
        return uint80(Word.unwrap(w) >> 80);
    }

    function balanceB(Word w) internal pure returns (uint256) {
        return uint80(Word.unwrap(w));
    }

    function total(Word w) internal pure returns (uint256) {
        unchecked {
            return balanceA(w) + balanceB(w);
        }
    }
}
