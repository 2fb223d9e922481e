// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {NodeRegistry} from "../src/NodeRegistry.sol";
import {TaskScheduler} from "../src/TaskScheduler.sol";
import {INodeRegistry} from "../src/interfaces/INodeRegistry.sol";
import {ITaskScheduler} from "../src/interfaces/ITaskScheduler.sol";
import {Base} from "./Base.sol";
import {Wallet} from "./mocks/Wallet.sol";

/// A requester, three computing servers of three owners, one store.
abstract contract SchedulerBase is Base {
    uint8 internal constant STORAGE = 2;
    uint8 internal constant COMPUTE = 4;
    uint96 internal constant PER_SERVER = 0.1 ether;
    uint96 internal constant STAKE = 1 ether;
    uint256 internal constant BUDGET = 0.5 ether;
    uint256 internal constant SERVERS = 3;
    address internal constant GUARDIAN = address(0x600D);
    address internal constant REQUESTER = address(0xCAFE);
    address internal constant STRANGER = address(0x5757);
    uint256 internal constant TASK_KEY = 0x7A5C;
    bytes32 internal constant RESULT = keccak256("result");

    NodeRegistry internal registry;
    TaskScheduler internal scheduler;
    uint256[] internal keys;
    address[] internal owners;
    uint32[] internal compute;
    uint32[] internal stores;
    bytes32[] internal statements;
    ITaskScheduler.Terms internal terms;
    bytes32 internal id;

    function setUp() public virtual {
        vm.warp(1_800_000_000);
        registry = NodeRegistry(create("NodeRegistry", type(NodeRegistry).creationCode, abi.encode(GUARDIAN)));
        scheduler = TaskScheduler(create("TaskScheduler", type(TaskScheduler).creationCode, abi.encode(registry)));
        vm.deal(REQUESTER, 100 ether);
        for (uint256 i; i < SERVERS; ++i) {
            keys.push(0x5E00 + i);
            owners.push(vm.addr(keys[i]));
            vm.deal(owners[i], 10 ether);
            compute.push(register(owners[i], COMPUTE));
            statements.push(keccak256(abi.encode("statement", i)));
            vm.prank(owners[i]);
            scheduler.depositStake{value: 2 ether}();
        }
        stores.push(register(STRANGER, STORAGE));
        terms = ITaskScheduler.Terms({
            servers: uint8(SERVERS),
            perServer: PER_SERVER,
            stake: STAKE,
            scheduleBy: uint40(block.timestamp + 100),
            keyBy: uint40(block.timestamp + 200),
            completeBy: uint40(block.timestamp + 300),
            reportBy: uint40(block.timestamp + 400)
        });
    }

    function register(address owner, uint8 roles) internal returns (uint32) {
        vm.prank(owner);
        bytes32[2] memory proof;
        return registry.register(roles, roles & COMPUTE == 0 ? 0 : 2, "identity", "onion", "192.0.2.1:1", proof);
    }

    function requestTask() internal virtual {
        vm.prank(REQUESTER);
        id = scheduler.request{value: BUDGET}("salt", "spec", terms);
    }

    function assignTask() internal {
        requestTask();
        vm.prank(REQUESTER);
        scheduler.assign(id, compute, stores);
    }

    function runTask() internal {
        assignTask();
        bytes memory signed = signatures();
        vm.prank(REQUESTER);
        scheduler.publishKey(id, vm.addr(TASK_KEY), statements, signed, "descriptors");
    }

    function signatures() internal view returns (bytes memory all) {
        for (uint256 i; i < keys.length; ++i) {
            all = bytes.concat(all, signKey(keys[i]));
        }
    }

    function signKey(uint256 key) internal view returns (bytes memory) {
        bytes32 typehash = keccak256("SandboxKey(bytes32 taskId,address key,bytes32 statementsHash)");
        bytes32 hash = keccak256(abi.encode(typehash, id, vm.addr(TASK_KEY), keccak256(abi.encodePacked(statements))));
        return sign(key, digest(address(scheduler), hash));
    }

    function signResult(uint256 key, bytes32 result) internal view returns (bytes memory) {
        bytes32 typehash = keccak256("Result(bytes32 taskId,bytes32 resultHash)");
        return sign(key, digest(address(scheduler), keccak256(abi.encode(typehash, id, result))));
    }

    function report(uint8 index) internal {
        vm.prank(owners[index]);
        scheduler.report(id, index);
    }

    function complete(uint8 index) internal {
        bytes memory signature = signResult(TASK_KEY, RESULT);
        vm.prank(owners[index]);
        scheduler.complete(id, index, RESULT, signature);
    }

    function assertPhase(ITaskScheduler.Phase phase) internal view {
        vm.assertEq(uint256(scheduler.task(id).phase), uint256(phase), "phase");
    }

    function assertStake(uint256 index, uint256 free, uint256 locked) internal view {
        (uint256 free_, uint256 locked_) = scheduler.stakeOf(owners[index]);
        vm.assertEq(free_, free, "free stake");
        vm.assertEq(locked_, locked, "locked stake");
    }

    /// What each started with is known; this is what the task moved.
    function assertMoved(int256 requester, int256 first, int256 second, int256 third) internal view {
        vm.assertEq(REQUESTER.balance, uint256(100 ether + requester), "requester");
        vm.assertEq(owners[0].balance, uint256(8 ether + first), "first server");
        vm.assertEq(owners[1].balance, uint256(8 ether + second), "second server");
        vm.assertEq(owners[2].balance, uint256(8 ether + third), "third server");
    }
}

