// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {ITaskScheduler} from "../src/interfaces/ITaskScheduler.sol";
import {SchedulerBase} from "./TaskScheduler.t.sol";
import {Token} from "./mocks/Token.sol";
import {Wallet} from "./mocks/Wallet.sol";

/// Runs many tasks on three servers in any order of events, paid in coin or in a token. The first server's owner is a contract that
/// now and then refuses money, and the token does not always want to pay it.
/// No call here may revert: the guards are known, so a revert is a bug.
contract SchedulerHandler is SchedulerBase {
    bytes32[] private tasks;
    Token public token = new Token();

    constructor() {
        setUp();
        token.mint(REQUESTER, 1e30);
        vm.prank(REQUESTER);
        token.approve(address(scheduler), type(uint256).max);
        vm.deal(REQUESTER, 1e30);
        for (uint256 i; i < SERVERS; ++i) {
            vm.deal(owners[i], 1e30);
        }
        vm.etch(owners[0], address(new Wallet(owners[0])).code);
    }

    modifier on(uint256 seed) {
        id = tasks.length == 0 ? bytes32(0) : tasks[seed % tasks.length];
        _;
    }

    function request(uint96 stake, uint96 perServer, uint96 extra, bool inToken) external on(0) {
        if (tasks.length >= 6 && !allOver()) return;
        uint40 now_ = uint40(vm.getBlockTimestamp());
        terms.stake = uint96(bound(stake, 0, 3 ether));
        terms.perServer = uint96(bound(perServer, 0, 1 ether));
        (terms.scheduleBy, terms.keyBy) = (now_ + 100, now_ + 200);
        (terms.completeBy, terms.reportBy) = (now_ + 300, now_ + 400);
        uint256 budget = SERVERS * terms.perServer + bound(extra, 0, 1 ether);
        bytes32 salt = bytes32(tasks.length);
        vm.prank(REQUESTER);
        if (inToken) tasks.push(scheduler.requestWithERC20(salt, "spec", terms, address(token), budget));
        else tasks.push(scheduler.request{value: budget}(salt, "spec", terms));
    }

    function assign(uint256 seed) external on(seed) {
        ITaskScheduler.TaskView memory t = scheduler.task(id);
        if (t.phase != ITaskScheduler.Phase.Requested || past(t.terms.scheduleBy)) return;
        for (uint256 i; i < SERVERS; ++i) {
            (uint256 free,) = scheduler.stakeOf(owners[i]);
            if (free < t.terms.stake || full(compute[i])) return;
        }
        vm.prank(REQUESTER);
        scheduler.assign(id, compute, stores);
    }

    function setCapacity(uint256 who, uint256 capacity) external on(0) {
        who %= SERVERS;
        vm.prank(owners[who]);
        registry.setCapacity(compute[who], uint32(bound(capacity, 1, 4)));
    }

    function publishKey(uint256 seed) external on(seed) {
        ITaskScheduler.TaskView memory t = scheduler.task(id);
        if (t.phase != ITaskScheduler.Phase.Assigned || t.stopping || t.reported != 0 || past(t.terms.keyBy)) return;
        bytes memory signed = signatures();
        vm.prank(REQUESTER);
        scheduler.publishKey(id, vm.addr(TASK_KEY), statements, signed, "");
    }

    function reportOne(uint256 seed, uint8 index) external on(seed) {
        index = uint8(bound(index, 0, SERVERS - 1));
        ITaskScheduler.TaskView memory t = scheduler.task(id);
        if (!engaged(t) || (t.reported >> index) & 1 != 0) return;
        report(index);
    }

    function completeOne(uint256 seed, uint8 index) external on(seed) {
        index = uint8(bound(index, 0, SERVERS - 1));
        ITaskScheduler.TaskView memory t = scheduler.task(id);
        if (t.phase != ITaskScheduler.Phase.Running || past(t.terms.reportBy)) return;
        if (t.reported | (1 << index) != 7 && !past(t.terms.completeBy)) return;
        complete(index);
        require(scheduler.task(id).keyOrResult == RESULT, "the key survived its task");
    }

    function cancel(uint256 seed) external on(seed) {
        ITaskScheduler.TaskView memory t = scheduler.task(id);
        if (t.stopping || (t.phase != ITaskScheduler.Phase.Requested && !engaged(t))) return;
        vm.prank(REQUESTER);
        scheduler.cancel(id);
    }

    function refund(uint256 seed, bool wait) external on(seed) {
        ITaskScheduler.TaskView memory t = scheduler.task(id);
        bool requested = t.phase == ITaskScheduler.Phase.Requested;
        if (!requested && !engaged(t)) return;
        uint256 deadline = requested
            ? t.terms.scheduleBy
            : t.phase == ITaskScheduler.Phase.Assigned ? t.terms.keyBy : t.terms.reportBy;
        if ((requested || t.reported != 7) && !past(deadline)) {
            if (!wait) return;
            vm.warp(deadline + 1);
        }
        scheduler.refund(id);
        require(scheduler.task(id).keyOrResult == 0, "the key survived its task");
    }

    function pass(uint256 time) external on(0) {
        vm.warp(vm.getBlockTimestamp() + bound(time, 0, 60));
    }

    function depositStake(uint96 amount, uint256 who) external on(0) {
        vm.prank(owners[who % SERVERS]);
        scheduler.depositStake{value: bound(amount, 0, 9 ether)}();
    }

    function withdraw(uint96 amount, uint256 who) external on(0) {
        address owner = owners[who % SERVERS];
        if (owner == owners[0] && Wallet(payable(owner)).refusing()) return;
        (uint256 free,) = scheduler.stakeOf(owner);
        vm.prank(owner);
        scheduler.withdrawStake(bound(amount, 0, free));
        withdrawCredit(owner, address(0));
        if (!token.blocked(owner)) withdrawCredit(owner, address(token));
    }

    function withdrawCredit(address owner, address asset) private {
        if (scheduler.credit(owner, asset) == 0) return;
        vm.prank(owner);
        scheduler.withdrawCredit(asset);
    }

    function refuse(bool refusing) external on(0) {
        Wallet(payable(owners[0])).setRefusing(refusing);
    }

    function blockTokens(bool blocked) external on(0) {
        token.setBlocked(owners[0], blocked);
    }

    /// Escrows of live tasks and credits in an asset, and in coin the stakes.
    function owed(address asset) external view returns (uint256 sum) {
        for (uint256 i; i < tasks.length; ++i) {
            ITaskScheduler.TaskView memory t = scheduler.task(tasks[i]);
            if (t.asset == asset) sum += t.escrow;
        }
        for (uint256 i; i < SERVERS; ++i) {
            (uint256 free, uint256 locked) = scheduler.stakeOf(owners[i]);
            sum += scheduler.credit(owners[i], asset);
            if (asset == address(0)) sum += free + locked;
        }
        sum += scheduler.credit(REQUESTER, asset);
    }

    function held(address asset) external view returns (uint256) {
        return asset == address(0) ? address(scheduler).balance : token.balanceOf(address(scheduler));
    }

    /// What a server has locked, and its places taken, are those of the live tasks it has not reported.
    function checkServer(uint256 index) external view {
        uint256 stake;
        uint256 places;
        for (uint256 i; i < tasks.length; ++i) {
            ITaskScheduler.TaskView memory t = scheduler.task(tasks[i]);
            if (!engaged(t) || (t.reported >> index) & 1 != 0) continue;
            stake += t.terms.stake;
            ++places;
        }
        (, uint256 locked) = scheduler.stakeOf(owners[index]);
        vm.assertEq(locked, stake, "locked stake");
        vm.assertEq(scheduler.sandboxesOn(compute[index]), places, "places");
    }

    function engaged(ITaskScheduler.TaskView memory t) private pure returns (bool) {
        return t.phase == ITaskScheduler.Phase.Assigned || t.phase == ITaskScheduler.Phase.Running;
    }

    function full(uint32 node) private view returns (bool) {
        return scheduler.sandboxesOn(node) >= registry.node(node).capacity;
    }

    function past(uint256 deadline) private view returns (bool) {
        return vm.getBlockTimestamp() > deadline;
    }

    function allOver() private view returns (bool) {
        for (uint256 i; i < tasks.length; ++i) {
            if (uint256(scheduler.task(tasks[i]).phase) < uint256(ITaskScheduler.Phase.Completed)) return false;
        }
        return true;
    }
}

contract SchedulerInvariantTest is SchedulerBase {
    SchedulerHandler internal handler;

    function setUp() public override {
        handler = new SchedulerHandler();
    }

    function targetContracts() external view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(handler);
    }

    function excludeSelectors() external view returns (FuzzSelector[] memory excluded) {
        excluded = new FuzzSelector[](1);
        excluded[0].addr = address(handler);
        excluded[0].selectors = new bytes4[](1);
        excluded[0].selectors[0] = SchedulerBase.setUp.selector;
    }

    function invariant_money_in_is_escrows_and_stakes_and_credits() external view {
        address token = address(handler.token());
        vm.assertEq(handler.held(address(0)), handler.owed(address(0)), "coin");
        vm.assertEq(handler.held(token), handler.owed(token), "tokens");
    }

    function invariant_every_lock_and_every_place_has_a_live_task() external view {
        for (uint256 i; i < SERVERS; ++i) {
            handler.checkServer(i);
        }
    }
}
