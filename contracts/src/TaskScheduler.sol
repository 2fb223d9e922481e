// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {INodeRegistry} from "./interfaces/INodeRegistry.sol";
import {ITaskScheduler} from "./interfaces/ITaskScheduler.sol";
import {Domain} from "./lib/Domain.sol";
import {Lock} from "./lib/Lock.sol";
import {Payments} from "./lib/Payments.sol";
import {Signatures} from "./lib/Signatures.sol";

/// @title Escrow and life cycle of a task.
/// @notice Pays only when every computing server has reported its sandbox destroyed. The registry's guardian can stop new
/// requests; it has no say in a task that exists, nor in anybody's money.
/// @dev Caveats:
/// - `assign` asks no server: a deposit of stake plus status Active is the standing consent. A server that does not want a task
///   reports at once, which costs it nothing. It must therefore look at the chain more often than MIN_WINDOW.
/// - A server that has seen no KeyPublished must report before keyBy, whoever is at fault: after it, silence costs the stake.
/// - Any server can hold the result back: then the others are not paid, and it loses its stake to the requester.
/// - Nobody can prove on chain that a sandbox is gone. The report is the server's word, backed by its pay.
contract TaskScheduler is ITaskScheduler, Domain, Lock {
    /*//////////////////////////////////////////////////////////////
                                 ERRORS
    //////////////////////////////////////////////////////////////*/

    error CallAsGuardian();
    error CallAsRequester(address requester);
    error CallAsServer(address server);
    error CallAsParticipant();
    error RequestsStopped();
    error TaskExists(bytes32 id);
    error RequestFirst(Phase phase);
    error AssignFirst(Phase phase);
    error PublishKeyFirst(Phase phase);
    error TaskOver(Phase phase);
    error TaskIsStopping();
    error ChooseServers(uint256 min, uint256 max);
    error FundAtLeast(uint256 budget);
    error LowerBudget();
    error LowerStake();
    error SpaceDeadlines(uint256 window);
    error ShortenWindows(uint256 window);
    error DeadlinePassed(uint256 deadline);
    error WaitUntilAfter(uint256 deadline);
    error ChooseIndexBelow(uint256 servers);
    error AssignExactly(uint256 servers);
    error AssignFewerStores(uint256 max);
    error AssignNodeOnce(uint32 node);
    error AssignOwnerOnce(address owner);
    error ChooseNodeWithRoom(uint32 node);
    error TopUpStake(address owner, uint256 needed);
    error GiveStatementPerServer(uint256 servers);
    error GetSignatureOf(address server);
    error GetSignatureOfTaskKey(address key);
    error GiveKey();
    error GiveResultHash();
    error ServerLeft(uint16 reported);
    error ReportOnce(uint8 index);
    error WaitForReports(uint16 reported);
    error WithdrawAtMost(uint256 amount);
    error NothingToWithdraw();
    error AcceptPayment();

    /*//////////////////////////////////////////////////////////////
                                CONSTANTS
    //////////////////////////////////////////////////////////////*/

    bytes32 private constant SANDBOX_KEY_TYPEHASH =
        keccak256("SandboxKey(bytes32 taskId,address key,bytes32 statementsHash)");
    bytes32 private constant RESULT_TYPEHASH = keccak256("Result(bytes32 taskId,bytes32 resultHash)");

    uint8 private constant STORAGE = 2;
    uint8 private constant COMPUTE = 4;
    uint256 private constant MAX_SERVERS = 16;
    uint256 private constant MAX_STORES = 16;
    /// Between any two deadlines. Without it a requester could assign a server and take its stake a second later.
    uint256 private constant MIN_WINDOW = 60 seconds;
    uint256 private constant MAX_WINDOW = type(uint24).max; // 194 days: three of them share words with what is beside them
    uint256 private constant FIRST_IDS = 6;
    uint256 private constant IDS_PER_WORD = 8;

    /*//////////////////////////////////////////////////////////////
                                 STORAGE
    //////////////////////////////////////////////////////////////*/

    /// `request` writes the first two words, `assign` the third, `publishKey` the fourth. All zero in the third word is Requested.
    struct Task {
        address requester;
        uint8 asked; // servers
        uint40 scheduleBy;
        uint24 keyWindow; // from the deadline before
        uint24 completeWindow;
        // Left as it was when the task is over: zeroing would cost a write that nobody reads.
        uint80 escrow;
        uint80 perServer;
        uint72 stake;
        uint24 reportWindow;
        // What transitions change, and all that most calls need.
        Phase phase;
        bool stopping;
        uint16 reported;
        uint8 servers;
        uint8 stores;
        uint192 ids; // compute ids, then store ids: the first six
        bool inToken; // escrow and pay are in `token`; with the phase, so that a task in the chain's coin reads no word more
        // The result overwrites the key: invalidating the key cannot be forgotten.
        bytes32 keyOrResult;
        uint256[(MAX_SERVERS + MAX_STORES - FIRST_IDS + IDS_PER_WORD - 1) / IDS_PER_WORD] moreIds;
        address token;
    }

    /// Terms as they come, not yet checked to fit their types: `_pack` checks them against what they are packed into.
    struct Words {
        uint256 servers;
        uint256 perServer;
        uint256 stake;
        uint256 scheduleBy;
        uint256 keyBy;
        uint256 completeBy;
        uint256 reportBy;
    }

    struct Stake {
        uint128 free;
        uint128 locked;
    }

    /// `known` keeps the word from going back to zero: taking a place again costs 5,000 and not 22,100.
    struct Places {
        uint32 taken;
        bool known;
    }

    INodeRegistry public immutable registry;

    bool public requestsStopped;
    mapping(bytes32 id => Task) private tasks;
    mapping(address owner => Stake) private stakes;
    mapping(address owner => mapping(address asset => uint256)) public credit;
    mapping(uint32 node => Places) private places;

    constructor(INodeRegistry registry_) {
        registry = registry_;
    }

    /*//////////////////////////////////////////////////////////////
                          REQUEST AND ASSIGNMENT
    //////////////////////////////////////////////////////////////*/

    /// @inheritdoc ITaskScheduler
    function request(bytes32 salt, bytes calldata spec, Terms calldata terms) external payable returns (bytes32 id) {
        return _request(salt, spec, terms, msg.value);
    }

    /// @inheritdoc ITaskScheduler
    function requestWithERC20(bytes32 salt, bytes calldata spec, Terms calldata terms, address token, uint256 budget)
        external
        lock
        returns (bytes32 id)
    {
        id = _request(salt, spec, terms, budget);
        Task storage t = tasks[id];
        (t.inToken, t.token) = (true, token);

        Payments.pullToken(token, msg.sender, budget);
    }

    /// @inheritdoc ITaskScheduler
    function assign(bytes32 id, uint32[] calldata compute, uint32[] calldata stores) external {
        Task storage t = tasks[id];
        if (_phase(t) != Phase.Requested) revert RequestFirst(_phase(t));
        if (msg.sender != t.requester) revert CallAsRequester(t.requester);
        if (block.timestamp > t.scheduleBy) revert DeadlinePassed(t.scheduleBy);
        if (compute.length != t.asked) revert AssignExactly(t.asked);
        if (stores.length > MAX_STORES) revert AssignFewerStores(MAX_STORES);

        uint256 third = uint256(Phase.Assigned) | (compute.length << 32) | (stores.length << 40)
            | (_packIds(t, compute, stores) << 48);
        assembly ("memory-safe") {
            let word := add(t.slot, 2)
            sstore(word, or(sload(word), third)) // all that can stand there is `inToken`
        }
        _engage(compute, t.stake);
        for (uint256 i; i < stores.length; ++i) {
            registry.requireActive(stores[i], STORAGE);
        }

        emit Assigned(id, compute, stores);
    }

    /// @inheritdoc ITaskScheduler
    function publishKey(
        bytes32 id,
        address key,
        bytes32[] calldata statements,
        bytes calldata signatures,
        bytes calldata descriptors
    ) external {
        Task storage t = tasks[id];
        if (t.phase != Phase.Assigned) revert AssignFirst(_phase(t));
        if (t.stopping) revert TaskIsStopping();
        if (t.reported != 0) revert ServerLeft(t.reported);
        if (block.timestamp > _keyBy(t)) revert DeadlinePassed(_keyBy(t));
        if (key == address(0)) revert GiveKey();
        if (statements.length != t.servers) revert GiveStatementPerServer(t.servers);
        bytes32 statementsHash = keccak256(abi.encodePacked(statements));
        bytes32 digest = _digest(keccak256(abi.encode(SANDBOX_KEY_TYPEHASH, id, key, statementsHash)));
        bool fromServer = _requireAllSigned(t, digest, signatures);
        // The signatures do not cover the descriptors: a stranger who saw the transaction could send it first without them.
        if (!fromServer && msg.sender != t.requester) revert CallAsParticipant();

        t.phase = Phase.Running;
        t.keyOrResult = bytes32(uint256(uint160(key)));

        emit KeyPublished(id, key, statements, descriptors);
    }

    /*//////////////////////////////////////////////////////////////
                              REPORT AND END
    //////////////////////////////////////////////////////////////*/

    /// @inheritdoc ITaskScheduler
    function report(bytes32 id, uint8 index) external {
        Task storage t = tasks[id];
        if (t.phase == Phase.None) revert AssignFirst(_phase(t));
        if (t.phase != Phase.Assigned && t.phase != Phase.Running) revert TaskOver(t.phase);
        _requireServer(t, index);
        uint16 reported = t.reported;
        if (_has(reported, index)) revert ReportOnce(index);

        t.reported = reported | _bit(index);
        _release(t, index);

        emit Reported(id, index, msg.sender);
    }

    /// @inheritdoc ITaskScheduler
    function complete(bytes32 id, uint8 index, bytes32 resultHash, bytes calldata signature) external lock {
        Task storage t = tasks[id];
        if (t.phase != Phase.Running) revert PublishKeyFirst(_phase(t));
        if (block.timestamp > _reportBy(t)) revert DeadlinePassed(_reportBy(t));
        _requireServer(t, index);
        if (resultHash == 0) revert GiveResultHash();
        uint16 reported = t.reported | _bit(index);
        // Paying for a result while a sandbox still lives would break the order that may never break.
        if (block.timestamp <= _completeBy(t) && reported != _everybody(t)) revert WaitForReports(reported);
        _requireTaskKey(t, _digest(keccak256(abi.encode(RESULT_TYPEHASH, id, resultHash))), signature);

        if (!_has(t.reported, index)) _release(t, index);
        t.phase = Phase.Completed;
        t.reported = reported;
        t.keyOrResult = resultHash;

        emit Completed(id, resultHash);
        _settle(t, reported, index, t.perServer);
    }

    /// @inheritdoc ITaskScheduler
    function cancel(bytes32 id) external lock {
        Task storage t = tasks[id];
        if (_phase(t) == Phase.None) revert RequestFirst(Phase.None);
        if (msg.sender != t.requester) revert CallAsRequester(t.requester);
        if (t.phase == Phase.None) return _closeUnassigned(id, t);
        if (t.phase != Phase.Assigned && t.phase != Phase.Running) revert TaskOver(t.phase);
        if (t.stopping) revert TaskIsStopping();

        t.stopping = true;

        emit Stopping(id);
    }

    /// @inheritdoc ITaskScheduler
    function refund(bytes32 id) external lock {
        Task storage t = tasks[id];
        Phase phase = _phase(t);
        if (phase == Phase.None) revert RequestFirst(phase);
        if (phase == Phase.Completed || phase == Phase.Closed) revert TaskOver(phase);
        if (phase == Phase.Requested) {
            _requireAfter(t.scheduleBy);
            return _closeUnassigned(id, t);
        }
        uint16 reported = t.reported;
        if (reported != _everybody(t)) _requireAfter(phase == Phase.Assigned ? _keyBy(t) : _reportBy(t));

        // Who was sent home while it worked is paid; who never worked, or stopped by itself, is not.
        uint256 pay = phase == Phase.Running && t.stopping ? t.perServer : 0;
        t.phase = Phase.Closed;
        t.keyOrResult = 0;

        // No chain has 2^96 wei, and an escrow fits 80 bits.
        emit Closed(id, uint96(_settle(t, reported, MAX_SERVERS, pay)));
    }

    /*//////////////////////////////////////////////////////////////
                             STAKE AND CREDIT
    //////////////////////////////////////////////////////////////*/

    /// @inheritdoc ITaskScheduler
    function depositStake() external payable lock {
        Stake storage s = stakes[msg.sender];
        // No chain has 2^128 wei.
        s.free += uint128(msg.value);
        emit StakeChanged(msg.sender, s.free, s.locked);
    }

    /// @inheritdoc ITaskScheduler
    function withdrawStake(uint256 amount) external lock {
        Stake storage s = stakes[msg.sender];
        if (amount > s.free) revert WithdrawAtMost(s.free);

        s.free -= uint128(amount);

        emit StakeChanged(msg.sender, s.free, s.locked);
        if (!Payments.tryPushAll(Payments.ETH, msg.sender, amount)) revert AcceptPayment();
    }

    /// @inheritdoc ITaskScheduler
    function withdrawCredit(address asset) external lock {
        uint256 amount = credit[msg.sender][asset];
        if (amount == 0) revert NothingToWithdraw();

        credit[msg.sender][asset] = 0;

        emit CreditWithdrawn(msg.sender, asset, amount);
        if (!Payments.tryPushAll(asset, msg.sender, amount)) revert AcceptPayment();
    }

    /*//////////////////////////////////////////////////////////////
                                 GUARDIAN
    //////////////////////////////////////////////////////////////*/

    /// @inheritdoc ITaskScheduler
    function stopRequests(bool stopped) external {
        if (msg.sender != registry.guardian()) revert CallAsGuardian();

        requestsStopped = stopped;

        emit RequestsSwitched(stopped);
    }

    /*//////////////////////////////////////////////////////////////
                                  VIEWS
    //////////////////////////////////////////////////////////////*/

    /// @inheritdoc ITaskScheduler
    function task(bytes32 id) external view returns (TaskView memory v) {
        Task storage t = tasks[id];
        v.requester = t.requester;
        v.asset = _asset(t);
        v.phase = _phase(t);
        v.stopping = t.stopping;
        v.reported = t.reported;
        v.escrow = v.phase == Phase.Completed || v.phase == Phase.Closed ? 0 : t.escrow;
        v.terms = Terms({
            servers: t.asked,
            perServer: t.perServer,
            stake: t.stake,
            scheduleBy: t.scheduleBy,
            keyBy: uint40(_keyBy(t)),
            completeBy: uint40(_completeBy(t)),
            reportBy: uint40(_reportBy(t))
        });
        v.keyOrResult = t.keyOrResult;
        v.compute = _ids(t, 0, t.servers);
        v.stores = _ids(t, t.servers, t.stores);
    }

    /// @inheritdoc ITaskScheduler
    function sandboxesOn(uint32 node) external view returns (uint32) {
        return places[node].taken;
    }

    /// @inheritdoc ITaskScheduler
    function stakeOf(address owner) external view returns (uint256 free, uint256 locked) {
        return (stakes[owner].free, stakes[owner].locked);
    }

    /*//////////////////////////////////////////////////////////////
                             CHECKS ON INPUT
    //////////////////////////////////////////////////////////////*/

    /// @dev Writes the first two words of a new task.
    function _request(bytes32 salt, bytes calldata spec, Terms calldata terms, uint256 budget)
        private
        returns (bytes32 id)
    {
        if (requestsStopped) revert RequestsStopped();
        (uint256 first, uint256 second) = _pack(terms, budget);
        assembly ("memory-safe") {
            mstore(0x00, caller())
            mstore(0x20, salt)
            id := keccak256(0x00, 0x40)
        }
        Task storage t = tasks[id];
        if (t.requester != address(0)) revert TaskExists(id);

        assembly ("memory-safe") {
            sstore(t.slot, first)
            sstore(add(t.slot, 1), second)
        }

        emit Requested(id, msg.sender, spec);
    }

    /// @return first @return second the words of a new task: each value is checked to fit its place.
    function _pack(Terms calldata given, uint256 budget) private view returns (uint256 first, uint256 second) {
        Words calldata terms;
        assembly ("memory-safe") {
            terms := given
        }
        unchecked {
            if (terms.servers - 1 >= MAX_SERVERS) revert ChooseServers(1, MAX_SERVERS);
            if (terms.perServer > type(uint96).max) revert LowerBudget();
            uint256 least = terms.servers * terms.perServer; // 5 bits times 96
            if (budget < least) revert FundAtLeast(least);
        }
        // Which a single server's pay then fits too.
        if (budget > type(uint80).max) revert LowerBudget();
        if (terms.stake > type(uint72).max) revert LowerStake();
        if (terms.scheduleBy <= block.timestamp) revert DeadlinePassed(terms.scheduleBy);
        if (terms.scheduleBy > type(uint40).max) revert ShortenWindows(MAX_WINDOW);

        first = uint160(msg.sender) | (terms.servers << 160) | (terms.scheduleBy << 168)
            | (_window(terms.scheduleBy, terms.keyBy) << 208) | (_window(terms.keyBy, terms.completeBy) << 232);
        second = budget | (terms.perServer << 80) | (terms.stake << 160)
            | (_window(terms.completeBy, terms.reportBy) << 232);
    }

    function _window(uint256 from, uint256 to) private pure returns (uint256 window) {
        unchecked {
            window = to - from;
            // What is below the least wraps around.
            if (window - MIN_WINDOW <= MAX_WINDOW - MIN_WINDOW) return window;
        }
        if (to < from + MIN_WINDOW) revert SpaceDeadlines(MIN_WINDOW);
        revert ShortenWindows(MAX_WINDOW);
    }

    /// @return fromServer whether the caller is one of the servers.
    function _requireAllSigned(Task storage t, bytes32 digest, bytes calldata signatures)
        private
        view
        returns (bool fromServer)
    {
        uint256 servers = t.servers;
        for (uint256 i; i < servers; ++i) {
            address server = registry.ownerOf(_idAt(t, i));
            if (msg.sender == server) fromServer = true;
            uint256 from = i * Signatures.LENGTH;
            if (
                signatures.length < from + Signatures.LENGTH
                    || !Signatures.isValid(server, digest, signatures[from:from + Signatures.LENGTH])
            ) revert GetSignatureOf(server);
        }
    }

    function _requireServer(Task storage t, uint8 index) private view {
        if (index >= t.servers) revert ChooseIndexBelow(t.servers);
        address server = registry.ownerOf(_idAt(t, index));
        if (msg.sender != server) revert CallAsServer(server);
    }

    /// @dev The task key is born in the sandboxes and is never a contract.
    function _requireTaskKey(Task storage t, bytes32 digest, bytes calldata signature) private view {
        address key = address(uint160(uint256(t.keyOrResult)));
        if (Signatures.recover(digest, signature) != key) revert GetSignatureOfTaskKey(key);
    }

    function _requireAfter(uint256 deadline) private view {
        if (block.timestamp <= deadline) revert WaitUntilAfter(deadline);
    }

    /*//////////////////////////////////////////////////////////////
                             STAKE AND ROOM
    //////////////////////////////////////////////////////////////*/

    /// @dev Takes one place and the stake of every server. At most 16, so comparing all pairs is cheap.
    function _engage(uint32[] calldata compute, uint96 stake) private {
        address[] memory owners = new address[](compute.length);
        for (uint256 i; i < compute.length; ++i) {
            uint32 node = compute[i];
            (address owner, uint32 capacity) = registry.requireActive(node, COMPUTE);
            for (uint256 j; j < i; ++j) {
                if (compute[j] == node) revert AssignNodeOnce(node);
                if (owners[j] == owner) revert AssignOwnerOnce(owner);
            }
            owners[i] = owner;
            _takePlace(node, capacity);
            _lockStake(owner, stake);
        }
    }

    function _takePlace(uint32 node, uint32 capacity) private {
        Places storage p = places[node];
        uint32 taken = p.taken;
        if (taken >= capacity) revert ChooseNodeWithRoom(node);
        (p.taken, p.known) = (taken + 1, true);
    }

    /// @dev Taking and giving back of stakes is told by Assigned, Reported and Completed; only what they do not tell has its event.
    function _lockStake(address owner, uint256 stake) private {
        if (stake == 0) return;
        Stake storage s = stakes[owner];
        (uint128 free, uint128 locked) = (s.free, s.locked);
        if (free < stake) revert TopUpStake(owner, stake);
        (s.free, s.locked) = (free - uint128(stake), locked + uint128(stake));
    }

    /// @dev The caller's server is done: it can lose nothing any more, so its stake and its place are free at once.
    function _release(Task storage t, uint256 index) private {
        --places[_idAt(t, index)].taken;
        uint128 stake = t.stake;
        if (stake == 0) return;
        Stake storage s = stakes[msg.sender];
        (s.free, s.locked) = (s.free + stake, s.locked - stake);
    }

    /// @dev A server that did not report loses its stake and, as nobody knows better, gets its place back.
    function _slash(uint32 node, address owner, uint128 stake) private {
        --places[node].taken;
        if (stake == 0) return;
        Stake storage s = stakes[owner];
        s.locked -= stake;
        emit StakeChanged(owner, s.free, s.locked);
    }

    /*//////////////////////////////////////////////////////////////
                                  MONEY
    //////////////////////////////////////////////////////////////*/

    function _closeUnassigned(bytes32 id, Task storage t) private {
        t.phase = Phase.Closed;

        emit Closed(id, t.escrow);
        _pay(_asset(t), t.requester, t.escrow);
    }

    /// @dev All bookkeeping first, then the payments. The phase is final before this is called.
    /// @param callers the index of the server that calls, whose owner need not be asked for; MAX_SERVERS for nobody's.
    /// @return rest what the requester gets of the task's asset: the escrow that is not paid out and, when they are in the same
    /// asset, the stakes of those who did not report.
    function _settle(Task storage t, uint256 reported, uint256 callers, uint256 pay) private returns (uint256 rest) {
        rest = t.escrow;
        uint256 forfeited;
        address[] memory paid = new address[](t.servers);
        for (uint256 i; i < paid.length; ++i) {
            uint32 node = _idAt(t, i);
            address owner = i == callers ? msg.sender : registry.ownerOf(node);
            if (_has(reported, i)) {
                paid[i] = owner;
                rest -= pay;
            } else {
                _slash(node, owner, t.stake);
                forfeited += t.stake;
            }
        }

        address asset = _asset(t);
        if (asset == Payments.ETH) (rest, forfeited) = (rest + forfeited, 0);
        for (uint256 i; i < paid.length; ++i) {
            if (paid[i] != address(0)) _pay(asset, paid[i], pay);
        }
        _pay(asset, t.requester, rest);
        _pay(Payments.ETH, t.requester, forfeited);
    }

    function _asset(Task storage t) private view returns (address) {
        return t.inToken ? t.token : Payments.ETH;
    }

    function _pay(address asset, address to, uint256 amount) private {
        if (amount == 0 || Payments.tryPush(asset, to, amount)) return;
        credit[to][asset] += amount;
        emit Credited(to, asset, amount);
    }

    /*//////////////////////////////////////////////////////////////
                           PHASE, DEADLINES, IDS
    //////////////////////////////////////////////////////////////*/

    /// @dev `request` does not write the word that the phase is in.
    function _phase(Task storage t) private view returns (Phase) {
        if (t.phase != Phase.None) return t.phase;
        return t.requester == address(0) ? Phase.None : Phase.Requested;
    }

    function _keyBy(Task storage t) private view returns (uint256) {
        return uint256(t.scheduleBy) + t.keyWindow;
    }

    function _completeBy(Task storage t) private view returns (uint256) {
        return _keyBy(t) + t.completeWindow;
    }

    function _reportBy(Task storage t) private view returns (uint256) {
        return _completeBy(t) + t.reportWindow;
    }

    function _bit(uint8 index) private pure returns (uint16) {
        return uint16(1) << index;
    }

    function _has(uint256 reported, uint256 index) private pure returns (bool) {
        return (reported >> index) & 1 != 0;
    }

    function _everybody(Task storage t) private view returns (uint16) {
        return uint16((uint256(1) << t.servers) - 1);
    }

    /// @return first the word of the first six ids; the others are written here.
    function _packIds(Task storage t, uint32[] calldata compute, uint32[] calldata stores)
        private
        returns (uint256 first)
    {
        uint256 count = compute.length + stores.length;
        uint256 word;
        for (uint256 i = count; i > 0;) {
            --i;
            word = (word << 32) | (i < compute.length ? compute[i] : stores[i - compute.length]);
            if (i == 0) return word;
            if (i >= FIRST_IDS && (i - FIRST_IDS) % IDS_PER_WORD == 0) {
                t.moreIds[(i - FIRST_IDS) / IDS_PER_WORD] = word;
                word = 0;
            }
        }
    }

    function _idAt(Task storage t, uint256 i) private view returns (uint32) {
        if (i < FIRST_IDS) return uint32(t.ids >> (32 * i));
        i -= FIRST_IDS;
        return uint32(t.moreIds[i / IDS_PER_WORD] >> (32 * (i % IDS_PER_WORD)));
    }

    function _ids(Task storage t, uint256 from, uint256 count) private view returns (uint32[] memory ids) {
        ids = new uint32[](count);
        for (uint256 i; i < count; ++i) {
            ids[i] = _idAt(t, from + i);
        }
    }
}
