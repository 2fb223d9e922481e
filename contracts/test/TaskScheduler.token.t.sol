// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {TaskScheduler} from "../src/TaskScheduler.sol";
import {ITaskScheduler} from "../src/interfaces/ITaskScheduler.sol";
import {Lock} from "../src/lib/Lock.sol";
import {Payments} from "../src/lib/Payments.sol";
import {SchedulerBase} from "./TaskScheduler.t.sol";
import {Token} from "./mocks/Token.sol";
import {Wallet} from "./mocks/Wallet.sol";

/// Tasks that are paid in an ERC-20 token. Stakes stay in the chain's coin.
contract TokenTaskTest is SchedulerBase {
    uint256 private constant RICH = 100 ether;

    Token private token;

    function setUp() public override {
        super.setUp();
        token = new Token();
        token.mint(REQUESTER, RICH);
        vm.prank(REQUESTER);
        token.approve(address(scheduler), type(uint256).max);
    }

    function requestTask() internal override {
        vm.prank(REQUESTER);
        id = scheduler.requestWithERC20("salt", "spec", terms, address(token), BUDGET);
    }

    function refused(bytes4 why) private {
        vm.prank(REQUESTER);
        vm.expectPartialRevert(why);
        scheduler.requestWithERC20("salt", "spec", terms, address(token), BUDGET);
    }

    function assertTokens(uint256 requester, uint256 first, uint256 second, uint256 third) private view {
        vm.assertEq(token.balanceOf(REQUESTER), requester, "requester's tokens");
        vm.assertEq(token.balanceOf(owners[0]), first, "first server's tokens");
        vm.assertEq(token.balanceOf(owners[1]), second, "second server's tokens");
        vm.assertEq(token.balanceOf(owners[2]), third, "third server's tokens");
        vm.assertEq(token.balanceOf(address(scheduler)), RICH - requester - first - second - third, "in escrow");
    }

    function test_a_request_locks_its_budget_in_tokens_and_no_coin() public {
        vm.expectEmit();
        emit ITaskScheduler.Requested(keccak256(abi.encode(REQUESTER, bytes32("salt"))), REQUESTER, "spec");
        requestTask();
        assertTokens(RICH - BUDGET, 0, 0, 0);
        vm.assertEq(address(scheduler).balance, 6 ether, "stakes");

        ITaskScheduler.TaskView memory t = scheduler.task(id);
        vm.assertEq(t.asset, address(token), "asset");
        vm.assertEq(t.escrow, BUDGET, "escrow");
        vm.assertEq(t.requester, REQUESTER, "requester");
        assertPhase(ITaskScheduler.Phase.Requested);
        vm.assertEq(keccak256(abi.encode(t.terms)), keccak256(abi.encode(terms)), "terms");
    }

    function test_a_task_in_the_chains_coin_says_so() public {
        super.requestTask();
        vm.assertEq(scheduler.task(id).asset, address(0), "asset");
    }

    function test_everybody_is_paid_in_tokens_and_gets_its_stake_back_in_coin() public {
        runTask();
        ITaskScheduler.TaskView memory t = scheduler.task(id);
        vm.assertEq(t.asset, address(token), "asset");
        vm.assertEq(keccak256(abi.encode(t.compute)), keccak256(abi.encode(compute)), "compute");
        vm.assertEq(keccak256(abi.encode(t.stores)), keccak256(abi.encode(stores)), "stores");
        report(0);
        report(1);
        complete(2);
        assertTokens(RICH - SERVERS * PER_SERVER, PER_SERVER, PER_SERVER, PER_SERVER);
        assertMoved(0, 0, 0, 0);
        for (uint256 i; i < SERVERS; ++i) {
            assertStake(i, 2 ether, 0);
        }
        vm.assertEq(scheduler.task(id).escrow, 0, "escrow");
    }

    function test_who_is_missing_is_not_paid_and_its_stake_goes_to_the_requester_in_coin(uint16 present, uint8 by)
        public
    {
        runTask();
        by = uint8(bound(by, 0, SERVERS - 1));
        uint256 there = 1;
        for (uint8 i; i < SERVERS; ++i) {
            if (i == by || (present >> i) & 1 == 0) continue;
            report(i);
            ++there;
        }
        vm.warp(terms.completeBy + 1);
        complete(by);
        vm.assertEq(token.balanceOf(REQUESTER), RICH - there * PER_SERVER, "tokens");
        vm.assertEq(token.balanceOf(address(scheduler)), 0, "tokens that are left");
        vm.assertEq(REQUESTER.balance, 100 ether + (SERVERS - there) * STAKE, "coin");
        vm.assertEq(address(scheduler).balance, 6 ether - (SERVERS - there) * STAKE, "stakes that are left");
    }

    function test_without_a_key_the_tokens_come_back_and_the_silent_lose_their_stake() public {
        assignTask();
        report(0);
        vm.warp(terms.keyBy + 1);
        vm.expectEmit();
        emit ITaskScheduler.Closed(id, uint96(BUDGET));
        scheduler.refund(id);
        assertTokens(RICH, 0, 0, 0);
        assertMoved(2 * int256(uint256(STAKE)), 0, 0, 0);
    }

    function test_servers_sent_home_while_running_are_paid_in_tokens() public {
        runTask();
        vm.prank(REQUESTER);
        scheduler.cancel(id);
        for (uint8 i; i < SERVERS; ++i) {
            report(i);
        }
        scheduler.refund(id);
        assertTokens(RICH - SERVERS * PER_SERVER, PER_SERVER, PER_SERVER, PER_SERVER);
        assertMoved(0, 0, 0, 0);
    }

    function test_a_task_nobody_was_assigned_to_gives_the_tokens_back() public {
        requestTask();
        vm.prank(REQUESTER);
        scheduler.cancel(id);
        assertTokens(RICH, 0, 0, 0);
        assertMoved(0, 0, 0, 0);
        assertPhase(ITaskScheduler.Phase.Closed);
    }

    function test_what_a_token_will_not_deliver_is_a_credit_in_that_token() public {
        runTask();
        token.setBlocked(owners[0], true);
        report(0);
        report(1);
        vm.expectEmit();
        emit ITaskScheduler.Credited(owners[0], address(token), PER_SERVER);
        complete(2);
        vm.assertEq(scheduler.credit(owners[0], address(token)), PER_SERVER, "credit in tokens");
        vm.assertEq(scheduler.credit(owners[0], address(0)), 0, "credit in coin");

        vm.startPrank(owners[0]);
        vm.expectPartialRevert(TaskScheduler.NothingToWithdraw.selector);
        scheduler.withdrawCredit(address(0));
        vm.expectPartialRevert(TaskScheduler.AcceptPayment.selector);
        scheduler.withdrawCredit(address(token));
        token.setBlocked(owners[0], false);
        vm.expectEmit();
        emit ITaskScheduler.CreditWithdrawn(owners[0], address(token), PER_SERVER);
        scheduler.withdrawCredit(address(token));
        vm.assertEq(token.balanceOf(owners[0]), PER_SERVER, "paid");
        vm.expectPartialRevert(TaskScheduler.NothingToWithdraw.selector);
        scheduler.withdrawCredit(address(token));
    }

    function test_a_requester_that_refuses_coin_has_a_credit_for_the_stakes_and_its_tokens_at_once() public {
        assignTask();
        vm.etch(REQUESTER, address(new Wallet(REQUESTER)).code);
        Wallet(payable(REQUESTER)).setRefusing(true);
        vm.warp(terms.keyBy + 1);
        scheduler.refund(id);
        assertTokens(RICH, 0, 0, 0);
        vm.assertEq(scheduler.credit(REQUESTER, address(0)), SERVERS * STAKE, "stakes");
        vm.assertEq(scheduler.credit(REQUESTER, address(token)), 0, "tokens");
    }

    function test_a_token_that_answers_nothing_is_a_token() public {
        token.setSilent(true);
        requestTask();
        vm.prank(REQUESTER);
        scheduler.cancel(id);
        assertTokens(RICH, 0, 0, 0);
    }

    function test_a_token_that_takes_a_fee_is_refused() public {
        token.setFee(1);
        refused(Payments.UseTokenWithoutFee.selector);
    }

    function test_a_token_that_says_no_is_refused() public {
        token.setFailing(true);
        refused(Payments.ApproveToken.selector);
    }

    function test_without_an_allowance_nothing_is_requested() public {
        vm.prank(REQUESTER);
        token.approve(address(scheduler), BUDGET - 1);
        refused(Payments.ApproveToken.selector);
        vm.assertEq(
            uint256(scheduler.task(keccak256(abi.encode(REQUESTER, bytes32("salt")))).phase), 0, "no task was made"
        );
    }

    function test_what_has_no_code_is_no_token() public {
        vm.startPrank(REQUESTER);
        vm.expectPartialRevert(Payments.UseTokenContract.selector);
        scheduler.requestWithERC20("salt", "spec", terms, STRANGER, BUDGET);
        vm.expectPartialRevert(Payments.UseTokenContract.selector);
        scheduler.requestWithERC20("salt", "spec", terms, address(0), BUDGET);
    }

    function test_the_budget_covers_every_server_and_fits_its_place() public {
        vm.startPrank(REQUESTER);
        vm.expectRevert(abi.encodeWithSelector(TaskScheduler.FundAtLeast.selector, SERVERS * PER_SERVER));
        scheduler.requestWithERC20("salt", "spec", terms, address(token), SERVERS * PER_SERVER - 1);
        token.mint(REQUESTER, 2 ** 80);
        vm.expectPartialRevert(TaskScheduler.LowerBudget.selector);
        scheduler.requestWithERC20("salt", "spec", terms, address(token), 2 ** 80);
        scheduler.requestWithERC20("salt", "spec", terms, address(token), 2 ** 80 - 1);
        vm.assertEq(token.balanceOf(address(scheduler)), 2 ** 80 - 1, "escrow");
    }

    function test_a_salt_is_used_once_whatever_pays() public {
        requestTask();
        refused(TaskScheduler.TaskExists.selector);
        vm.prank(REQUESTER);
        vm.expectPartialRevert(TaskScheduler.TaskExists.selector);
        scheduler.request{value: BUDGET}("salt", "spec", terms);
    }

    function test_the_guardian_stops_requests_in_tokens_too() public {
        vm.prank(GUARDIAN);
        scheduler.stopRequests(true);
        refused(TaskScheduler.RequestsStopped.selector);
    }

    /// While it moves, the token tries every function that moves money or changes a task.
    function test_a_token_that_calls_back_finds_everything_locked() public {
        token.setHook(address(this), abi.encodeCall(this.tryEverything, ()));
        requestTask();
        vm.assertEq(locked, 7, "locked");
    }

    uint256 private locked;

    function tryEverything() external {
        bytes[7] memory calls = [
            abi.encodeCall(scheduler.requestWithERC20, ("other", "spec", terms, address(token), BUDGET)),
            abi.encodeCall(scheduler.complete, (id, 0, RESULT, "")),
            abi.encodeCall(scheduler.cancel, (id)),
            abi.encodeCall(scheduler.refund, (id)),
            abi.encodeCall(scheduler.depositStake, ()),
            abi.encodeCall(scheduler.withdrawStake, (1)),
            abi.encodeCall(scheduler.withdrawCredit, (address(token)))
        ];
        for (uint256 i; i < calls.length; ++i) {
            (, bytes memory why) = address(scheduler).call(calls[i]);
            if (bytes4(why) == Lock.DoNotReenter.selector) ++locked;
        }
    }
}
