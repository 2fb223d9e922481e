// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {ChannelManager} from "../src/ChannelManager.sol";
import {IChannelManager} from "../src/interfaces/IChannelManager.sol";
import {Lock} from "../src/lib/Lock.sol";
import {Payments} from "../src/lib/Payments.sol";
import {Word} from "../src/lib/Words.sol";
import {Base} from "./Base.sol";
import {Token} from "./mocks/Token.sol";
import {Wallet} from "./mocks/Wallet.sol";

/// A channel between two plain accounts, and everything both may do to it and to each other.
abstract contract ChannelBase is Base {
    uint80 internal constant DEPOSIT_A = 3 ether;
    uint80 internal constant DEPOSIT_B = 1 ether;
    uint80 internal constant TOTAL = DEPOSIT_A + DEPOSIT_B;
    uint256 internal constant PERIOD = 1 hours;
    uint256 internal constant PENALTY_BPS = 1_000;
    address internal constant STRANGER = address(0x5757);

    ChannelManager internal manager;
    uint256 internal keyA = 0xA11CE;
    uint256 internal keyB = 0xB0B;
    address internal a;
    address internal b;
    IChannelManager.Id internal id;
    bytes32 internal cid;

    function setUp() public virtual {
        vm.warp(1_800_000_000);
        manager = ChannelManager(create("ChannelManager", type(ChannelManager).creationCode, ""));
        if (vm.addr(keyA) > vm.addr(keyB)) (keyA, keyB) = (keyB, keyA);
        (a, b) = (vm.addr(keyA), vm.addr(keyB));
        vm.deal(a, 100 ether);
        vm.deal(b, 100 ether);
        use(terms(address(0), 7, PERIOD, PENALTY_BPS));
    }

    function use(uint256 terms_) internal {
        id = IChannelManager.Id({a: a, b: b, terms: terms_});
        cid = keccak256(abi.encode(a, b, terms_));
    }

    function terms(address asset, uint256 lane, uint256 period, uint256 bps) internal pure returns (uint256) {
        return (uint256(uint160(asset)) << 96) | (lane << 48) | (period << 16) | bps;
    }

    function openChannel() internal {
        vm.prank(a);
        manager.open{value: DEPOSIT_A}(id, DEPOSIT_A, DEPOSIT_B);
        uint16 epoch = manager.channel(cid).epoch;
        vm.prank(b);
        manager.join{value: DEPOSIT_B}(id, epoch);
    }

    /// A state of the current epoch in which `a` has `balanceA` and `b` the rest.
    function state(uint40 sequence, uint80 balanceA) internal view returns (IChannelManager.State memory) {
        return stateOf(manager.channel(cid).epoch, sequence, balanceA, TOTAL - balanceA);
    }

    function stateOf(uint16 epoch, uint40 sequence, uint80 balanceA, uint80 balanceB)
        internal
        pure
        returns (IChannelManager.State memory)
    {
        return IChannelManager.State({
            version: (uint56(epoch) << 40) | sequence,
            balanceA: balanceA,
            balanceB: balanceB,
            dataHash: keccak256("transcript")
        });
    }

    function signState(uint256 key, IChannelManager.State memory s) internal view returns (bytes memory) {
        return signAs("State", key, s);
    }

    function signClose(uint256 key, IChannelManager.State memory s) internal view returns (bytes memory) {
        return signAs("Close", key, s);
    }

    function signAs(string memory kind, uint256 key, IChannelManager.State memory s)
        private
        view
        returns (bytes memory)
    {
        bytes32 typehash = keccak256(
            abi.encodePacked(
                kind, "(bytes32 channelId,uint56 version,uint80 balanceA,uint80 balanceB,bytes32 dataHash)"
            )
        );
        bytes32 hash = keccak256(abi.encode(typehash, cid, s.version, s.balanceA, s.balanceB, s.dataHash));
        return sign(key, digest(address(manager), hash));
    }

    function signOpen(uint256 key, uint16 epoch, uint80 depositA, uint80 depositB, uint256 deadline)
        internal
        view
        returns (bytes memory)
    {
        bytes32 typehash =
            keccak256("Open(bytes32 channelId,uint16 epoch,uint80 depositA,uint80 depositB,uint256 deadline)");
        bytes32 hash = keccak256(abi.encode(typehash, cid, epoch, depositA, depositB, deadline));
        return sign(key, digest(address(manager), hash));
    }

    /// The word of a channel, put together here as the specification says it: flags and phase in the first eight bits.
    function word(uint8 first, uint56 version, uint32 deadline, uint80 balanceA, uint80 balanceB)
        internal
        pure
        returns (Word)
    {
        return Word.wrap(uint256(bytes32(abi.encodePacked(first, version, deadline, balanceA, balanceB))));
    }

    function assertChannel(IChannelManager.Phase phase, uint40 sequence, uint80 balanceA, uint80 balanceB)
        internal
        view
    {
        IChannelManager.ChannelView memory c = manager.channel(cid);
        vm.assertEq(uint256(c.phase), uint256(phase), "phase");
        vm.assertEq(c.sequence, sequence, "sequence");
        vm.assertEq(c.balanceA, balanceA, "balance a");
        vm.assertEq(c.balanceB, balanceB, "balance b");
    }
}

