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
    error CloseChannelFirst(Phase phase);
    error OpenChannelFirst(Phase phase);
    error ChallengeFirst(Phase phase);
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

    mapping(bytes32 channelId => Word) private words;
    mapping(address account => mapping(address asset => uint256)) public credit;

    /*//////////////////////////////////////////////////////////////
                                 OPENING
    //////////////////////////////////////////////////////////////*/

    /// @inheritdoc IChannelManager
    function open(Id calldata id, uint80 deposit, uint80 peerDeposit) external payable lock {
        bytes32 cid = _validId(id);
        bool byB = _callerIsB(id);
        uint56 version = _nextEpoch(words[cid]);
        (uint80 depositA, uint80 depositB) = byB ? (peerDeposit, deposit) : (deposit, peerDeposit);
        _checkDeposits(depositA, depositB);

        words[cid] = Words.encode(Phase.Opening, byB ? Words.BY_B : 0, version, 0, depositA, depositB);

        emit Opening(cid, id.a, id.b, id.terms, uint16(version >> 40), depositA, depositB);
        Payments.pull(_asset(id), deposit);
    }

    /// @inheritdoc IChannelManager
    function join(Id calldata id, uint16 epoch) external payable lock {
        bytes32 cid = channelId(id);
        Word w = words[cid];
        if (w.phase() != Phase.Opening) revert OpenChannelFirst(w.phase());
        if (w.epoch() != epoch) revert UseEpoch(w.epoch());
        (address joiner, uint80 deposit) = w.byB() ? (id.a, w.balanceA()) : (id.b, w.balanceB());
        if (msg.sender != joiner) revert CallAsPeer(joiner);

        words[cid] = Words.encode(Phase.Open, 0, w.version(), 0, w.balanceA(), w.balanceB());

        emit Opened(cid, id.a, id.b, id.terms, epoch, w.balanceA(), w.balanceB());
        Payments.pull(_asset(id), deposit);
    }

    /// @inheritdoc IChannelManager
    function openBoth(Id calldata id, uint80 depositA, uint80 depositB, uint256 deadline, bytes calldata peerSignature)
        external
        payable
        lock
    {
        if (block.timestamp > deadline) revert GetNewSignature(deadline);
        bytes32 cid = _validId(id);
        uint16 epoch = _openBoth(id, cid, depositA, depositB);
        (address peer, uint80 own, uint80 peers) =
            _callerIsB(id) ? (id.a, depositB, depositA) : (id.b, depositA, depositB);
        bytes32 digest = _digest(keccak256(abi.encode(OPEN_TYPEHASH, cid, epoch, depositA, depositB, deadline)));
        if (!Signatures.isValid(peer, digest, peerSignature)) revert GetSignatureOf(peer);

        Payments.pull(_asset(id), own);
        _pullFromPeer(_asset(id), peer, peers);
    }

    function _openBoth(Id calldata id, bytes32 cid, uint80 depositA, uint80 depositB) private returns (uint16 epoch) {
        uint56 version = _nextEpoch(words[cid]);
        _checkDeposits(depositA, depositB);
        epoch = uint16(version >> 40);

        words[cid] = Words.encode(Phase.Open, 0, version, 0, depositA, depositB);

        emit Opened(cid, id.a, id.b, id.terms, epoch, depositA, depositB);
    }

    /// @inheritdoc IChannelManager
    function cancel(Id calldata id) external lock {
        bytes32 cid = channelId(id);
        Word w = words[cid];
        if (w.phase() != Phase.Opening) revert OpenChannelFirst(w.phase());
        (address opener, uint80 deposit) = w.byB() ? (id.b, w.balanceB()) : (id.a, w.balanceA());
        if (msg.sender != opener) revert CallAsOpener(opener);

        words[cid] = Words.encode(Phase.Closed, 0, w.version(), 0, 0, 0);

        emit Cancelled(cid, w.epoch());
        _pay(_asset(id), opener, deposit);
    }

    /*//////////////////////////////////////////////////////////////
                                 CLOSING
    //////////////////////////////////////////////////////////////*/

    /// @inheritdoc IChannelManager
    function close(Id calldata id, State calldata state, bytes calldata signatureA, bytes calldata signatureB)
        external
        lock
    {
        bytes32 cid = channelId(id);
        Word w = words[cid];
        if (w.phase() != Phase.Open && w.phase() != Phase.Disputed) revert OpenChannelFirst(w.phase());
        _checkState(w, state);
        // A Close that went stale (the parties went on and disputed) must not undo what the chain already knows.
        if (_sequence(state) < w.sequence()) revert UseNewerState(w.sequence() - 1);
        bytes32 digest = _stateDigest(CLOSE_TYPEHASH, cid, state);
        _requireConsent(id.a, digest, signatureA);
        _requireConsent(id.b, digest, signatureB);

        _settle(id, cid, state.version, state.balanceA, state.balanceB);
    }

    /// @inheritdoc IChannelManager
    function challenge(Id calldata id, State calldata state, bytes calldata peerSignature) external {
        bytes32 cid = channelId(id);
        Word w = words[cid];
        bool byB = _callerIsB(id);
        if (w.phase() == Phase.Disputed) revert RespondInstead();
        if (w.phase() != Phase.Open) revert OpenChannelFirst(w.phase());
        _checkState(w, state);
        if (_sequence(state) == 0) {
            // Nothing was ever signed: what was deposited is the state.
            if (state.balanceA != w.balanceA()) revert UseDepositsAtSequenceZero();
        } else {
            address peer = byB ? id.a : id.b;
            bytes32 digest = _stateDigest(STATE_TYPEHASH, cid, state);
            if (!Signatures.isValid(peer, digest, peerSignature)) revert GetSignatureOf(peer);
        }

        uint32 deadline = uint32(block.timestamp + _challengePeriod(id));
        words[cid] =
            Words.encode(Phase.Disputed, byB ? Words.BY_B : 0, state.version, deadline, state.balanceA, state.balanceB);

        emit Challenged(cid, msg.sender, state.version, deadline);
    }

    /// @inheritdoc IChannelManager
    function respond(Id calldata id, State calldata state, bytes calldata signatureA, bytes calldata signatureB)
        external
    {
        bytes32 cid = channelId(id);
        Word w = words[cid];
        if (w.phase() != Phase.Disputed) revert ChallengeFirst(w.phase());
        if (block.timestamp > w.deadline()) revert FinalizeInstead(w.deadline());
        _checkState(w, state);
        uint256 sequence = _sequence(state);
        if (sequence <= w.sequence()) revert UseNewerState(w.sequence());
        bytes32 digest = _stateDigest(STATE_TYPEHASH, cid, state);
        _requireConsent(id.a, digest, signatureA);
        _requireConsent(id.b, digest, signatureB);

        uint8 flags = w.flags();
        if (sequence >= w.sequence() + PENALTY_LEAD) flags |= Words.PENALTY;
        words[cid] = Words.encode(Phase.Disputed, flags, state.version, w.deadline(), state.balanceA, state.balanceB);

        emit Responded(cid, state.version);
    }

    /// @inheritdoc IChannelManager
    function finalize(Id calldata id) external lock {
        bytes32 cid = channelId(id);
        Word w = words[cid];
        if (w.phase() != Phase.Disputed) revert ChallengeFirst(w.phase());
        if (block.timestamp <= w.deadline()) revert WaitUntilAfter(w.deadline());

        (uint80 paidA, uint80 paidB) = _afterPenalty(w, _penaltyBps(id));
        _settle(id, cid, w.version(), paidA, paidB);
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
        uint256 amount = credit[msg.sender][asset];
        if (amount == 0) revert NothingToWithdraw();

        credit[msg.sender][asset] = 0;

        emit CreditWithdrawn(msg.sender, asset, amount);
        if (!Payments.tryPushAll(asset, msg.sender, amount)) revert AcceptPayment();
    }

    /*//////////////////////////////////////////////////////////////
                                  VIEWS
    //////////////////////////////////////////////////////////////*/

    /// @inheritdoc IChannelManager
    function channel(bytes32 cid) external view returns (ChannelView memory) {
        Word w = words[cid];
        return ChannelView({
            phase: w.phase(),
            epoch: w.epoch(),
            sequence: w.sequence(),
            deadline: w.deadline(),
            balanceA: w.balanceA(),
            balanceB: w.balanceB()
        });
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

    /// @dev Only the opening functions check the terms: the id commits to them, so an opened channel has good ones.
    function _validId(Id calldata id) private pure returns (bytes32) {
        if (id.a == address(0) || id.a >= id.b) revert OrderPartiesAscending();
        uint256 period = _challengePeriod(id);
        if (period < MIN_CHALLENGE_PERIOD || period > MAX_CHALLENGE_PERIOD) {
            revert ChooseChallengePeriod(MIN_CHALLENGE_PERIOD, MAX_CHALLENGE_PERIOD);
        }
        if (_penaltyBps(id) > BPS) revert ChoosePenaltyUpTo(BPS);
        return channelId(id);
    }

    function _callerIsB(Id calldata id) private view returns (bool) {
        if (msg.sender == id.b) return true;
        if (msg.sender != id.a) revert CallAsParty();
        return false;
    }

    /// @return the version at sequence 0 of the session after the last one.
    function _nextEpoch(Word w) private pure returns (uint56) {
        if (w.phase() != Phase.None && w.phase() != Phase.Closed) revert CloseChannelFirst(w.phase());
        // Wrapping around would let states of an old session replay. Another lane is another channel.
        if (w.epoch() == type(uint16).max) revert ChooseNewLane();
        return uint56(w.epoch() + 1) << 40;
    }

    /// @dev Either party may end up with everything, so the total must fit one balance.
    function _checkDeposits(uint80 depositA, uint80 depositB) private pure {
        if (uint256(depositA) + depositB > type(uint80).max) revert LowerDeposits(type(uint80).max);
    }

    function _checkState(Word w, State calldata state) private pure {
        if (state.version >> 40 != w.epoch()) revert UseEpoch(w.epoch());
        if (uint256(state.balanceA) + state.balanceB != w.total()) revert KeepTotal(w.total());
    }

    /// @dev The sender of a transaction signed it: that is its consent.
    function _requireConsent(address party, bytes32 digest, bytes calldata signature) private view {
        if (msg.sender != party && !Signatures.isValid(party, digest, signature)) revert GetSignatureOf(party);
    }

    /*//////////////////////////////////////////////////////////////
                                  MONEY
    //////////////////////////////////////////////////////////////*/

    function _pullFromPeer(address asset, address peer, uint80 amount) private {
        if (asset != Payments.ETH) return Payments.pullToken(asset, peer, amount);

        uint256 available = credit[peer][Payments.ETH];
        if (available < amount) revert TopUpCredit(peer, amount);
        unchecked {
            credit[peer][Payments.ETH] = available - amount;
        }
    }

    function _settle(Id calldata id, bytes32 cid, uint56 version, uint80 paidA, uint80 paidB) private {
        // The tombstone keeps the epoch: no state of this session replays in the next.
        words[cid] = Words.encode(Phase.Closed, 0, version, 0, 0, 0);

        emit Closed(cid, version, paidA, paidB);
        _pay(_asset(id), id.a, paidA);
        _pay(_asset(id), id.b, paidB);
    }

    /// @dev A share of the total, so that it deters even one who has little left to lose; never more than the challenger has.
    function _afterPenalty(Word w, uint256 bps) private pure returns (uint80 paidA, uint80 paidB) {
        (paidA, paidB) = (w.balanceA(), w.balanceB());
        if (w.flags() & Words.PENALTY == 0) return (paidA, paidB);

        uint80 penalty = uint80(w.total() * bps / BPS);
        if (w.byB()) {
            if (penalty > paidB) penalty = paidB;
            return (paidA + penalty, paidB - penalty);
        }
        if (penalty > paidA) penalty = paidA;
        return (paidA - penalty, paidB + penalty);
    }

    function _pay(address asset, address to, uint256 amount) private {
        if (amount == 0) return;
        if (!Payments.tryPush(asset, to, amount)) _credit(to, asset, amount);
    }

    function _credit(address account, address asset, uint256 amount) private {
        credit[account][asset] += amount;
        emit Credited(account, asset, amount);
    }

    /*//////////////////////////////////////////////////////////////
                          TERMS AND TYPED DATA
    //////////////////////////////////////////////////////////////*/

    function _asset(Id calldata id) private pure returns (address) {
        return address(uint160(id.terms >> 96));
    }

    function _challengePeriod(Id calldata id) private pure returns (uint256) {
        return uint32(id.terms >> 16);
    }

    function _penaltyBps(Id calldata id) private pure returns (uint256) {
        return uint16(id.terms);
    }

    function _sequence(State calldata state) private pure returns (uint40) {
        return uint40(state.version);
    }

    /// @dev The four words of the state are encoded as they came; `_checkState` has read them, which refuses dirty high bits.
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