contract RequestTest is SchedulerBase {
    function test_a_request_locks_its_budget() public {
        bytes32 expected = keccak256(abi.encode(REQUESTER, bytes32("salt")));
        vm.expectEmit();
        emit ITaskScheduler.Requested(expected, REQUESTER, "spec");
        requestTask();
        vm.assertEq(id, expected, "id");
        vm.assertEq(address(scheduler).balance, BUDGET + 6 ether, "budget and stakes");

        ITaskScheduler.TaskView memory t = scheduler.task(id);
        vm.assertEq(t.requester, REQUESTER, "requester");
        vm.assertEq(uint256(t.phase), uint256(ITaskScheduler.Phase.Requested), "phase");
        vm.assertEq(t.escrow, BUDGET, "escrow");
        vm.assertEq(keccak256(abi.encode(t.terms)), keccak256(abi.encode(terms)), "terms");
        vm.assertEq(t.keyOrResult, 0, "no key yet");
        vm.assertEq(t.compute.length + t.stores.length, 0, "no nodes yet");
    }

    function test_a_salt_is_used_once() public {
        requestTask();
        vm.prank(REQUESTER);
        vm.expectRevert(abi.encodeWithSelector(TaskScheduler.TaskExists.selector, id));
        scheduler.request{value: BUDGET}("salt", "spec", terms);
    }

    function test_a_salt_of_a_closed_task_is_used_up_too() public {
        requestTask();
        vm.startPrank(REQUESTER);
        scheduler.cancel(id);
        vm.expectPartialRevert(TaskScheduler.TaskExists.selector);
        scheduler.request{value: BUDGET}("salt", "spec", terms);
    }

    function test_one_to_sixteen_servers(uint8 servers) public {
        terms.servers = servers;
        terms.perServer = 0;
        vm.prank(REQUESTER);
        if (servers == 0 || servers > 16) vm.expectPartialRevert(TaskScheduler.ChooseServers.selector);
        scheduler.request("salt", "spec", terms);
    }

    function test_the_budget_covers_every_server() public {
        vm.prank(REQUESTER);
        vm.expectRevert(abi.encodeWithSelector(TaskScheduler.FundAtLeast.selector, SERVERS * PER_SERVER));
        scheduler.request{value: SERVERS * PER_SERVER - 1}("salt", "spec", terms);
    }

    function test_deadlines_leave_time_to_act() public {
        uint40 now_ = uint40(block.timestamp);
        vm.startPrank(REQUESTER);
        (terms.scheduleBy, terms.keyBy) = (now_, now_ + 100);
        vm.expectPartialRevert(TaskScheduler.DeadlinePassed.selector);
        scheduler.request{value: BUDGET}("salt", "spec", terms);
        (terms.scheduleBy, terms.keyBy) = (now_ + 1, now_ + 60);
        vm.expectPartialRevert(TaskScheduler.SpaceDeadlines.selector);
        scheduler.request{value: BUDGET}("salt", "spec", terms);
        (terms.keyBy, terms.completeBy) = (now_ + 61, now_ + 120);
        vm.expectPartialRevert(TaskScheduler.SpaceDeadlines.selector);
        scheduler.request{value: BUDGET}("salt", "spec", terms);
        (terms.completeBy, terms.reportBy) = (now_ + 121, now_ + 180);
        vm.expectPartialRevert(TaskScheduler.SpaceDeadlines.selector);
        scheduler.request{value: BUDGET}("salt", "spec", terms);
        terms.reportBy = now_ + 181;
        scheduler.request{value: BUDGET}("salt", "spec", terms);
    }

    function test_the_guardian_stops_new_requests_and_nothing_else() public {
        vm.expectPartialRevert(TaskScheduler.CallAsGuardian.selector);
        scheduler.stopRequests(true);
        runTask();
        vm.expectEmit();
        emit ITaskScheduler.RequestsSwitched(true);
        vm.prank(GUARDIAN);
        scheduler.stopRequests(true);

        vm.prank(REQUESTER);
        vm.expectPartialRevert(TaskScheduler.RequestsStopped.selector);
        scheduler.request{value: BUDGET}("another", "spec", terms);
        report(0);
        report(1);
        complete(2);
        assertPhase(ITaskScheduler.Phase.Completed);
    }
}