contract OpeningTest is ChannelBase {
    function test_the_id_is_the_hash_of_parties_and_terms() public view {
        vm.assertEq(manager.channelId(id), cid, "id");
    }

    function test_a_opens_and_b_joins() public {
        vm.expectEmit();
        emit IChannelManager.Opening(cid, word(0x01, 1 << 40, 0, DEPOSIT_A, DEPOSIT_B));
        vm.prank(a);
        manager.open{value: DEPOSIT_A}(id, DEPOSIT_A, DEPOSIT_B);
        assertChannel(IChannelManager.Phase.Opening, 0, DEPOSIT_A, DEPOSIT_B);

        vm.expectEmit();
        emit IChannelManager.Opened(cid, word(0x02, 1 << 40, 0, DEPOSIT_A, DEPOSIT_B));
        vm.prank(b);
        manager.join{value: DEPOSIT_B}(id, 1);
        assertChannel(IChannelManager.Phase.Open, 0, DEPOSIT_A, DEPOSIT_B);
        vm.assertEq(address(manager).balance, TOTAL, "locked");
    }

    function test_b_opens_and_a_joins() public {
        vm.prank(b);
        manager.open{value: DEPOSIT_B}(id, DEPOSIT_B, DEPOSIT_A);
        vm.prank(a);
        manager.join{value: DEPOSIT_A}(id, 1);
        assertChannel(IChannelManager.Phase.Open, 0, DEPOSIT_A, DEPOSIT_B);
    }

    function test_a_side_may_deposit_nothing_but_must_still_join() public {
        vm.prank(a);
        manager.open{value: DEPOSIT_A}(id, DEPOSIT_A, 0);
        assertChannel(IChannelManager.Phase.Opening, 0, DEPOSIT_A, 0);
        vm.prank(b);
        manager.join(id, 1);
        assertChannel(IChannelManager.Phase.Open, 0, DEPOSIT_A, 0);
    }

    function test_the_opener_cannot_join_itself() public {
        vm.startPrank(a);
        manager.open{value: DEPOSIT_A}(id, DEPOSIT_A, DEPOSIT_B);
        vm.expectRevert(abi.encodeWithSelector(ChannelManager.CallAsPeer.selector, b));
        manager.join{value: DEPOSIT_B}(id, 1);
    }

    function test_a_stranger_cannot_open() public {
        vm.deal(STRANGER, 1 ether);
        vm.prank(STRANGER);
        vm.expectPartialRevert(ChannelManager.CallAsParty.selector);
        manager.open{value: 1 ether}(id, 1 ether, 0);
    }

    function test_parties_are_in_ascending_order() public {
        (id.a, id.b) = (b, a);
        vm.prank(a);
        vm.expectPartialRevert(ChannelManager.OrderPartiesAscending.selector);
        manager.open{value: 1}(id, 1, 1);
    }

    function test_a_party_is_not_its_own_peer() public {
        id.b = a;
        vm.prank(a);
        vm.expectPartialRevert(ChannelManager.OrderPartiesAscending.selector);
        manager.open{value: 1}(id, 1, 1);
    }

    function test_nobody_is_no_party() public {
        id.a = address(0);
        vm.prank(b);
        vm.expectPartialRevert(ChannelManager.OrderPartiesAscending.selector);
        manager.open{value: 1}(id, 1, 1);
    }

    function test_the_challenge_period_is_a_minute_to_thirty_days(uint32 period) public {
        use(terms(address(0), 1, period, 0));
        bool good = period >= 60 && period <= 30 days;
        vm.prank(a);
        if (!good) vm.expectPartialRevert(ChannelManager.ChooseChallengePeriod.selector);
        manager.open{value: 1}(id, 1, 1);
    }

    function test_the_penalty_is_at_most_everything(uint16 bps) public {
        use(terms(address(0), 1, PERIOD, bps));
        vm.prank(a);
        if (bps > 10_000) vm.expectPartialRevert(ChannelManager.ChoosePenaltyUpTo.selector);
        manager.open{value: 1}(id, 1, 1);
    }

    function test_deposits_are_paid_exactly() public {
        vm.startPrank(a);
        vm.expectRevert(abi.encodeWithSelector(Payments.SendValue.selector, DEPOSIT_A));
        manager.open{value: DEPOSIT_A - 1}(id, DEPOSIT_A, DEPOSIT_B);
        vm.expectRevert(abi.encodeWithSelector(Payments.SendValue.selector, DEPOSIT_A));
        manager.open{value: DEPOSIT_A + 1}(id, DEPOSIT_A, DEPOSIT_B);
        manager.open{value: DEPOSIT_A}(id, DEPOSIT_A, DEPOSIT_B);
        vm.stopPrank();

        vm.prank(b);
        vm.expectRevert(abi.encodeWithSelector(Payments.SendValue.selector, DEPOSIT_B));
        manager.join(id, 1);
    }

    function test_the_total_fits_one_balance() public {
        vm.deal(a, type(uint96).max);
        vm.prank(a);
        vm.expectPartialRevert(ChannelManager.LowerDeposits.selector);
        manager.open{value: type(uint80).max}(id, type(uint80).max, 1);
    }

    function test_a_live_channel_is_not_opened_again() public {
        openChannel();
        vm.prank(a);
        vm.expectPartialRevert(ChannelManager.CloseChannelFirst.selector);
        manager.open{value: 1}(id, 1, 1);
    }

    function test_an_open_channel_is_not_joined_again() public {
        openChannel();
        vm.prank(b);
        vm.expectPartialRevert(ChannelManager.OpenChannelFirst.selector);
        manager.join{value: DEPOSIT_B}(id, 1);
    }

    function test_an_exhausted_channel_asks_for_a_new_lane() public {
        // phase Closed, the last epoch there is
        bytes32 tombstone = bytes32((uint256(4) << 248) | (uint256(type(uint16).max) << 232));
        vm.store(address(manager), keccak256(abi.encode(cid, 0)), tombstone);
        vm.assertEq(manager.channel(cid).epoch, type(uint16).max, "the word is where we think");
        vm.prank(a);
        vm.expectPartialRevert(ChannelManager.ChooseNewLane.selector);
        manager.open{value: 1}(id, 1, 1);
    }

    function test_the_opener_cancels_and_gets_its_deposit_back() public {
        vm.startPrank(b);
        manager.open{value: DEPOSIT_B}(id, DEPOSIT_B, DEPOSIT_A);
        vm.expectEmit();
        emit IChannelManager.Cancelled(cid, word(0x04, 1 << 40, 0, 0, 0));
        manager.cancel(id);
        vm.assertEq(b.balance, 100 ether, "deposit back");
        assertChannel(IChannelManager.Phase.Closed, 0, 0, 0);
    }

    function test_only_the_opener_cancels() public {
        vm.prank(a);
        manager.open{value: DEPOSIT_A}(id, DEPOSIT_A, DEPOSIT_B);
        vm.prank(b);
        vm.expectRevert(abi.encodeWithSelector(ChannelManager.CallAsOpener.selector, a));
        manager.cancel(id);
    }

    function test_nobody_cancels_an_open_channel() public {
        openChannel();
        vm.prank(a);
        vm.expectPartialRevert(ChannelManager.OpenChannelFirst.selector);
        manager.cancel(id);
    }

    function test_cancel_and_reopen_cannot_swap_the_deposit_under_the_joiner() public {
        vm.startPrank(a);
        manager.open{value: DEPOSIT_A}(id, DEPOSIT_A, DEPOSIT_B);
        manager.cancel(id);
        manager.open{value: 1}(id, 1, DEPOSIT_B);
        vm.stopPrank();

        vm.prank(b);
        vm.expectRevert(abi.encodeWithSelector(ChannelManager.UseEpoch.selector, 2));
        manager.join{value: DEPOSIT_B}(id, 1);
    }
}

