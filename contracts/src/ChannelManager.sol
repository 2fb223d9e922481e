// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {IChannelManager} from "./interfaces/IChannelManager.sol";
import {Domain} from "./lib/Domain.sol";
import {Lock} from "./lib/Lock.sol";
import {Payments} from "./lib/Payments.sol";
import {Signatures} from "./lib/Signatures.sol";
import {Word, Words} from "./lib/Words.sol";

/// @title Two-party payment channels, one word each.
/// @notice Immutable, without owner, proxy or pause: nobody but the two parties decides about their money.
/// @dev Caveats:
/// - Every state you sign may be the final one. Write it to disk before the signature leaves you; have at most one proposal in
///   flight; refuse a proposal whose sequence is not the successor of the last.
/// - After you sign a Close, sign no newer State: the Close stays good until the epoch ends or a dispute records a newer state.
/// - A party, or a watchtower with both signatures, must look at the chain once per challenge period.
/// - The penalty moves at most what the challenger still has. A challenger who concedes step by step avoids it; it has then
///   conceded the money.
/// - A payout that the payee (or the token) refuses becomes a credit. It never blocks the other party.
contract ChannelManager is IChannelManager, Domain, Lock {
    /*//////////////////////////////////////////////////////////////
                                 ERRORS
    //////////////////////////////////////////////////////////////*/

    error OrderPartiesAscending();
    error ChooseChallengePeriod(uint256 min, uint256 max);
    error ChoosePenaltyUpTo(uint256 maxBps);
    error LowerDeposits(uint256 maxTotal);
    error ChooseNewLane();
    error CallAsParty();
    error CallAsPeer(address peer);
    error CallAsOpener(address opener);
    error CloseChannelFirst(uint8 phase);
    error OpenChannelFirst(uint8 phase);
    error ChallengeFirst(uint8 phase);
    error RespondInstead();
    error FinalizeInstead(uint256 deadline);
    error WaitUntilAfter(uint256 deadline);
    error UseEpoch(uint16 epoch);
    error UseNewerState(uint40 thanSequence);
    error UseDepositsAtSequenceZero();
    error KeepTotal(uint256 total);
    error GetSignatureOf(address party);
    error GetNewSignature(uint256 expiredAt);
    error TopUpCredit(address account, uint256 needed);
    error NothingToWithdraw();
    error AcceptPayment();

    /*//////////////////////////////////////////////////////////////
                                CONSTANTS
    //////////////////////////////////////////////////////////////*/

    bytes32 private constant STATE_TYPEHASH =
        keccak256("State(bytes32 channelId,uint56 version,uint80 balanceA,uint80 balanceB,bytes32 dataHash)");
    /// A type of its own: an ordinary state can never be used to close at once.
    bytes32 private constant CLOSE_TYPEHASH =
        keccak256("Close(bytes32 channelId,uint56 version,uint80 balanceA,uint80 balanceB,bytes32 dataHash)");
    bytes32 private constant OPEN_TYPEHASH =
        keccak256("Open(bytes32 channelId,uint16 epoch,uint80 depositA,uint80 depositB,uint256 deadline)");

    uint256 private constant MIN_CHALLENGE_PERIOD = 60 seconds;
    uint256 private constant MAX_CHALLENGE_PERIOD = 30 days;
    uint256 private constant BPS = 10_000;
    /// With one proposal in flight an honest challenger can be one behind, never two.
    uint256 private constant PENALTY_LEAD = 2;

    /*//////////////////////////////////////////////////////////////
                                 STORAGE
    //////////////////////////////////////////////////////////////*/

    /// Structs of one member, so that a place is looked up once a call.
    struct Channel {
        Word word;
    }

    struct Credit {
        uint256 amount;
    }

    mapping(bytes32 channelId => Channel) private channels;
    mapping(address account => mapping(address asset => Credit)) public credit;

    /*//////////////////////////////////////////////////////////////
                                 OPENING
    //////////////////////////////////////////////////////////////*/

    /// @inheritdoc IChannelManager
    function open(Id calldata id, uint256 deposit, uint256 peerDeposit) external payable {
        (uint256 a, uint256 b, uint256 terms) = _newId(id);
        bytes32 cid = channelId(id);

        Word w;
        if (_caller() == b) w = _begin(cid, Words.OPENING_BY_B, peerDeposit, deposit);
        else if (_caller() == a) w = _begin(cid, Words.OPENING, deposit, peerDeposit);
        else revert CallAsParty();

        emit Opening(cid, w);
        _pull(terms, deposit);
    }

    /// @inheritdoc IChannelManager
    function join(Id calldata id, uint16 epoch) external payable {
        (uint256 a, uint256 b, uint256 terms) = _words(id);
        (bytes32 cid, Channel storage c, Word w) = _find(id);
        if (w.phase() != Words.P_OPENING) revert OpenChannelFirst(w.phase());
        if (w.epoch() != epoch) revert UseEpoch(uint16(w.epoch()));
        (uint256 joiner, uint256 deposit) = w.byB() ? (a, w.balanceA()) : (b, w.balanceB());
        if (_caller() != joiner) revert CallAsPeer(_address(joiner));

        w = w.to(Words.OPEN);
        c.word = w;

        emit Opened(cid, w);
        _pull(terms, deposit);
    }

    /// @inheritdoc IChannelManager
    function openBoth(
        Id calldata id,
        uint256 depositA,
        uint256 depositB,
        uint256 deadline,
        bytes calldata peerSignature
    ) external payable {
        if (block.timestamp > deadline) revert GetNewSignature(deadline);
        (,, uint256 terms) = _newId(id);
        (bool byB, address peer) = _callerAndPeer(id);
        bytes32 cid = channelId(id);

        Word w = _begin(cid, Words.OPEN, depositA, depositB);

        emit Opened(cid, w);
        bytes32 digest = _openDigest(cid, w.epoch(), depositA, depositB, deadline);
        if (!Signatures.isValid(peer, digest, peerSignature)) revert GetSignatureOf(peer);
        _pull(terms, byB ? depositB : depositA);
        _pullFromPeer(terms, peer, byB ? depositA : depositB);
    }

    /// @dev Start the session after the last one.
    function _begin(bytes32 cid, uint256 first, uint256 depositA, uint256 depositB) private returns (Word w) {
        Channel storage c = channels[cid];
        w = c.word;
        if (w.live()) revert CloseChannelFirst(w.phase());
        // Wrapping around would let states of an old session replay. Another lane is another channel.
        if (w.epoch() == type(uint16).max) revert ChooseNewLane();
        unchecked {
            // Either party may end up with everything, so the total must fit one balance.
            if ((depositA | depositB | (depositA + depositB)) >> 80 != 0) revert LowerDeposits(type(uint80).max);
            w = Words.encode(first, (w.epoch() + 1) << 40, 0, depositA, depositB);
        }
        c.word = w;
    }

    /// @inheritdoc IChannelManager
    function cancel(Id calldata id) external lock {
        (uint256 a, uint256 b, uint256 terms) = _words(id);
        (bytes32 cid, Channel storage c, Word w) = _find(id);
        if (w.phase() != Words.P_OPENING) revert OpenChannelFirst(w.phase());
        (uint256 opener, uint256 deposit) = w.byB() ? (b, w.balanceB()) : (a, w.balanceA());
        if (_caller() != opener) revert CallAsOpener(_address(opener));

        w = Words.encode(Words.CLOSED, w.version(), 0, 0, 0);
        c.word = w;

        emit Cancelled(cid, w);
        _pay(_asset(terms), _address(opener), deposit);
    }

    /*//////////////////////////////////////////////////////////////
                                 CLOSING
    //////////////////////////////////////////////////////////////*/

    /// @inheritdoc IChannelManager
    function close(Id calldata id, State calldata state, bytes calldata signatureA, bytes calldata signatureB)
        external
        lock
    {
        (bytes32 cid, Channel storage c, Word w) = _find(id);
        if (w.phase() != Words.P_OPEN && w.phase() != Words.P_DISPUTED) revert OpenChannelFirst(w.phase());
        (uint256 version, uint256 balanceA, uint256 balanceB) = _checked(w, state);
        // A Close that went stale (the parties went on and disputed) must not undo what the chain already knows.
        if (version < w.version()) {
            unchecked {
                revert UseNewerState(uint40(w.version() - 1));
            }
        }
        _requireConsent(id, _stateDigest(CLOSE_TYPEHASH, cid, state), signatureA, signatureB);

        _settle(id, cid, c, version, balanceA, balanceB);
    }

    /// @inheritdoc IChannelManager
    function challenge(Id calldata id, State calldata state, bytes calldata peerSignature) external {
        (bytes32 cid, Channel storage c, Word w) = _find(id);
        (bool byB, address peer) = _callerAndPeer(id);
        if (w.phase() == Words.P_DISPUTED) revert RespondInstead();
        if (w.phase() != Words.P_OPEN) revert OpenChannelFirst(w.phase());
        (uint256 version, uint256 balanceA, uint256 balanceB) = _checked(w, state);
        if (version == w.version()) {
            // Sequence zero: nothing was ever signed, and what was deposited is the state.
            if (balanceA != w.balanceA()) revert UseDepositsAtSequenceZero();
        } else {
            if (!Signatures.isValid(peer, _stateDigest(STATE_TYPEHASH, cid, state), peerSignature)) {
                revert GetSignatureOf(peer);
            }
        }

        unchecked {
            uint256 deadline = uint32(block.timestamp + _challengePeriod(id.terms));
            w = Words.encode(byB ? Words.DISPUTED_BY_B : Words.DISPUTED, version, deadline, balanceA, balanceB);
        }
        c.word = w;

        emit Challenged(cid, w);
    }

    /// @inheritdoc IChannelManager
    function respond(Id calldata id, State calldata state, bytes calldata signatureA, bytes calldata signatureB)
        external
    {
        (bytes32 cid, Channel storage c, Word w) = _find(id);
        if (w.phase() != Words.P_DISPUTED) revert ChallengeFirst(w.phase());
        if (block.timestamp > w.deadline()) revert FinalizeInstead(w.deadline());
        (uint256 version, uint256 balanceA, uint256 balanceB) = _checked(w, state);
        if (version <= w.version()) revert UseNewerState(uint40(w.version()));
        _requireConsent(id, _stateDigest(STATE_TYPEHASH, cid, state), signatureA, signatureB);

        uint256 first = w.first();
        unchecked {
            if (version >= w.version() + PENALTY_LEAD) first |= Words.PENALTY;
        }
        w = Words.encode(first, version, w.deadline(), balanceA, balanceB);
        c.word = w;

        emit Responded(cid, w);
    }

    /// @inheritdoc IChannelManager
    function finalize(Id calldata id) external lock {
        (bytes32 cid, Channel storage c, Word w) = _find(id);
        if (w.phase() != Words.P_DISPUTED) revert ChallengeFirst(w.phase());
        if (block.timestamp <= w.deadline()) revert WaitUntilAfter(w.deadline());

        (uint256 paidA, uint256 paidB) = _afterPenalty(w, _penaltyBps(id.terms));
        _settle(id, cid, c, w.version(), paidA, paidB);
    }

    /*//////////////////////////////////////////////////////////////
                                 CREDIT
    //////////////////////////////////////////////////////////////*/

    /// @inheritdoc IChannelManager
    function depositCredit() external payable lock {
        _credit(msg.sender, Payments.ETH, msg.value);
    }

    /// @inheritdoc IChannelManager
    function withdrawCredit(address asset) external lock {
        Credit storage own = credit[msg.sender][asset];
        uint256 amount = own.amount;
        if (amount == 0) revert NothingToWithdraw();

        own.amount = 0;

        emit CreditWithdrawn(msg.sender, asset, amount);
        if (!Payments.tryPushAll(asset, msg.sender, amount)) revert AcceptPayment();
    }

    /*//////////////////////////////////////////////////////////////
                                  VIEWS
    //////////////////////////////////////////////////////////////*/

    /// @inheritdoc IChannelManager
    function channel(bytes32 cid) external view returns (ChannelView memory v) {
        Word w = channels[cid].word;
        v.phase = Phase(w.phase());
        v.epoch = uint16(w.epoch());
        v.sequence = uint40(w.version());
        v.deadline = uint32(w.deadline());
        v.balanceA = uint80(w.balanceA());
        v.balanceB = uint80(w.balanceB());
    }

    /// @inheritdoc IChannelManager
    function channelId(Id calldata id) public pure returns (bytes32 cid) {
        assembly ("memory-safe") {
            // keccak256(abi.encode(a, b, terms)): the three words as they came. A word with dirty high bits names no channel.
            let pointer := mload(0x40)
            calldatacopy(pointer, id, 0x60)
            cid := keccak256(pointer, 0x60)
        }
    }

    /*//////////////////////////////////////////////////////////////
                             CHECKS ON INPUT
    //////////////////////////////////////////////////////////////*/

    /// @dev The id's words as they came. The high bits of a and b are clean in every channel that was ever opened.
    function _words(Id calldata id) private pure returns (uint256 a, uint256 b, uint256 terms) {
        assembly ("memory-safe") {
            a := calldataload(id)
            b := calldataload(add(id, 0x20))
            terms := calldataload(add(id, 0x40))
        }
    }

    /// @dev Only the opening functions check the words: the id commits to them, so an opened channel has good ones.
    function _newId(Id calldata id) private pure returns (uint256 a, uint256 b, uint256 terms) {
        (a, b, terms) = _words(id);
        bool ordered;
        assembly ("memory-safe") {
            ordered := and(gt(a, 0), and(lt(a, b), iszero(shr(160, b))))
        }
        if (!ordered) revert OrderPartiesAscending();
        unchecked {
            // A period below the least wraps around and is above the range too.
            if (_challengePeriod(terms) - MIN_CHALLENGE_PERIOD > MAX_CHALLENGE_PERIOD - MIN_CHALLENGE_PERIOD) {
                revert ChooseChallengePeriod(MIN_CHALLENGE_PERIOD, MAX_CHALLENGE_PERIOD);
            }
        }
        if (_penaltyBps(terms) > BPS) revert ChoosePenaltyUpTo(BPS);
    }

    function _find(Id calldata id) private view returns (bytes32 cid, Channel storage c, Word w) {
        cid = channelId(id);
        c = channels[cid];
        w = c.word;
    }

    function _caller() private view returns (uint256) {
        return uint160(msg.sender);
    }

    function _address(uint256 word) private pure returns (address) {
        return address(uint160(word));
    }

    function _callerAndPeer(Id calldata id) private view returns (bool byB, address peer) {
        (uint256 a, uint256 b,) = _words(id);
        if (_caller() == b) return (true, _address(a));
        if (_caller() != a) revert CallAsParty();
        return (false, _address(b));
    }

    /// @return version of this epoch, the sequence in its low bits. @return balanceA @return balanceB which sum to the total.
    /// @dev Reads whole words, so that high bits which fit no type are refused by these checks and by name.
    function _checked(Word w, State calldata state)
        private
        pure
        returns (uint256 version, uint256 balanceA, uint256 balanceB)
    {
        assembly ("memory-safe") {
            version := calldataload(state)
            balanceA := calldataload(add(state, 0x20))
            balanceB := calldataload(add(state, 0x40))
        }
        if (version >> 40 != w.epoch()) revert UseEpoch(uint16(w.epoch()));
        uint256 total = w.total();
        unchecked {
            if (balanceA > total || balanceB != total - balanceA) revert KeepTotal(total);
        }
    }

    /// @dev The sender of a transaction signed it: that is its consent.
    function _requireConsent(Id calldata id, bytes32 digest, bytes calldata signatureA, bytes calldata signatureB)
        private
        view
    {
        (uint256 a, uint256 b,) = _words(id);
        if (_caller() != a && !Signatures.isValid(_address(a), digest, signatureA)) revert GetSignatureOf(_address(a));
        if (_caller() != b && !Signatures.isValid(_address(b), digest, signatureB)) revert GetSignatureOf(_address(b));
    }

    /*//////////////////////////////////////////////////////////////
                                  MONEY
    //////////////////////////////////////////////////////////////*/

    /// @dev The caller's deposit. Coin came with the call; only a token is asked for, and may call back: see Lock.
    function _pull(uint256 terms, uint256 amount) private {
        address asset = _asset(terms);
        if (asset == Payments.ETH) {
            if (msg.value != amount) revert Payments.SendValue(amount);
        } else {
            if (msg.value != 0) revert Payments.SendValue(0);
            _pullToken(asset, msg.sender, amount);
        }
    }

    function _pullFromPeer(uint256 terms, address peer, uint256 amount) private {
        address asset = _asset(terms);
        if (asset != Payments.ETH) return _pullToken(asset, peer, amount);

        Credit storage peers = credit[peer][Payments.ETH];
        uint256 available = peers.amount;
        if (available < amount) revert TopUpCredit(peer, amount);
        unchecked {
            peers.amount = available - amount;
        }
    }

    function _pullToken(address token, address from, uint256 amount) private lock {
        Payments.pullToken(token, from, amount);
    }

    function _settle(Id calldata id, bytes32 cid, Channel storage c, uint256 version, uint256 paidA, uint256 paidB)
        private
    {
        // The tombstone keeps the epoch: no state of this session replays in the next.
        c.word = Words.encode(Words.CLOSED, version, 0, 0, 0);

        emit Closed(cid, Words.encode(Words.CLOSED, version, 0, paidA, paidB));
        (uint256 a, uint256 b, uint256 terms) = _words(id);
        _pay(_asset(terms), _address(a), paidA);
        _pay(_asset(terms), _address(b), paidB);
    }

    /// @dev A share of the total, so that it deters even one who has little left to lose; never more than the challenger has.
    function _afterPenalty(Word w, uint256 bps) private pure returns (uint256 paidA, uint256 paidB) {
        (paidA, paidB) = (w.balanceA(), w.balanceB());
        if (!w.penalty()) return (paidA, paidB);

        // 80 bits times 14 bits, and no more is moved than is there.
        unchecked {
            uint256 penalty = w.total() * bps / BPS;
            if (w.byB()) {
                if (penalty > paidB) penalty = paidB;
                return (paidA + penalty, paidB - penalty);
            }
            if (penalty > paidA) penalty = paidA;
            return (paidA - penalty, paidB + penalty);
        }
    }

    function _pay(address asset, address to, uint256 amount) private {
        if (amount == 0) return;
        if (!Payments.tryPush(asset, to, amount)) _credit(to, asset, amount);
    }

    function _credit(address account, address asset, uint256 amount) private {
        credit[account][asset].amount += amount;
        emit Credited(account, asset, amount);
    }

    /*//////////////////////////////////////////////////////////////
                          TERMS AND TYPED DATA
    //////////////////////////////////////////////////////////////*/

    function _asset(uint256 terms) private pure returns (address) {
        return _address(terms >> 96);
    }

    function _challengePeriod(uint256 terms) private pure returns (uint256) {
        return uint32(terms >> 16);
    }

    function _penaltyBps(uint256 terms) private pure returns (uint256) {
        return uint16(terms);
    }

    function _openDigest(bytes32 cid, uint256 epoch, uint256 depositA, uint256 depositB, uint256 deadline)
        private
        view
        returns (bytes32)
    {
        bytes32 typehash = OPEN_TYPEHASH;
        bytes32 structHash;
        assembly ("memory-safe") {
            let pointer := mload(0x40)
            mstore(pointer, typehash)
            mstore(add(pointer, 0x20), cid)
            mstore(add(pointer, 0x40), epoch)
            mstore(add(pointer, 0x60), depositA)
            mstore(add(pointer, 0x80), depositB)
            mstore(add(pointer, 0xa0), deadline)
            structHash := keccak256(pointer, 0xc0)
        }
        return _digest(structHash);
    }

    /// @dev The four words of the state are encoded as they came; `_checked` has read them, which refuses dirty high bits.
    function _stateDigest(bytes32 typehash, bytes32 cid, State calldata state) private view returns (bytes32) {
        bytes32 structHash;
        assembly ("memory-safe") {
            let pointer := mload(0x40)
            mstore(pointer, typehash)
            mstore(add(pointer, 0x20), cid)
            calldatacopy(add(pointer, 0x40), state, 0x80)
            structHash := keccak256(pointer, 0xc0)
        }
        return _digest(structHash);
    }
}
