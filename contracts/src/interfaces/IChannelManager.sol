// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Word} from "../lib/Words.sol";

/// @title Two-party payment channels, one word each.
/// @notice phase:8 | epoch:16 | sequence:40 | deadline:32 | balanceA:80 | balanceB:80 in every phase. `a` < `b` numerically. A closed channel keeps its epoch, so no state of an earlier session replays.
interface IChannelManager {
    enum Phase {
        None,
        Opening,
        Open,
        Disputed,
        Closed
    }

    /// @param terms asset:160 | lane:48 | challengePeriod:32 | penaltyBps:16. channelId = keccak256(abi.encode(a, b, terms)).
    struct Id {
        address a;
        address b;
        uint256 terms;
    }

    /// @param version epoch:16 | sequence:40
    struct State {
        uint56 version;
        uint80 balanceA;
        uint80 balanceB;
        bytes32 dataHash;
    }

    struct ChannelView {
        Phase phase;
        uint16 epoch;
        uint40 sequence;
        uint32 deadline;
        uint80 balanceA;
        uint80 balanceB;
    }

    /// Every event of a channel carries its word as the transition leaves it; parties and terms are in the transaction.
    event Opening(bytes32 indexed channelId, Word word);
    event Opened(bytes32 indexed channelId, Word word);
    event Cancelled(bytes32 indexed channelId, Word word);
    event Challenged(bytes32 indexed channelId, Word word);
    event Responded(bytes32 indexed channelId, Word word);
    /// The balances in this word are what is paid.
    event Closed(bytes32 indexed channelId, Word word);
    event Credited(address indexed account, address indexed asset, uint256 amount);
    event CreditWithdrawn(address indexed account, address indexed asset, uint256 amount);

    /// The caller (a or b) locks its deposit (msg.value for ETH, amount pulled for ERC-20) and names what the peer must lock.
    function open(Id calldata id, uint256 deposit, uint256 peerDeposit) external payable;
    /// The peer locks its part; commits to the epoch so that cancel and re-open cannot swap the deposit under it.
    function join(Id calldata id, uint16 epoch) external payable;
    /// One transaction with the peer's signed EIP-712 Open(bytes32 channelId,uint16 epoch,uint80 depositA,uint80 depositB,uint256 deadline): the peer's part comes from its credit/allowance.
    function openBoth(
        Id calldata id,
        uint256 depositA,
        uint256 depositB,
        uint256 deadline,
        bytes calldata peerSignature
    ) external payable;
    function cancel(Id calldata id) external; // the opener, before join
    /// EIP-712 Close(bytes32 channelId,uint56 version,uint80 balanceA,uint80 balanceB,bytes32 dataHash) by both parties; msg.sender counts as its own signature (empty bytes). Also supersedes a dispute.
    function close(Id calldata id, State calldata state, bytes calldata signatureA, bytes calldata signatureB) external;
    /// Parties only. EIP-712 State(bytes32 channelId,uint56 version,uint80 balanceA,uint80 balanceB,bytes32 dataHash). Sequence 0 (the deposits) needs no signature.
    function challenge(Id calldata id, State calldata state, bytes calldata peerSignature) external;
    /// Anyone with both signatures (a party's own may be empty) and a newer version. No clock extension. A challenger beaten by two or
    /// more sequence numbers pays penaltyBps of the channel's total at `finalize`, at most what it has.
    function respond(Id calldata id, State calldata state, bytes calldata signatureA, bytes calldata signatureB)
        external;
    function finalize(Id calldata id) external; // anyone, after the deadline
    function channel(bytes32 channelId) external view returns (ChannelView memory);
    function channelId(Id calldata id) external pure returns (bytes32);
    function credit(address account, address asset) external view returns (uint256);
    function depositCredit() external payable;
    function withdrawCredit(address asset) external;
}