contract OpenBothTest is ChannelBase {
    uint256 internal deadline;

    function setUp() public override {
        super.setUp();
        deadline = block.timestamp + 60;
        vm.prank(b);
        manager.depositCredit{value: 5 ether}();
    }

    function test_one_transaction_opens_from_the_peers_credit() public {
        bytes memory signature = signOpen(keyB, 1, DEPOSIT_A, DEPOSIT_B, deadline);
        vm.prank(a);
        manager.openBoth{value: DEPOSIT_A}(id, DEPOSIT_A, DEPOSIT_B, deadline, signature);
        assertChannel(IChannelManager.Phase.Open, 0, DEPOSIT_A, DEPOSIT_B);
        vm.assertEq(manager.credit(b, address(0)), 5 ether - DEPOSIT_B, "credit spent");
    }

    function test_b_may_be_the_one_who_sends_it() public {
        vm.prank(a);
        manager.depositCredit{value: DEPOSIT_A}();
        bytes memory signature = signOpen(keyA, 1, DEPOSIT_A, DEPOSIT_B, deadline);
        vm.prank(b);
        manager.openBoth{value: DEPOSIT_B}(id, DEPOSIT_A, DEPOSIT_B, deadline, signature);
        vm.assertEq(manager.credit(a, address(0)), 0, "credit spent");
    }

    function test_a_request_is_good_until_its_deadline_and_not_after() public {
        bytes memory signature = signOpen(keyB, 1, DEPOSIT_A, DEPOSIT_B, deadline);
        vm.warp(deadline + 1);
        vm.prank(a);
        vm.expectPartialRevert(ChannelManager.GetNewSignature.selector);
        manager.openBoth{value: DEPOSIT_A}(id, DEPOSIT_A, DEPOSIT_B, deadline, signature);

        vm.warp(deadline);
        vm.prank(a);
        manager.openBoth{value: DEPOSIT_A}(id, DEPOSIT_A, DEPOSIT_B, deadline, signature);
    }

    function test_a_request_for_other_deposits_is_refused() public {
        bytes memory signature = signOpen(keyB, 1, DEPOSIT_A, DEPOSIT_B, deadline);
        vm.prank(a);
        vm.expectRevert(abi.encodeWithSelector(ChannelManager.GetSignatureOf.selector, b));
        manager.openBoth{value: DEPOSIT_A}(id, DEPOSIT_A, DEPOSIT_B + 1, deadline, signature);
    }

    function test_a_request_opens_one_session_only() public {
        bytes memory signature = signOpen(keyB, 1, DEPOSIT_A, DEPOSIT_B, deadline);
        vm.prank(a);
        manager.openBoth{value: DEPOSIT_A}(id, DEPOSIT_A, DEPOSIT_B, deadline, signature);
        IChannelManager.State memory s = state(1, 0);
        bytes memory consent = signClose(keyB, s);
        vm.startPrank(a);
        manager.close(id, s, "", consent);

        vm.expectRevert(abi.encodeWithSelector(ChannelManager.GetSignatureOf.selector, b));
        manager.openBoth{value: DEPOSIT_A}(id, DEPOSIT_A, DEPOSIT_B, deadline, signature);
    }

    function test_the_peer_needs_the_credit() public {
        vm.prank(b);
        manager.withdrawCredit(address(0));
        bytes memory signature = signOpen(keyB, 1, DEPOSIT_A, DEPOSIT_B, deadline);
        vm.prank(a);
        vm.expectRevert(abi.encodeWithSelector(ChannelManager.TopUpCredit.selector, b, DEPOSIT_B));
        manager.openBoth{value: DEPOSIT_A}(id, DEPOSIT_A, DEPOSIT_B, deadline, signature);
    }

    function test_a_stranger_cannot_use_a_request() public {
        bytes memory signature = signOpen(keyB, 1, DEPOSIT_A, DEPOSIT_B, deadline);
        vm.deal(STRANGER, DEPOSIT_A);
        vm.prank(STRANGER);
        vm.expectPartialRevert(ChannelManager.CallAsParty.selector);
        manager.openBoth{value: DEPOSIT_A}(id, DEPOSIT_A, DEPOSIT_B, deadline, signature);
    }

    function test_the_caller_pays_exactly_its_part() public {
        bytes memory signature = signOpen(keyB, 1, DEPOSIT_A, DEPOSIT_B, deadline);
        vm.prank(a);
        vm.expectRevert(abi.encodeWithSelector(Payments.SendValue.selector, DEPOSIT_A));
        manager.openBoth{value: TOTAL}(id, DEPOSIT_A, DEPOSIT_B, deadline, signature);
    }
}

