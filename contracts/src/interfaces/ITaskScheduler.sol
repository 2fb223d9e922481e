// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

/// @title Escrow and life cycle of a task: None -> Requested -> Assigned -> Running -> Completed | Closed.
/// @notice Pays only when every computing server has reported its sandbox destroyed. The result hash overwrites the key, so invalidating the key cannot be forgotten.
interface ITaskScheduler {
    enum Phase {
        None,
        Requested,
        Assigned,
        Running,
        Completed,
        Closed
    }

    /// @param servers how many computing servers, 1..16.
    /// @param perServer what each is paid by `complete`. @param stake locked from each server's deposit by `assign`.
    /// @param scheduleBy,keyBy,completeBy,reportBy unix seconds, at least 60 seconds apart: last moment for assign, publishKey, complete with all reports, complete with reports missing.
    struct Terms {
        uint8 servers;
        uint96 perServer;
        uint96 stake;
        uint40 scheduleBy;
        uint40 keyBy;
        uint40 completeBy;
        uint40 reportBy;
    }

    /// @param asset what escrow and perServer are in: zero is the chain's coin. Stakes are always in the chain's coin.
    struct TaskView {
        address requester;
        address asset;
        Phase phase;
        bool stopping; // the requester cancelled after assignment: servers tear down and report
        uint16 reported; // bit i: server i reported its sandbox destroyed (or never created)
        uint96 escrow;
        Terms terms;
        bytes32 keyOrResult; // Running: the task key's address; Completed: the result hash; otherwise 0
        uint32[] compute; // node ids in the order of the spec's roles, flattened
        uint32[] stores;
    }

    event Requested(bytes32 indexed id, address indexed requester, bytes spec);
    event Assigned(bytes32 indexed id, uint32[] compute, uint32[] stores);
    /// @param statements keccak256 of each server's sandbox statement. @param descriptors rendezvous descriptors, each sealed to one participant (opaque here).
    event KeyPublished(bytes32 indexed id, address key, bytes32[] statements, bytes descriptors);
    event Stopping(bytes32 indexed id);
    event Reported(bytes32 indexed id, uint8 indexed index, address server);
    event Completed(bytes32 indexed id, bytes32 resultHash);
    /// @param refunded what the requester gets back in the task's asset; in the chain's coin it includes the stakes of the absent.
    event Closed(bytes32 indexed id, uint96 refunded);
    /// Deposited, withdrawn or lost. A stake that is taken or given back is told by Assigned, Reported and Completed.
    event StakeChanged(address indexed owner, uint256 free, uint256 locked);
    event Credited(address indexed account, address indexed asset, uint256 amount);
    event CreditWithdrawn(address indexed account, address indexed asset, uint256 amount);
    event RequestsSwitched(bool stopped);

    /// id = keccak256(abi.encode(msg.sender, salt)); a second request with the same salt reverts TaskExists. msg.value is the budget, >= servers * perServer.
    function request(bytes32 salt, bytes calldata spec, Terms calldata terms) external payable returns (bytes32 id);
    /// The same, paid from the caller's allowance of an ERC-20 token: `budget` of it, all of which must arrive.
    function requestWithERC20(bytes32 salt, bytes calldata spec, Terms calldata terms, address token, uint256 budget)
        external
        returns (bytes32 id);
    /// Requester only. Checks role, status, capacity and free stake of every node; refuses one node or one owner twice in `compute`.
    function assign(bytes32 id, uint32[] calldata compute, uint32[] calldata stores) external;
    /// The requester or an assigned server (the signatures do not cover the descriptors, so a stranger could drop them). signatures: 65 bytes (r,s,v) per compute server in order, over EIP-712 SandboxKey(bytes32 taskId,address key,bytes32 statementsHash), statementsHash = keccak256(abi.encodePacked(statements)).
    function publishKey(
        bytes32 id,
        address key,
        bytes32[] calldata statements,
        bytes calldata signatures,
        bytes calldata descriptors
    ) external;
    /// Server `index`, by its owner: its sandbox is gone (or was never made). In Assigned or Running. Frees its stake and its place at once.
    function report(bytes32 id, uint8 index) external;
    /// Server `index`, by its owner (counts as its own report). signature by the task key over EIP-712 Result(bytes32 taskId,bytes32 resultHash). Pays and refunds the rest; also while stopping. Before completeBy it is refused until all others reported; after completeBy the servers that have not reported are not paid and their stakes go to the requester.
    function complete(bytes32 id, uint8 index, bytes32 resultHash, bytes calldata signature) external;
    /// Requester. Requested: closes and refunds. Assigned, Running: sets `stopping`.
    function cancel(bytes32 id) external;
    /// Anyone. Requested: after scheduleBy. Assigned: all reported, or after keyBy. Running: all reported, or after reportBy. Zeroes the key; a server that has not reported loses its stake to the requester; reported servers are paid only if the requester stopped a Running task.
    function refund(bytes32 id) external;

    /// The registry's guardian only: no new requests while true. Tasks that exist go on.
    function stopRequests(bool stopped) external;

    function task(bytes32 id) external view returns (TaskView memory);
    /// How many sandboxes of unfinished tasks a node has now; `assign` refuses a node whose capacity is reached.
    function sandboxesOn(uint32 node) external view returns (uint32);
    function depositStake() external payable;
    function withdrawStake(uint256 amount) external;
    function stakeOf(address owner) external view returns (uint256 free, uint256 locked);
    /// A payee that reverts is credited instead.
    function credit(address owner, address asset) external view returns (uint256);
    function withdrawCredit(address asset) external;
}