contract AssignTest is SchedulerBase {
    function setUp() public override {
        super.setUp();
        requestTask();
    }

    function refused(bytes4 why) internal {
        vm.prank(REQUESTER);
        vm.expectPartialRevert(why);
        scheduler.assign(id, compute, stores);
    }

    function test_an_assignment_takes_stake_and_a_place_of_every_server() public {
        vm.expectEmit();
        emit ITaskScheduler.Assigned(id, compute, stores);
        vm.prank(REQUESTER);
        scheduler.assign(id, compute, stores);

        assertPhase(ITaskScheduler.Phase.Assigned);
        ITaskScheduler.TaskView memory t = scheduler.task(id);
        vm.assertEq(keccak256(abi.encode(t.compute)), keccak256(abi.encode(compute)), "compute");
        vm.assertEq(keccak256(abi.encode(t.stores)), keccak256(abi.encode(stores)), "stores");
        for (uint256 i; i < SERVERS; ++i) {
            assertStake(i, 1 ether, 1 ether);
            vm.assertEq(scheduler.sandboxesOn(compute[i]), 1, "place");
        }
    }

    function test_only_the_requester_assigns() public {
        vm.prank(STRANGER);
        vm.expectPartialRevert(TaskScheduler.CallAsRequester.selector);
        scheduler.assign(id, compute, stores);
    }

    function test_a_task_is_assigned_once() public {
        vm.prank(REQUESTER);
        scheduler.assign(id, compute, stores);
        refused(TaskScheduler.RequestFirst.selector);
    }

    function test_it_is_too_late_after_schedule_by() public {
        vm.warp(terms.scheduleBy + 1);
        refused(TaskScheduler.DeadlinePassed.selector);
        vm.warp(terms.scheduleBy);
        vm.prank(REQUESTER);
        scheduler.assign(id, compute, stores);
    }

    function test_as_many_servers_as_requested() public {
        compute.pop();
        refused(TaskScheduler.AssignExactly.selector);
    }

    function test_not_too_many_stores() public {
        for (uint256 i; i < 16; ++i) {
            stores.push(stores[0]);
        }
        refused(TaskScheduler.AssignFewerStores.selector);
    }

    function test_one_node_is_not_two_servers() public {
        compute[2] = compute[0];
        refused(TaskScheduler.AssignNodeOnce.selector);
    }

    function test_one_owner_is_not_two_servers() public {
        compute[2] = register(owners[0], COMPUTE);
        refused(TaskScheduler.AssignOwnerOnce.selector);
    }

    function test_a_server_has_the_compute_role_and_a_store_the_storage_role() public {
        (compute[0], stores[0]) = (stores[0], compute[0]);
        refused(NodeRegistry.NodeLacksRole.selector);
        (compute[0], stores[0]) = (stores[0], compute[1]);
        refused(NodeRegistry.NodeLacksRole.selector);
    }

    function test_an_unknown_node_is_refused() public {
        compute[0] = 99;
        refused(NodeRegistry.RegisterNodeFirst.selector);
    }

    function test_a_suspended_node_is_refused() public {
        vm.prank(GUARDIAN);
        registry.setSuspended(compute[1], true);
        refused(NodeRegistry.NodeNotActive.selector);
    }

    function test_a_draining_store_is_refused() public {
        vm.prank(STRANGER);
        registry.setStatus(stores[0], INodeRegistry.Status.Draining);
        refused(NodeRegistry.NodeNotActive.selector);
    }

    function test_a_full_node_is_refused_until_a_sandbox_is_gone() public {
        vm.startPrank(REQUESTER);
        scheduler.assign(id, compute, stores);
        scheduler.assign(scheduler.request{value: BUDGET}("2", "spec", terms), compute, stores);
        bytes32 third = scheduler.request{value: BUDGET}("3", "spec", terms);
        vm.stopPrank();
        for (uint256 i; i < SERVERS; ++i) {
            vm.prank(owners[i]);
            scheduler.depositStake{value: 1 ether}();
        }
        vm.prank(REQUESTER);
        vm.expectRevert(abi.encodeWithSelector(TaskScheduler.ChooseNodeWithRoom.selector, compute[0]));
        scheduler.assign(third, compute, stores);

        report(0);
        report(1);
        report(2);
        vm.prank(REQUESTER);
        scheduler.assign(third, compute, stores);
    }

    function test_a_server_that_lowers_its_capacity_keeps_its_tasks_and_gets_no_more() public {
        vm.startPrank(REQUESTER);
        scheduler.assign(id, compute, stores);
        bytes32 second = scheduler.request{value: BUDGET}("2", "spec", terms);
        vm.stopPrank();
        setCapacity(1);
        vm.prank(REQUESTER);
        vm.expectRevert(abi.encodeWithSelector(TaskScheduler.ChooseNodeWithRoom.selector, compute[0]));
        scheduler.assign(second, compute, stores);
        setCapacity(2);
        vm.prank(REQUESTER);
        scheduler.assign(second, compute, stores);
        setCapacity(1);
        report(0);
        report(1);
        report(2);
    }

    function setCapacity(uint32 capacity) private {
        for (uint256 i; i < SERVERS; ++i) {
            vm.prank(owners[i]);
            registry.setCapacity(compute[i], capacity);
        }
    }

    function test_a_server_without_the_stake_is_refused() public {
        vm.prank(owners[2]);
        scheduler.withdrawStake(1.5 ether);
        vm.prank(REQUESTER);
        vm.expectRevert(abi.encodeWithSelector(TaskScheduler.TopUpStake.selector, owners[2], STAKE));
        scheduler.assign(id, compute, stores);
    }

    function test_a_task_without_stake_needs_none() public {
        terms.stake = 0;
        vm.prank(REQUESTER);
        id = scheduler.request{value: BUDGET}("free", "spec", terms);
        vm.prank(REQUESTER);
        scheduler.assign(id, compute, stores);
        assertStake(0, 2 ether, 0);
    }

    function test_sixteen_servers_and_sixteen_stores_fit() public {
        for (uint256 i = SERVERS; i < 16; ++i) {
            compute.push(register(address(uint160(0x9000 + i)), COMPUTE));
        }
        while (stores.length < 16) stores.push(stores[0]);
        terms.servers = 16;
        (terms.perServer, terms.stake) = (0, 0);
        vm.startPrank(REQUESTER);
        id = scheduler.request("many", "spec", terms);
        scheduler.assign(id, compute, stores);
        ITaskScheduler.TaskView memory t = scheduler.task(id);
        vm.assertEq(keccak256(abi.encode(t.compute)), keccak256(abi.encode(compute)), "compute");
        vm.assertEq(keccak256(abi.encode(t.stores)), keccak256(abi.encode(stores)), "stores");
    }
}