contract ClosingTest is ChannelBase {
    function setUp() public override {
        super.setUp();
        openChannel();
    }

    function test_both_signatures_close_at_once_whoever_sends_them() public {
        IChannelManager.State memory s = state(9, 0.5 ether);
        bytes memory fromA = signClose(keyA, s);
        bytes memory fromB = signClose(keyB, s);
        vm.expectEmit();
        emit IChannelManager.Closed(cid, word(0x04, s.version, 0, s.balanceA, s.balanceB));
        vm.prank(STRANGER);
        manager.close(id, s, fromA, fromB);

        vm.assertEq(a.balance, 100 ether - DEPOSIT_A + 0.5 ether, "a");
        vm.assertEq(b.balance, 100 ether - DEPOSIT_B + 3.5 ether, "b");
        assertChannel(IChannelManager.Phase.Closed, 9, 0, 0);
    }

    function test_the_sender_is_its_own_signature() public {
        IChannelManager.State memory s = state(1, 0);
        bytes memory fromA = signClose(keyA, s);
        vm.prank(b);
        manager.close(id, s, fromA, "");
        assertChannel(IChannelManager.Phase.Closed, 1, 0, 0);
    }

    function test_one_consent_does_not_close() public {
        IChannelManager.State memory s = state(1, 0);
        vm.prank(b);
        vm.expectRevert(abi.encodeWithSelector(ChannelManager.GetSignatureOf.selector, a));
        manager.close(id, s, "", "");
        vm.prank(a);
        vm.expectRevert(abi.encodeWithSelector(ChannelManager.GetSignatureOf.selector, b));
        manager.close(id, s, "", "");
    }

    function test_an_ordinary_state_never_closes() public {
        IChannelManager.State memory s = state(1, 0);
        bytes memory ordinary = signState(keyA, s);
        vm.prank(b);
        vm.expectPartialRevert(ChannelManager.GetSignatureOf.selector);
        manager.close(id, s, ordinary, "");
    }

    function test_the_other_half_of_a_malleable_signature_is_refused() public {
        IChannelManager.State memory s = state(1, 0);
        bytes memory twisted = malleate(signClose(keyA, s));
        vm.prank(b);
        vm.expectPartialRevert(ChannelManager.GetSignatureOf.selector);
        manager.close(id, s, twisted, "");
    }

    function test_a_signature_for_another_chain_is_refused() public {
        IChannelManager.State memory s = state(1, 0);
        bytes memory fromA = signClose(keyA, s);
        vm.chainId(4242);
        vm.prank(b);
        vm.expectPartialRevert(ChannelManager.GetSignatureOf.selector);
        manager.close(id, s, fromA, "");

        // Nor is the channel lost after a chain split: signatures for the new id work.
        fromA = signClose(keyA, s);
        vm.prank(b);
        manager.close(id, s, fromA, "");
    }

    function test_a_signature_for_another_channel_is_refused() public {
        IChannelManager.State memory s = state(1, 0);
        bytes32 own = cid;
        cid = keccak256("another");
        bytes memory fromA = signClose(keyA, s);
        cid = own;
        vm.prank(b);
        vm.expectPartialRevert(ChannelManager.GetSignatureOf.selector);
        manager.close(id, s, fromA, "");
    }

    function test_money_is_neither_made_nor_lost(uint80 balanceA, uint80 balanceB) public {
        vm.assume(uint256(balanceA) + balanceB != TOTAL);
        IChannelManager.State memory s = stateOf(1, 1, balanceA, balanceB);
        bytes memory fromA = signClose(keyA, s);
        vm.prank(b);
        vm.expectRevert(abi.encodeWithSelector(ChannelManager.KeepTotal.selector, TOTAL));
        manager.close(id, s, fromA, "");
    }

    function test_any_split_pays_out_exactly(uint80 balanceA) public {
        balanceA = uint80(bound(balanceA, 0, TOTAL));
        IChannelManager.State memory s = state(1, balanceA);
        bytes memory fromA = signClose(keyA, s);
        vm.prank(b);
        manager.close(id, s, fromA, "");
        vm.assertEq(a.balance, 100 ether - DEPOSIT_A + balanceA, "a");
        vm.assertEq(b.balance, 100 ether - DEPOSIT_B + TOTAL - balanceA, "b");
        vm.assertEq(address(manager).balance, 0, "nothing stays");
    }

    function test_a_closed_channel_reopens_in_the_next_epoch_and_no_old_state_replays() public {
        IChannelManager.State memory old = state(5, 0);
        bytes memory oldClose = signClose(keyA, old);
        bytes memory oldState = signState(keyA, old);
        vm.prank(b);
        manager.close(id, old, oldClose, "");
        openChannel();
        vm.assertEq(manager.channel(cid).epoch, 2, "epoch");

        vm.startPrank(b);
        vm.expectRevert(abi.encodeWithSelector(ChannelManager.UseEpoch.selector, 2));
        manager.close(id, old, oldClose, "");
        vm.expectRevert(abi.encodeWithSelector(ChannelManager.UseEpoch.selector, 2));
        manager.challenge(id, old, oldState);
    }

    function test_a_channel_that_is_not_open_does_not_close() public {
        IChannelManager.State memory s = state(1, 0);
        bytes memory fromA = signClose(keyA, s);
        vm.startPrank(b);
        manager.close(id, s, fromA, "");
        vm.expectPartialRevert(ChannelManager.OpenChannelFirst.selector);
        manager.close(id, s, fromA, "");
    }
}

