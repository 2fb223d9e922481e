// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {TaskScheduler} from "../src/TaskScheduler.sol";
import {ITaskScheduler} from "../src/interfaces/ITaskScheduler.sol";
import {Lock} from "../src/lib/Lock.sol";
import {SchedulerBase} from "./TaskScheduler.t.sol";
import {Wallet} from "./mocks/Wallet.sol";

/// The last value that is good and the first that is not; what is not done when there is nothing to do.
contract SchedulerEdgesTest is SchedulerBase {
    /// Half the order of secp256k1: the highest `s` that is not malleable.
    uint256 private constant HALF_ORDER = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0;

    function test_one_to_sixteen_servers() public {
        for (uint256 servers; servers <= 17; servers += 17) {
            terms.servers = uint8(servers);
            vm.prank(REQUESTER);
            vm.expectRevert(abi.encodeWithSelector(TaskScheduler.ChooseServers.selector, 1, 16));
            scheduler.request{value: BUDGET}("salt", "spec", terms);
        }
    }

    function test_a_task_that_nobody_was_assigned_to_has_nothing_to_report() public {
        requestTask();
        vm.prank(owners[0]);
        vm.expectRevert(abi.encodeWithSelector(TaskScheduler.AssignFirst.selector, ITaskScheduler.Phase.Requested));
        scheduler.report(id, 0);
    }

    function test_at_report_by_a_result_still_counts() public {
        runTask();
        vm.warp(terms.reportBy);
        complete(0);
        assertPhase(ITaskScheduler.Phase.Completed);
    }

    function test_a_task_of_one_server_and_no_store_shows_its_server() public {
        terms.servers = 1;
        compute = [compute[0]];
        stores = new uint32[](0);
        assignTask();
        vm.assertEq(scheduler.task(id).compute.length, 1, "compute");
        vm.assertEq(scheduler.task(id).compute[0], compute[0], "server");
        vm.assertEq(scheduler.task(id).stores.length, 0, "stores");
    }

    function test_the_event_of_a_loss_says_what_is_left() public {
        terms.stake = 0.5 ether;
        assignTask();
        vm.warp(terms.keyBy + 1);
        vm.expectEmit();
        emit ITaskScheduler.StakeChanged(owners[0], 1.5 ether, 0);
        scheduler.refund(id);
    }

    function test_a_task_without_stake_tells_nothing_of_stakes() public {
        terms.stake = 0;
        requestTask();
        vm.recordLogs();
        vm.prank(REQUESTER);
        scheduler.assign(id, compute, stores);
        vm.assertEq(vm.getRecordedLogs().length, 1, "Assigned");
        report(0);
        vm.assertEq(vm.getRecordedLogs().length, 1, "Reported");
        vm.warp(terms.keyBy + 1);
        scheduler.refund(id);
        vm.assertEq(vm.getRecordedLogs().length, 1, "Closed");
    }

    function test_a_requester_that_gets_nothing_back_is_not_called() public {
        vm.prank(REQUESTER);
        id = scheduler.request{value: SERVERS * PER_SERVER}("salt", "spec", terms);
        vm.prank(REQUESTER);
        scheduler.assign(id, compute, stores);
        bytes memory signed = signatures();
        vm.prank(REQUESTER);
        scheduler.publishKey(id, vm.addr(TASK_KEY), statements, signed, "");
        report(0);
        report(1);
        vm.expectCall(REQUESTER, "", 0);
        complete(2);
        assertMoved(-0.3 ether, 0.1 ether, 0.1 ether, 0.1 ether);
    }

    function test_refused_payments_add_up() public {
        Wallet wallet = new Wallet(REQUESTER);
        vm.deal(address(wallet), 2 ether);
        wallet.setRefusing(true);
        for (uint256 i; i < 2; ++i) {
            wallet.run(address(scheduler), 1 ether, abi.encodeCall(scheduler.request, (bytes32(i), "", terms)));
            id = keccak256(abi.encode(wallet, i));
            wallet.run(address(scheduler), 0, abi.encodeCall(scheduler.cancel, (id)));
        }
        vm.assertEq(scheduler.credit(address(wallet), address(0)), 2 ether, "credit");
    }

    /*//////////////////////////////////////////////////////////////
                               THE TASK KEY
    //////////////////////////////////////////////////////////////*/

    /// A result's digest does not depend on the key, so for any signature whatever there is a key that made it.
    function runWithKeyOf(uint256 s) private returns (bytes memory signature) {
        assignTask();
        bytes32 typehash = keccak256("Result(bytes32 taskId,bytes32 resultHash)");
        bytes32 hash = digest(address(scheduler), keccak256(abi.encode(typehash, id, RESULT)));
        bytes32 r = bytes32(uint256(1)); // the curve has a point with this x
        address key = ecrecover(hash, 27, r, bytes32(s));
        require(key != address(0), "no such signature");
        publish(key);
        return abi.encodePacked(r, s, uint8(27));
    }

    function publish(address key) private {
        bytes32 typehash = keccak256("SandboxKey(bytes32 taskId,address key,bytes32 statementsHash)");
        bytes32 hash = keccak256(abi.encode(typehash, id, key, keccak256(abi.encodePacked(statements))));
        bytes memory signed;
        for (uint256 i; i < SERVERS; ++i) {
            signed = bytes.concat(signed, sign(keys[i], digest(address(scheduler), hash)));
        }
        vm.prank(REQUESTER);
        scheduler.publishKey(id, key, statements, signed, "");
        for (uint8 i; i < SERVERS; ++i) {
            report(i);
        }
    }

    function test_the_highest_s_of_the_lower_half_is_good() public {
        bytes memory signature = runWithKeyOf(HALF_ORDER);
        vm.prank(owners[0]);
        scheduler.complete(id, 0, RESULT, signature);
        assertPhase(ITaskScheduler.Phase.Completed);
    }

    function test_the_lowest_s_of_the_upper_half_is_not() public {
        bytes memory signature = runWithKeyOf(HALF_ORDER + 1);
        vm.prank(owners[0]);
        vm.expectPartialRevert(TaskScheduler.GetSignatureOfTaskKey.selector);
        scheduler.complete(id, 0, RESULT, signature);
    }

    function test_what_is_no_signature_was_signed_by_nobody() public {
        assignTask();
        publish(address(1));
        bytes[3] memory malformed =
            [bytes(""), new bytes(64), abi.encodePacked(bytes32(uint256(1)), HALF_ORDER + 1, uint8(27))];
        for (uint256 i; i < malformed.length; ++i) {
            vm.prank(owners[0]);
            vm.expectPartialRevert(TaskScheduler.GetSignatureOfTaskKey.selector);
            scheduler.complete(id, 0, RESULT, malformed[i]);
        }
    }

    /// A payee that is being paid tries every function that moves money or changes a task.
    function test_every_function_that_pays_is_locked_while_money_moves() public {
        Wallet wallet = new Wallet(REQUESTER);
        bytes[6] memory calls = [
            abi.encodeCall(scheduler.complete, (id, 0, RESULT, "")),
            abi.encodeCall(scheduler.cancel, (id)),
            abi.encodeCall(scheduler.refund, (id)),
            abi.encodeCall(scheduler.depositStake, ()),
            abi.encodeCall(scheduler.withdrawStake, (1)),
            abi.encodeCall(scheduler.withdrawCredit, (address(0)))
        ];
        for (uint256 i; i < calls.length; ++i) {
            vm.deal(address(wallet), 1);
            wallet.run(address(scheduler), 1, abi.encodeCall(scheduler.depositStake, ()));
            wallet.setReentry(address(scheduler), calls[i]);
            wallet.run(address(scheduler), 0, abi.encodeCall(scheduler.withdrawStake, (1)));
            vm.assertEq(bytes32(wallet.answer()), bytes32(Lock.DoNotReenter.selector), "locked");
        }
    }
}