contract PublishKeyTest is SchedulerBase {
    function setUp() public override {
        super.setUp();
        assignTask();
    }

    function refused(bytes4 why, bytes memory signed) internal {
        vm.prank(REQUESTER);
        vm.expectPartialRevert(why);
        scheduler.publishKey(id, vm.addr(TASK_KEY), statements, signed, "");
    }

    function test_with_every_signature_the_requester_publishes_the_key() public {
        bytes memory signed = signatures();
        vm.expectEmit();
        emit ITaskScheduler.KeyPublished(id, vm.addr(TASK_KEY), statements, "descriptors");
        vm.prank(REQUESTER);
        scheduler.publishKey(id, vm.addr(TASK_KEY), statements, signed, "descriptors");
        assertPhase(ITaskScheduler.Phase.Running);
        vm.assertEq(scheduler.task(id).keyOrResult, bytes32(uint256(uint160(vm.addr(TASK_KEY)))), "key");
    }

    function test_so_does_a_server() public {
        bytes memory signed = signatures();
        vm.prank(owners[1]);
        scheduler.publishKey(id, vm.addr(TASK_KEY), statements, signed, "");
        assertPhase(ITaskScheduler.Phase.Running);
    }

    function test_a_stranger_cannot_publish_first_and_drop_the_descriptors() public {
        bytes memory signed = signatures();
        vm.prank(STRANGER);
        vm.expectPartialRevert(TaskScheduler.CallAsParticipant.selector);
        scheduler.publishKey(id, vm.addr(TASK_KEY), statements, signed, "");
    }

    function test_a_key_is_published_once() public {
        bytes memory signed = signatures();
        vm.prank(REQUESTER);
        scheduler.publishKey(id, vm.addr(TASK_KEY), statements, signed, "");
        refused(TaskScheduler.AssignFirst.selector, signed);
    }

    function test_a_missing_signature_is_named() public {
        bytes memory two = bytes.concat(signKey(keys[0]), signKey(keys[1]));
        vm.expectRevert(abi.encodeWithSelector(TaskScheduler.GetSignatureOf.selector, owners[2]));
        scheduler.publishKey(id, vm.addr(TASK_KEY), statements, two, "");
    }

    function test_a_wrong_signature_is_named() public {
        bytes memory wrong = bytes.concat(signKey(keys[0]), signKey(TASK_KEY), signKey(keys[2]));
        vm.expectRevert(abi.encodeWithSelector(TaskScheduler.GetSignatureOf.selector, owners[1]));
        scheduler.publishKey(id, vm.addr(TASK_KEY), statements, wrong, "");
    }

    function test_signatures_are_in_the_order_of_the_servers() public {
        refused(
            TaskScheduler.GetSignatureOf.selector, bytes.concat(signKey(keys[1]), signKey(keys[0]), signKey(keys[2]))
        );
    }

    function test_a_malleable_signature_is_refused() public {
        bytes memory twisted = bytes.concat(malleate(signKey(keys[0])), signKey(keys[1]), signKey(keys[2]));
        refused(TaskScheduler.GetSignatureOf.selector, twisted);
    }

    function test_a_signature_covers_key_statements_and_task() public {
        bytes memory signed = signatures();
        vm.expectPartialRevert(TaskScheduler.GetSignatureOf.selector);
        scheduler.publishKey(id, STRANGER, statements, signed, "");
        statements[1] = "another statement";
        refused(TaskScheduler.GetSignatureOf.selector, signed);
    }

    function test_there_is_a_key_and_a_statement_of_every_server() public {
        bytes memory signed = signatures();
        vm.expectPartialRevert(TaskScheduler.GiveKey.selector);
        scheduler.publishKey(id, address(0), statements, signed, "");
        statements.pop();
        refused(TaskScheduler.GiveStatementPerServer.selector, signed);
    }

    function test_it_is_too_late_after_key_by() public {
        bytes memory signed = signatures();
        vm.warp(terms.keyBy + 1);
        refused(TaskScheduler.DeadlinePassed.selector, signed);
        vm.warp(terms.keyBy);
        vm.prank(REQUESTER);
        scheduler.publishKey(id, vm.addr(TASK_KEY), statements, signed, "");
    }

    function test_a_task_that_is_stopping_gets_no_key() public {
        bytes memory signed = signatures();
        vm.prank(REQUESTER);
        scheduler.cancel(id);
        refused(TaskScheduler.TaskIsStopping.selector, signed);
    }

    function test_a_task_that_a_server_left_gets_no_key() public {
        bytes memory signed = signatures();
        report(1);
        refused(TaskScheduler.ServerLeft.selector, signed);
    }

    function test_a_node_suspended_meanwhile_still_serves_its_task() public {
        vm.prank(GUARDIAN);
        registry.setSuspended(compute[0], true);
        bytes memory signed = signatures();
        vm.prank(REQUESTER);
        scheduler.publishKey(id, vm.addr(TASK_KEY), statements, signed, "");
        report(0);
        report(1);
        complete(2);
        assertMoved(-0.3 ether, 0.1 ether, 0.1 ether, 0.1 ether);
    }

    function test_a_contract_that_owns_a_server_signs_by_ERC1271() public {
        Wallet wallet = new Wallet(vm.addr(keys[0]));
        vm.deal(address(wallet), 2 ether);
        compute[0] = register(address(wallet), COMPUTE);
        wallet.run(address(scheduler), 2 ether, abi.encodeCall(TaskScheduler.depositStake, ()));
        vm.startPrank(REQUESTER);
        id = scheduler.request{value: BUDGET}("contract", "spec", terms);
        scheduler.assign(id, compute, stores);
        vm.stopPrank();
        bytes memory signed = signatures();
        vm.prank(REQUESTER);
        scheduler.publishKey(id, vm.addr(TASK_KEY), statements, signed, "");
        assertPhase(ITaskScheduler.Phase.Running);
    }
}