contract DisputeTest is ChannelBase {
    function setUp() public override {
        super.setUp();
        openChannel();
    }

    function challengeAs(uint256 key, uint256 peerKey, IChannelManager.State memory s) internal {
        bytes memory signature = signState(peerKey, s);
        vm.prank(vm.addr(key));
        manager.challenge(id, s, signature);
    }

    function respondWith(IChannelManager.State memory s) internal {
        bytes memory fromA = signState(keyA, s);
        bytes memory fromB = signState(keyB, s);
        vm.prank(STRANGER);
        manager.respond(id, s, fromA, fromB);
    }

    function afterThePeriod() internal {
        vm.warp(uint256(manager.channel(cid).deadline) + 1);
    }

    function assertPaid(uint256 toA, uint256 toB) internal view {
        vm.assertEq(a.balance, 100 ether - DEPOSIT_A + toA, "paid to a");
        vm.assertEq(b.balance, 100 ether - DEPOSIT_B + toB, "paid to b");
    }

    function test_with_a_dead_peer_the_newest_state_is_paid_after_the_period() public {
        IChannelManager.State memory s = state(4, 1 ether);
        bytes memory fromB = signState(keyB, s);
        vm.expectEmit();
        emit IChannelManager.Challenged(
            cid, word(0x03, s.version, uint32(block.timestamp + PERIOD), s.balanceA, s.balanceB)
        );
        vm.prank(a);
        manager.challenge(id, s, fromB);
        assertChannel(IChannelManager.Phase.Disputed, 4, 1 ether, 3 ether);

        afterThePeriod();
        vm.expectEmit();
        emit IChannelManager.Closed(cid, word(0x04, s.version, 0, 1 ether, 3 ether));
        vm.prank(STRANGER);
        manager.finalize(id);
        assertPaid(1 ether, 3 ether);
    }

    function test_before_anything_was_signed_the_deposits_are_the_state() public {
        IChannelManager.State memory s = state(0, DEPOSIT_A);
        vm.prank(b);
        manager.challenge(id, s, "");
        afterThePeriod();
        manager.finalize(id);
        assertPaid(DEPOSIT_A, DEPOSIT_B);
    }

    function test_sequence_zero_is_the_deposits_and_nothing_else() public {
        IChannelManager.State memory s = state(0, DEPOSIT_A - 1);
        vm.prank(b);
        vm.expectPartialRevert(ChannelManager.UseDepositsAtSequenceZero.selector);
        manager.challenge(id, s, "");
    }

    function test_a_challenge_needs_the_peers_signature() public {
        IChannelManager.State memory s = state(1, 0);
        bytes memory own = signState(keyB, s);
        vm.startPrank(b);
        vm.expectRevert(abi.encodeWithSelector(ChannelManager.GetSignatureOf.selector, a));
        manager.challenge(id, s, own);
        vm.expectRevert(abi.encodeWithSelector(ChannelManager.GetSignatureOf.selector, a));
        manager.challenge(id, s, "");
    }

    function test_a_signed_close_is_no_state_to_challenge_with() public {
        IChannelManager.State memory s = state(1, 0);
        bytes memory fromA = signClose(keyA, s);
        vm.prank(b);
        vm.expectPartialRevert(ChannelManager.GetSignatureOf.selector);
        manager.challenge(id, s, fromA);
    }

    function test_only_a_party_challenges() public {
        IChannelManager.State memory s = state(1, 0);
        bytes memory fromA = signState(keyA, s);
        vm.prank(STRANGER);
        vm.expectPartialRevert(ChannelManager.CallAsParty.selector);
        manager.challenge(id, s, fromA);
    }

    function test_a_dispute_is_answered_not_challenged_again() public {
        IChannelManager.State memory s = state(1, 0);
        challengeAs(keyB, keyA, s);
        bytes memory fromB = signState(keyB, s);
        vm.prank(a);
        vm.expectPartialRevert(ChannelManager.RespondInstead.selector);
        manager.challenge(id, s, fromB);
    }

    function test_a_channel_that_is_not_open_is_not_challenged() public {
        use(terms(address(0), 8, PERIOD, 0));
        vm.prank(a);
        vm.expectPartialRevert(ChannelManager.OpenChannelFirst.selector);
        manager.challenge(id, stateOf(0, 0, 0, 0), "");
    }

    function test_a_state_of_another_epoch_is_refused() public {
        IChannelManager.State memory s = stateOf(2, 1, TOTAL, 0);
        bytes memory fromB = signState(keyB, s);
        vm.prank(a);
        vm.expectRevert(abi.encodeWithSelector(ChannelManager.UseEpoch.selector, 1));
        manager.challenge(id, s, fromB);
    }

    function test_anybody_with_both_signatures_corrects_a_stale_challenge() public {
        challengeAs(keyB, keyA, state(1, 0));
        uint32 deadline = manager.channel(cid).deadline;
        vm.warp(block.timestamp + 10);
        IChannelManager.State memory newer = state(2, 2 ether);
        vm.expectEmit();
        emit IChannelManager.Responded(cid, word(0x83, newer.version, deadline, 2 ether, 2 ether));
        respondWith(newer);

        vm.assertEq(manager.channel(cid).deadline, deadline, "the clock is not extended");
        assertChannel(IChannelManager.Phase.Disputed, 2, 2 ether, 2 ether);
    }

    function test_a_party_responds_with_the_peers_signature_alone() public {
        challengeAs(keyB, keyA, state(1, 0));
        IChannelManager.State memory newer = state(2, 2 ether);
        bytes memory fromB = signState(keyB, newer);
        vm.prank(a);
        manager.respond(id, newer, "", fromB);
        assertChannel(IChannelManager.Phase.Disputed, 2, 2 ether, 2 ether);
    }

    function test_a_response_needs_both_signatures() public {
        challengeAs(keyB, keyA, state(1, 0));
        IChannelManager.State memory newer = state(2, 2 ether);
        bytes memory fromA = signState(keyA, newer);
        bytes memory fromB = signState(keyB, newer);
        vm.startPrank(STRANGER);
        vm.expectRevert(abi.encodeWithSelector(ChannelManager.GetSignatureOf.selector, b));
        manager.respond(id, newer, fromA, "");
        vm.expectRevert(abi.encodeWithSelector(ChannelManager.GetSignatureOf.selector, a));
        manager.respond(id, newer, "", fromB);
    }

    function test_a_response_is_newer(uint40 first, uint40 second) public {
        first = uint40(bound(first, 1, type(uint40).max));
        second = uint40(bound(second, 0, first));
        challengeAs(keyB, keyA, state(first, 0));
        IChannelManager.State memory s = state(second, 2 ether);
        bytes memory fromA = signState(keyA, s);
        bytes memory fromB = signState(keyB, s);
        vm.expectRevert(abi.encodeWithSelector(ChannelManager.UseNewerState.selector, first));
        manager.respond(id, s, fromA, fromB);
    }

    function test_the_last_second_of_the_period_is_for_responding_and_the_next_for_finalizing() public {
        challengeAs(keyB, keyA, state(1, 0));
        vm.warp(manager.channel(cid).deadline);
        vm.expectPartialRevert(ChannelManager.WaitUntilAfter.selector);
        manager.finalize(id);
        respondWith(state(2, 2 ether));

        vm.warp(vm.getBlockTimestamp() + 1);
        IChannelManager.State memory late = state(3, 3 ether);
        bytes memory fromA = signState(keyA, late);
        bytes memory fromB = signState(keyB, late);
        vm.expectPartialRevert(ChannelManager.FinalizeInstead.selector);
        manager.respond(id, late, fromA, fromB);
        manager.finalize(id);
        assertPaid(2 ether, 2 ether);
    }

    function test_only_a_dispute_is_finalized_or_answered() public {
        vm.expectPartialRevert(ChannelManager.ChallengeFirst.selector);
        manager.finalize(id);
        IChannelManager.State memory s = state(1, 0);
        vm.expectPartialRevert(ChannelManager.ChallengeFirst.selector);
        manager.respond(id, s, "", "");
    }

    function test_a_challenger_beaten_by_one_is_not_fined() public {
        challengeAs(keyB, keyA, state(7, 1 ether));
        respondWith(state(8, 2 ether));
        afterThePeriod();
        manager.finalize(id);
        assertPaid(2 ether, 2 ether);
    }

    function test_a_challenger_beaten_by_two_pays_its_share_of_the_total() public {
        challengeAs(keyB, keyA, state(7, 1 ether));
        respondWith(state(9, 2 ether));
        afterThePeriod();
        manager.finalize(id);
        assertPaid(2.4 ether, 1.6 ether);
    }

    function test_a_fine_is_for_the_challenger_whichever_side_it_is() public {
        challengeAs(keyA, keyB, state(7, 3 ether));
        respondWith(state(9, 2 ether));
        afterThePeriod();
        manager.finalize(id);
        assertPaid(1.6 ether, 2.4 ether);
    }

    function test_a_fine_stays_when_a_third_state_beats_the_second_by_one() public {
        challengeAs(keyB, keyA, state(7, 1 ether));
        respondWith(state(9, 2 ether));
        respondWith(state(10, 3 ether));
        afterThePeriod();
        manager.finalize(id);
        assertPaid(3.4 ether, 0.6 ether);
    }

    function test_a_fine_is_at_most_what_the_challenger_has() public {
        challengeAs(keyB, keyA, state(1, 0));
        respondWith(state(9, TOTAL - 0.1 ether));
        afterThePeriod();
        manager.finalize(id);
        assertPaid(TOTAL, 0);
    }

    function test_every_dispute_conserves_the_total(uint80 first, uint80 second, uint40 lead, uint16 bps, bool byB)
        public
    {
        use(terms(address(0), 99, PERIOD, bound(bps, 0, 10_000)));
        openChannel();
        uint256 before = a.balance + b.balance;
        IChannelManager.State memory s = state(1, uint80(bound(first, 0, TOTAL)));
        if (byB) challengeAs(keyB, keyA, s);
        else challengeAs(keyA, keyB, s);
        respondWith(state(1 + uint40(bound(lead, 1, type(uint40).max - 1)), uint80(bound(second, 0, TOTAL))));
        afterThePeriod();
        manager.finalize(id);
        vm.assertEq(a.balance + b.balance, before + TOTAL, "total");
    }

    function test_both_may_end_a_dispute_by_consent_and_without_a_fine() public {
        challengeAs(keyB, keyA, state(1, 0));
        respondWith(state(9, 2 ether));
        IChannelManager.State memory s = state(10, 3 ether);
        bytes memory fromA = signClose(keyA, s);
        vm.prank(b);
        manager.close(id, s, fromA, "");
        assertPaid(3 ether, 1 ether);
    }

    function test_a_close_that_went_stale_does_not_undo_a_dispute() public {
        IChannelManager.State memory stale = state(3, 0);
        bytes memory fromA = signClose(keyA, stale);
        challengeAs(keyA, keyB, state(5, 3 ether));
        vm.prank(b);
        vm.expectRevert(abi.encodeWithSelector(ChannelManager.UseNewerState.selector, 4));
        manager.close(id, stale, fromA, "");
    }

    function test_a_disputed_channel_is_not_reopened() public {
        challengeAs(keyB, keyA, state(1, 0));
        vm.prank(a);
        vm.expectPartialRevert(ChannelManager.CloseChannelFirst.selector);
        manager.open{value: 1}(id, 1, 1);
    }
}

