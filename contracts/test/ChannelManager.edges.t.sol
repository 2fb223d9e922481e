// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {ChannelManager} from "../src/ChannelManager.sol";
import {IChannelManager} from "../src/interfaces/IChannelManager.sol";
import {Lock} from "../src/lib/Lock.sol";
import {ChannelBase} from "./ChannelManager.t.sol";
import {Token} from "./mocks/Token.sol";
import {Wallet} from "./mocks/Wallet.sol";

/// The last value that is good and the first that is not; what is not done when there is nothing to do.
contract ChannelEdgesTest is ChannelBase {
    function openWith(uint256 period) internal {
        use(terms(address(0), 1, period, 0));
        vm.prank(a);
        manager.open{value: 1}(id, 1, 1);
    }

    function test_the_challenge_period_is_a_minute_and_not_a_second_less() public {
        openWith(60);
        vm.expectRevert(abi.encodeWithSelector(ChannelManager.ChooseChallengePeriod.selector, 60, 30 days));
        this.openFromOutside(59);
    }

    function test_the_challenge_period_is_thirty_days_and_not_a_second_more() public {
        openWith(30 days);
        vm.expectRevert(abi.encodeWithSelector(ChannelManager.ChooseChallengePeriod.selector, 60, 30 days));
        this.openFromOutside(30 days + 1);
    }

    function openFromOutside(uint256 period) external {
        openWith(period);
    }

    function test_a_total_that_just_fits_one_balance_is_locked() public {
        vm.deal(a, type(uint96).max);
        vm.prank(a);
        manager.open{value: type(uint80).max - 1}(id, type(uint80).max - 1, 1);
        vm.prank(b);
        manager.join{value: 1}(id, 1);
        assertChannel(IChannelManager.Phase.Open, 0, type(uint80).max - 1, 1);
    }

    function test_opening_in_one_transaction_locks_both_deposits() public {
        vm.prank(b);
        manager.depositCredit{value: DEPOSIT_B}();
        bytes memory signature = signOpen(keyB, 1, DEPOSIT_A, DEPOSIT_B, block.timestamp);
        vm.expectEmit();
        emit IChannelManager.Opened(cid, word(0x02, 1 << 40, 0, DEPOSIT_A, DEPOSIT_B));
        vm.prank(a);
        manager.openBoth{value: DEPOSIT_A}(id, DEPOSIT_A, DEPOSIT_B, block.timestamp, signature);
        assertChannel(IChannelManager.Phase.Open, 0, DEPOSIT_A, DEPOSIT_B);
        assertNoDeadline();
    }

    function test_only_a_dispute_has_a_deadline() public {
        vm.prank(a);
        manager.open{value: DEPOSIT_A}(id, DEPOSIT_A, DEPOSIT_B);
        assertNoDeadline();
        vm.prank(a);
        manager.cancel(id);
        assertNoDeadline();
        openChannel();
        assertNoDeadline();

        IChannelManager.State memory opening = state(0, DEPOSIT_A);
        vm.prank(a);
        manager.challenge(id, opening, "");
        vm.assertEq(manager.channel(cid).deadline, block.timestamp + PERIOD, "deadline");
        vm.warp(block.timestamp + PERIOD + 1);
        manager.finalize(id);
        assertNoDeadline();
    }

    function assertNoDeadline() internal view {
        vm.assertEq(manager.channel(cid).deadline, 0, "deadline");
    }

    function test_whoever_gets_nothing_is_not_called() public {
        openChannel();
        IChannelManager.State memory s = state(1, 0);
        bytes memory fromA = signClose(keyA, s);
        vm.expectCall(a, "", 0);
        vm.prank(b);
        manager.close(id, s, fromA, "");
    }

    function test_a_token_is_not_asked_to_move_nothing() public {
        Token token = new Token();
        use(terms(address(token), 7, PERIOD, PENALTY_BPS));
        vm.expectCall(address(token), "", 0);
        vm.prank(a);
        manager.open(id, 0, 0);
        vm.prank(b);
        manager.join(id, 1);
        IChannelManager.State memory s = stateOf(1, 1, 0, 0);
        bytes memory fromA = signClose(keyA, s);
        vm.prank(b);
        manager.close(id, s, fromA, "");
    }

    function test_closing_needs_no_more_gas_than_the_two_payees_may_burn() public {
        openChannel();
        IChannelManager.State memory s = state(1, 1 ether);
        bytes memory fromA = signClose(keyA, s);
        vm.prank(b);
        manager.close{gas: 250_000}(id, s, fromA, "");
        assertChannel(IChannelManager.Phase.Closed, 1, 0, 0);
    }

    /// A payee that is being paid tries every function that pays.
    function test_every_function_that_pays_is_locked_while_money_moves() public {
        Wallet wallet = new Wallet(a);
        IChannelManager.State memory s = stateOf(1, 1, 0, 0);
        bytes[5] memory calls = [
            abi.encodeCall(manager.cancel, (id)),
            abi.encodeCall(manager.close, (id, s, "", "")),
            abi.encodeCall(manager.finalize, (id)),
            abi.encodeCall(manager.depositCredit, ()),
            abi.encodeCall(manager.withdrawCredit, (address(0)))
        ];
        for (uint256 i; i < calls.length; ++i) {
            vm.deal(address(wallet), 1);
            wallet.run(address(manager), 1, abi.encodeCall(manager.depositCredit, ()));
            wallet.setReentry(address(manager), calls[i]);
            wallet.run(address(manager), 0, abi.encodeCall(manager.withdrawCredit, (address(0))));
            vm.assertEq(bytes32(wallet.answer()), bytes32(Lock.DoNotReenter.selector), "locked");
        }
    }
}