contract CompleteTest is SchedulerBase {
    function setUp() public override {
        super.setUp();
        runTask();
    }

    function completeRefused(uint8 index, bytes4 why) internal {
        bytes memory signature = signResult(TASK_KEY, RESULT);
        vm.prank(owners[index]);
        vm.expectPartialRevert(why);
        scheduler.complete(id, index, RESULT, signature);
    }

    function test_a_report_frees_stake_and_place_at_once() public {
        vm.expectEmit();
        emit ITaskScheduler.Reported(id, 0, owners[0]);
        report(0);
        assertStake(0, 2 ether, 0);
        vm.assertEq(scheduler.sandboxesOn(compute[0]), 0, "place");
        vm.assertEq(scheduler.task(id).reported, 1, "reported");
    }

    function test_a_report_is_the_servers_own_and_made_once() public {
        vm.prank(owners[0]);
        vm.expectRevert(abi.encodeWithSelector(TaskScheduler.CallAsServer.selector, owners[1]));
        scheduler.report(id, 1);
        vm.prank(owners[0]);
        vm.expectPartialRevert(TaskScheduler.ChooseIndexBelow.selector);
        scheduler.report(id, 3);
        report(0);
        vm.prank(owners[0]);
        vm.expectPartialRevert(TaskScheduler.ReportOnce.selector);
        scheduler.report(id, 0);
    }

    function test_when_all_others_reported_the_last_completes_and_everybody_is_paid() public {
        report(0);
        report(2);
        vm.expectEmit();
        emit ITaskScheduler.Completed(id, RESULT);
        complete(1);

        assertPhase(ITaskScheduler.Phase.Completed);
        assertMoved(-0.3 ether, 0.1 ether, 0.1 ether, 0.1 ether);
        ITaskScheduler.TaskView memory t = scheduler.task(id);
        vm.assertEq(t.keyOrResult, RESULT, "the result overwrites the key");
        vm.assertEq(t.escrow, 0, "nothing is left");
        vm.assertEq(t.reported, 7, "all reported");
        for (uint256 i; i < SERVERS; ++i) {
            assertStake(i, 2 ether, 0);
            vm.assertEq(scheduler.sandboxesOn(compute[i]), 0, "place");
        }
        vm.assertEq(address(scheduler).balance, 6 ether, "stakes only");
    }

    function test_completing_before_all_others_reported_is_refused() public {
        completeRefused(1, TaskScheduler.WaitForReports.selector);
        report(0);
        completeRefused(1, TaskScheduler.WaitForReports.selector);
        vm.warp(terms.completeBy);
        completeRefused(1, TaskScheduler.WaitForReports.selector);
    }

    function test_after_complete_by_the_missing_are_not_paid_and_lose_their_stake() public {
        report(0);
        vm.warp(terms.completeBy + 1);
        vm.expectEmit();
        emit ITaskScheduler.StakeChanged(owners[2], 1 ether, 0);
        complete(1);
        assertMoved(-0.2 ether + 1 ether, 0.1 ether, 0.1 ether, 0);
        assertStake(2, 1 ether, 0);
        vm.assertEq(scheduler.task(id).reported, 3, "who reported");
        vm.assertEq(scheduler.sandboxesOn(compute[2]), 0, "place");
    }

    function test_a_server_that_reported_may_still_complete() public {
        report(0);
        report(1);
        report(2);
        complete(1);
        assertMoved(-0.3 ether, 0.1 ether, 0.1 ether, 0.1 ether);
    }

    function test_only_a_server_completes() public {
        report(0);
        report(1);
        bytes memory signature = signResult(TASK_KEY, RESULT);
        vm.prank(STRANGER);
        vm.expectPartialRevert(TaskScheduler.CallAsServer.selector);
        scheduler.complete(id, 2, RESULT, signature);
    }

    function test_the_result_is_signed_by_the_task_key() public {
        report(0);
        report(1);
        bytes memory wrong = signResult(keys[2], RESULT);
        vm.startPrank(owners[2]);
        vm.expectRevert(abi.encodeWithSelector(TaskScheduler.GetSignatureOfTaskKey.selector, vm.addr(TASK_KEY)));
        scheduler.complete(id, 2, RESULT, wrong);
        bytes memory other = signResult(TASK_KEY, "other");
        vm.expectPartialRevert(TaskScheduler.GetSignatureOfTaskKey.selector);
        scheduler.complete(id, 2, RESULT, other);
        bytes memory none = signResult(TASK_KEY, 0);
        vm.expectPartialRevert(TaskScheduler.GiveResultHash.selector);
        scheduler.complete(id, 2, 0, none);
    }

    function test_it_is_too_late_after_report_by() public {
        vm.warp(terms.reportBy + 1);
        completeRefused(0, TaskScheduler.DeadlinePassed.selector);
    }

    function test_nothing_follows_completion() public {
        report(0);
        report(1);
        complete(2);
        completeRefused(2, TaskScheduler.PublishKeyFirst.selector);
        vm.expectPartialRevert(TaskScheduler.TaskOver.selector);
        scheduler.refund(id);
        vm.prank(REQUESTER);
        vm.expectPartialRevert(TaskScheduler.TaskOver.selector);
        scheduler.cancel(id);
        vm.prank(owners[0]);
        vm.expectPartialRevert(TaskScheduler.TaskOver.selector);
        scheduler.report(id, 0);
    }

    function test_a_server_that_refuses_its_pay_has_a_credit() public {
        Wallet wallet = new Wallet(owners[0]);
        vm.etch(owners[0], address(wallet).code);
        Wallet(payable(owners[0])).setRefusing(true);
        report(0);
        report(1);
        vm.expectEmit();
        emit ITaskScheduler.Credited(owners[0], address(0), PER_SERVER);
        complete(2);
        assertMoved(-0.3 ether, 0, 0.1 ether, 0.1 ether);
        vm.assertEq(scheduler.credit(owners[0], address(0)), PER_SERVER, "credit");

        vm.prank(owners[0]);
        vm.expectPartialRevert(TaskScheduler.AcceptPayment.selector);
        scheduler.withdrawCredit(address(0));
        Wallet(payable(owners[0])).setRefusing(false);
        vm.startPrank(owners[0]);
        scheduler.withdrawCredit(address(0));
        assertMoved(-0.3 ether, 0.1 ether, 0.1 ether, 0.1 ether);
        vm.expectPartialRevert(TaskScheduler.NothingToWithdraw.selector);
        scheduler.withdrawCredit(address(0));
    }

    function test_any_set_of_the_missing_conserves_the_money(uint16 present, uint8 by) public {
        by = uint8(bound(by, 0, SERVERS - 1));
        uint256 there = 1;
        for (uint8 i; i < SERVERS; ++i) {
            if (i == by || (present >> i) & 1 == 0) continue;
            report(i);
            ++there;
        }
        vm.warp(terms.completeBy + 1);
        complete(by);
        vm.assertEq(REQUESTER.balance, 100 ether - there * PER_SERVER + (SERVERS - there) * STAKE, "requester");
        vm.assertEq(address(scheduler).balance, 6 ether - (SERVERS - there) * STAKE, "stakes that are left");
    }
}