contract TokenChannelTest is ChannelBase {
    Token internal token;

    function setUp() public override {
        super.setUp();
        token = new Token();
        use(terms(address(token), 7, PERIOD, PENALTY_BPS));
        for (uint256 i; i < 2; ++i) {
            address party = i == 0 ? a : b;
            token.mint(party, 100 ether);
            vm.prank(party);
            token.approve(address(manager), type(uint256).max);
        }
    }

    function openToken() internal {
        vm.prank(a);
        manager.open(id, DEPOSIT_A, DEPOSIT_B);
        vm.prank(b);
        manager.join(id, 1);
    }

    function closeAt(uint80 balanceA) internal {
        IChannelManager.State memory s = state(1, balanceA);
        bytes memory fromA = signClose(keyA, s);
        vm.prank(b);
        manager.close(id, s, fromA, "");
    }

    function test_tokens_are_pulled_and_paid_back() public {
        openToken();
        vm.assertEq(token.balanceOf(address(manager)), TOTAL, "locked");
        closeAt(1 ether);
        vm.assertEq(token.balanceOf(a), 100 ether - DEPOSIT_A + 1 ether, "a");
        vm.assertEq(token.balanceOf(b), 100 ether - DEPOSIT_B + 3 ether, "b");
    }

    function test_one_transaction_opens_by_allowance() public {
        uint256 deadline = block.timestamp;
        bytes memory signature = signOpen(keyB, 1, DEPOSIT_A, DEPOSIT_B, deadline);
        vm.prank(a);
        manager.openBoth(id, DEPOSIT_A, DEPOSIT_B, deadline, signature);
        vm.assertEq(token.balanceOf(address(manager)), TOTAL, "locked");
    }

    function test_a_token_that_answers_nothing_works() public {
        token.setSilent(true);
        openToken();
        closeAt(0);
        vm.assertEq(token.balanceOf(address(manager)), 0, "paid");
    }

    function test_a_token_that_answers_false_neither_opens_nor_pays() public {
        openToken();
        token.setFailing(true);
        closeAt(1 ether);
        vm.assertEq(manager.credit(a, address(token)), 1 ether, "a has a credit");
        vm.assertEq(manager.credit(b, address(token)), 3 ether, "b has a credit");
        vm.prank(a);
        vm.expectPartialRevert(Payments.ApproveToken.selector);
        manager.open(id, DEPOSIT_A, DEPOSIT_B);
    }

    function test_a_token_channel_takes_no_ether() public {
        vm.prank(a);
        vm.expectRevert(abi.encodeWithSelector(Payments.SendValue.selector, 0));
        manager.open{value: 1}(id, DEPOSIT_A, DEPOSIT_B);
    }

    function test_a_fee_on_transfer_is_refused() public {
        token.setFee(1);
        vm.prank(a);
        vm.expectRevert(abi.encodeWithSelector(Payments.UseTokenWithoutFee.selector, address(token)));
        manager.open(id, DEPOSIT_A, DEPOSIT_B);
    }

    function test_a_missing_allowance_is_named() public {
        vm.startPrank(a);
        token.approve(address(manager), 0);
        vm.expectRevert(abi.encodeWithSelector(Payments.ApproveToken.selector, address(token), a, DEPOSIT_A));
        manager.open(id, DEPOSIT_A, DEPOSIT_B);
    }

    function test_an_asset_without_code_is_refused() public {
        use(terms(address(0xDEAD), 7, PERIOD, PENALTY_BPS));
        vm.prank(a);
        vm.expectRevert(abi.encodeWithSelector(Payments.UseTokenContract.selector, address(0xDEAD)));
        manager.open(id, DEPOSIT_A, DEPOSIT_B);
    }

    function test_a_payee_the_token_blocks_gets_a_credit_and_does_not_block_the_other() public {
        openToken();
        token.setBlocked(a, true);
        closeAt(1 ether);
        vm.assertEq(token.balanceOf(b), 100 ether - DEPOSIT_B + 3 ether, "b is paid");
        vm.assertEq(manager.credit(a, address(token)), 1 ether, "a has a credit");

        vm.startPrank(a);
        vm.expectPartialRevert(ChannelManager.AcceptPayment.selector);
        manager.withdrawCredit(address(token));
        token.setBlocked(a, false);
        manager.withdrawCredit(address(token));
        vm.assertEq(token.balanceOf(a), 100 ether - DEPOSIT_A + 1 ether, "a is paid");
    }

    function test_a_token_that_calls_back_finds_the_door_locked() public {
        token.setHook(address(manager), abi.encodeCall(ChannelManager.depositCredit, ()));
        vm.prank(a);
        vm.expectPartialRevert(Payments.ApproveToken.selector);
        manager.open(id, DEPOSIT_A, DEPOSIT_B);
    }
}