contract CancelAndRefundTest is SchedulerBase {
    function cancel() internal {
        vm.prank(REQUESTER);
        scheduler.cancel(id);
    }

    function refundRefused(bytes4 why) internal {
        vm.expectPartialRevert(why);
        scheduler.refund(id);
    }

    function test_only_the_requester_cancels() public {
        vm.prank(STRANGER);
        vm.expectPartialRevert(TaskScheduler.RequestFirst.selector);
        scheduler.cancel(id);
        requestTask();
        vm.prank(STRANGER);
        vm.expectPartialRevert(TaskScheduler.CallAsRequester.selector);
        scheduler.cancel(id);
    }

    function test_a_task_that_does_not_exist_has_nothing_to_refund_or_report() public {
        refundRefused(TaskScheduler.RequestFirst.selector);
        vm.expectPartialRevert(TaskScheduler.AssignFirst.selector);
        scheduler.report(id, 0);
    }

    function test_a_requested_task_is_cancelled_and_refunded_at_once() public {
        requestTask();
        vm.expectEmit();
        emit ITaskScheduler.Closed(id, uint96(BUDGET));
        cancel();
        assertMoved(0, 0, 0, 0);
        assertPhase(ITaskScheduler.Phase.Closed);
        vm.assertEq(scheduler.task(id).escrow, 0, "escrow");
        refundRefused(TaskScheduler.TaskOver.selector);
    }

    function test_a_request_nobody_assigned_is_refunded_after_schedule_by() public {
        requestTask();
        vm.warp(terms.scheduleBy);
        refundRefused(TaskScheduler.WaitUntilAfter.selector);
        vm.warp(terms.scheduleBy + 1);
        vm.prank(STRANGER);
        scheduler.refund(id);
        assertMoved(0, 0, 0, 0);
    }

    function test_cancelling_an_assigned_task_asks_the_servers_to_stop() public {
        assignTask();
        vm.expectEmit();
        emit ITaskScheduler.Stopping(id);
        cancel();
        vm.assertTrue(scheduler.task(id).stopping, "stopping");
        assertPhase(ITaskScheduler.Phase.Assigned);
        vm.prank(REQUESTER);
        vm.expectPartialRevert(TaskScheduler.TaskIsStopping.selector);
        scheduler.cancel(id);
        refundRefused(TaskScheduler.WaitUntilAfter.selector);

        for (uint8 i; i < SERVERS; ++i) {
            report(i);
        }
        scheduler.refund(id);
        assertMoved(0, 0, 0, 0);
        for (uint256 i; i < SERVERS; ++i) {
            assertStake(i, 2 ether, 0);
        }
    }

    function test_without_a_key_the_silent_lose_their_stake_after_key_by() public {
        assignTask();
        report(0);
        vm.warp(terms.keyBy);
        refundRefused(TaskScheduler.WaitUntilAfter.selector);
        vm.warp(terms.keyBy + 1);
        vm.expectEmit();
        emit ITaskScheduler.Closed(id, uint96(BUDGET + 2 * STAKE));
        scheduler.refund(id);
        assertMoved(2 ether, 0, 0, 0);
        assertStake(0, 2 ether, 0);
        assertStake(1, 1 ether, 0);
        assertStake(2, 1 ether, 0);
    }

    function test_a_late_report_counts_until_somebody_refunds() public {
        assignTask();
        vm.warp(terms.keyBy + 1);
        report(0);
        scheduler.refund(id);
        assertStake(0, 2 ether, 0);
        assertStake(1, 1 ether, 0);
    }

    function test_servers_sent_home_while_running_are_paid() public {
        runTask();
        cancel();
        assertPhase(ITaskScheduler.Phase.Running);
        for (uint8 i; i < SERVERS; ++i) {
            report(i);
        }
        vm.expectEmit();
        emit ITaskScheduler.Closed(id, uint96(BUDGET - SERVERS * PER_SERVER));
        scheduler.refund(id);
        assertMoved(-0.3 ether, 0.1 ether, 0.1 ether, 0.1 ether);
        vm.assertEq(scheduler.task(id).keyOrResult, 0, "the key is gone");
    }

    function test_servers_that_stop_by_themselves_are_not_paid() public {
        runTask();
        for (uint8 i; i < SERVERS; ++i) {
            report(i);
        }
        scheduler.refund(id);
        assertMoved(0, 0, 0, 0);
        vm.assertEq(scheduler.task(id).keyOrResult, 0, "the key is gone");
    }

    function test_a_result_that_overtakes_the_stop_still_counts() public {
        runTask();
        report(0);
        report(1);
        cancel();
        complete(2);
        assertMoved(-0.3 ether, 0.1 ether, 0.1 ether, 0.1 ether);
    }

    function test_without_a_result_the_silent_lose_their_stake_after_report_by() public {
        runTask();
        report(2);
        vm.warp(terms.reportBy);
        refundRefused(TaskScheduler.WaitUntilAfter.selector);
        vm.warp(terms.reportBy + 1);
        scheduler.refund(id);
        assertMoved(2 ether, 0, 0, 0);
        assertStake(0, 1 ether, 0);
        assertStake(1, 1 ether, 0);
        assertStake(2, 2 ether, 0);
        vm.assertEq(address(scheduler).balance, 4 ether, "stakes that are left");
    }

    function test_a_stopped_task_pays_the_present_and_slashes_the_silent() public {
        runTask();
        cancel();
        report(0);
        vm.warp(terms.reportBy + 1);
        scheduler.refund(id);
        assertMoved(-0.1 ether + 2 ether, 0.1 ether, 0, 0);
    }
}

contract StakeTest is SchedulerBase {
    function test_free_stake_is_withdrawn_and_locked_stake_is_not() public {
        assignTask();
        vm.startPrank(owners[0]);
        vm.expectRevert(abi.encodeWithSelector(TaskScheduler.WithdrawAtMost.selector, 1 ether));
        scheduler.withdrawStake(1 ether + 1);
        vm.expectEmit();
        emit ITaskScheduler.StakeChanged(owners[0], 0, 1 ether);
        scheduler.withdrawStake(1 ether);
        vm.assertEq(owners[0].balance, 9 ether, "withdrawn");
        assertStake(0, 0, 1 ether);
    }

    function test_a_deposit_adds_to_the_free_stake() public {
        vm.expectEmit();
        emit ITaskScheduler.StakeChanged(owners[0], 3 ether, 0);
        vm.prank(owners[0]);
        scheduler.depositStake{value: 1 ether}();
    }

    function test_a_withdrawal_the_owner_refuses_changes_nothing() public {
        Wallet wallet = new Wallet(owners[0]);
        vm.deal(address(wallet), 1 ether);
        wallet.run(address(scheduler), 1 ether, abi.encodeCall(TaskScheduler.depositStake, ()));
        wallet.setRefusing(true);
        vm.expectPartialRevert(TaskScheduler.AcceptPayment.selector);
        wallet.run(address(scheduler), 0, abi.encodeCall(TaskScheduler.withdrawStake, (1 ether)));
    }
}