contract ContractPartyTest is ChannelBase {
    Wallet internal wallet;
    uint256 internal peerKey;
    bool internal walletIsA;

    function setUp() public override {
        super.setUp();
        wallet = new Wallet(vm.addr(0xC0DE));
        vm.deal(address(wallet), 10 ether);
        peerKey = keyA;
        address peer = vm.addr(peerKey);
        walletIsA = address(wallet) < peer;
        (a, b) = walletIsA ? (address(wallet), peer) : (peer, address(wallet));
        (keyA, keyB) = walletIsA ? (uint256(0xC0DE), peerKey) : (peerKey, uint256(0xC0DE));
        use(terms(address(0), 7, PERIOD, PENALTY_BPS));

        wallet.run(address(manager), 2 ether, abi.encodeCall(ChannelManager.open, (id, 2 ether, 2 ether)));
        vm.prank(peer);
        manager.join{value: 2 ether}(id, 1);
    }

    function closing(uint80 balanceOfWallet)
        internal
        view
        returns (IChannelManager.State memory s, bytes memory fromA, bytes memory fromB)
    {
        s = state(1, walletIsA ? balanceOfWallet : TOTAL - balanceOfWallet);
        (fromA, fromB) = (signClose(keyA, s), signClose(keyB, s));
    }

    function test_a_contract_signs_by_ERC1271() public {
        (IChannelManager.State memory s, bytes memory fromA, bytes memory fromB) = closing(1 ether);
        manager.close(id, s, fromA, fromB);
        vm.assertEq(address(wallet).balance, 9 ether, "paid");
    }

    function test_a_contract_that_says_no_has_not_signed() public {
        IChannelManager.State memory s = state(1, 1 ether);
        bytes memory fromA = signClose(walletIsA ? uint256(0xBAD) : keyA, s);
        bytes memory fromB = signClose(walletIsA ? keyB : uint256(0xBAD), s);
        vm.expectRevert(abi.encodeWithSelector(ChannelManager.GetSignatureOf.selector, address(wallet)));
        manager.close(id, s, fromA, fromB);
    }

    function test_a_payee_that_reverts_gets_a_credit() public {
        wallet.setRefusing(true);
        (IChannelManager.State memory s, bytes memory fromA, bytes memory fromB) = closing(1 ether);
        manager.close(id, s, fromA, fromB);
        vm.assertEq(manager.credit(address(wallet), address(0)), 1 ether, "credit");

        bytes memory withdrawal = abi.encodeCall(ChannelManager.withdrawCredit, (address(0)));
        vm.expectPartialRevert(ChannelManager.AcceptPayment.selector);
        wallet.run(address(manager), 0, withdrawal);
        wallet.setRefusing(false);
        wallet.run(address(manager), 0, withdrawal);
        vm.assertEq(address(wallet).balance, 9 ether, "paid");
    }

    function test_a_payee_that_burns_gas_burns_little_and_gets_a_credit() public {
        wallet.setBurning(true);
        (IChannelManager.State memory s, bytes memory fromA, bytes memory fromB) = closing(1 ether);
        uint256 before = gasleft();
        manager.close(id, s, fromA, fromB);
        vm.assertTrue(before - gasleft() < 250_000, "bounded");
        vm.assertEq(manager.credit(address(wallet), address(0)), 1 ether, "credit");
    }

    function test_a_payee_that_calls_back_finds_the_door_locked() public {
        wallet.setReentry(address(manager), abi.encodeCall(ChannelManager.depositCredit, ()));
        (IChannelManager.State memory s, bytes memory fromA, bytes memory fromB) = closing(1 ether);
        // Here the hook runs out of its gas, which makes a credit; with a smaller hook it would hear DoNotReenter.
        manager.close(id, s, fromA, fromB);
        vm.assertEq(address(wallet).balance + manager.credit(address(wallet), address(0)), 9 ether, "paid once");
    }

    function test_a_withdrawal_that_calls_back_finds_the_door_locked() public {
        wallet.run(address(manager), 1 ether, abi.encodeCall(ChannelManager.depositCredit, ()));
        bytes memory withdrawal = abi.encodeCall(ChannelManager.withdrawCredit, (address(0)));
        wallet.setReentry(address(manager), withdrawal);
        wallet.run(address(manager), 0, withdrawal);
        vm.assertEq(bytes32(wallet.answer()), bytes32(Lock.DoNotReenter.selector), "locked");
        vm.assertEq(address(wallet).balance, 8 ether, "paid once");
    }

    function test_too_little_gas_for_the_payee_says_so() public {
        (IChannelManager.State memory s, bytes memory fromA, bytes memory fromB) = closing(1 ether);
        bytes memory call = abi.encodeCall(ChannelManager.close, (id, s, fromA, fromB));
        (bool ok, bytes memory why) = address(manager).call{gas: 100_000}(call);
        vm.assertTrue(!ok, "refused");
        vm.assertEq(bytes32(why), bytes32(Payments.RaiseGasLimit.selector), "why");
    }

    function test_a_caller_cannot_starve_the_payee_of_gas(uint256 gasLimit) public {
        gasLimit = bound(gasLimit, 30_000, 300_000);
        wallet.setHungry(true);
        (IChannelManager.State memory s, bytes memory fromA, bytes memory fromB) = closing(1 ether);
        bytes memory call = abi.encodeCall(ChannelManager.close, (id, s, fromA, fromB));
        (bool ok,) = address(manager).call{gas: gasLimit}(call);
        if (ok) vm.assertEq(address(wallet).balance, 9 ether, "paid, not credited");
        else assertChannel(IChannelManager.Phase.Open, 0, 2 ether, 2 ether);
        vm.assertEq(manager.credit(address(wallet), address(0)), 0, "no credit");
    }
}

contract CreditTest is ChannelBase {
    function test_a_credit_is_deposited_and_withdrawn() public {
        vm.startPrank(a);
        vm.expectEmit();
        emit IChannelManager.Credited(a, address(0), 1 ether);
        manager.depositCredit{value: 1 ether}();
        vm.expectEmit();
        emit IChannelManager.CreditWithdrawn(a, address(0), 1 ether);
        manager.withdrawCredit(address(0));
        vm.assertEq(a.balance, 100 ether, "all back");
        vm.expectPartialRevert(ChannelManager.NothingToWithdraw.selector);
        manager.withdrawCredit(address(0));
    }
}
