// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {ChannelManager} from "../src/ChannelManager.sol";
import {NodeRegistry} from "../src/NodeRegistry.sol";
import {TaskScheduler} from "../src/TaskScheduler.sol";
import {IChannelManager} from "../src/interfaces/IChannelManager.sol";
import {ITaskScheduler} from "../src/interfaces/ITaskScheduler.sol";
import {ChannelBase} from "./ChannelManager.t.sol";
import {RegistryBase} from "./NodeRegistry.t.sol";
import {SchedulerBase} from "./TaskScheduler.t.sol";
import {Wallet} from "./mocks/Wallet.sol";

/// Every way to spell a signature wrongly.
library Malformed {
    uint256 internal constant KINDS = 12;
    uint256 private constant ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141;

    function spell(bytes memory good, uint256 kind) internal pure returns (bytes memory) {
        (bytes32 r, bytes32 s, uint8 v) = (word(good, 0), word(good, 32), uint8(good[64]));
        if (kind == 0) return "";
        if (kind == 1) return abi.encodePacked(r, s); // no v, nor the compact form of EIP-2098
        if (kind == 2) return abi.encodePacked(r, s, v, uint8(0));
        if (kind == 3) return abi.encodePacked(r, bytes32(ORDER - uint256(s)), v == 27 ? 28 : 27); // the malleable twin
        if (kind == 4) return abi.encodePacked(r, s, v == 27 ? 28 : 27);
        if (kind == 5) return abi.encodePacked(r, s, v - 27);
        if (kind == 6) return abi.encodePacked(r, s, uint8(29));
        if (kind == 7) return abi.encodePacked(r, bytes32(0), v);
        if (kind == 8) return abi.encodePacked(bytes32(0), s, v);
        if (kind == 9) return abi.encodePacked(bytes32(ORDER), s, v);
        if (kind == 10) return new bytes(65);
        return abi.encodePacked(r, bytes32(type(uint256).max), v);
    }

    function word(bytes memory data, uint256 offset) private pure returns (bytes32 found) {
        assembly {
            found := mload(add(add(data, 0x20), offset))
        }
    }
}

contract BadChannelInputTest is ChannelBase {
    function setUp() public override {
        super.setUp();
        openChannel();
    }

    function test_a_malformed_signature_neither_closes_nor_challenges_nor_responds(uint8 kind) public {
        uint256 which = bound(kind, 0, Malformed.KINDS - 1);
        IChannelManager.State memory s = state(3, 1 ether);
        bytes memory bad = Malformed.spell(signClose(keyA, s), which);
        vm.startPrank(b);
        vm.expectRevert(abi.encodeWithSelector(ChannelManager.GetSignatureOf.selector, a));
        manager.close(id, s, bad, "");

        bad = Malformed.spell(signState(keyA, s), which);
        vm.expectRevert(abi.encodeWithSelector(ChannelManager.GetSignatureOf.selector, a));
        manager.challenge(id, s, bad);

        manager.challenge(id, s, signState(keyA, s));
        s = state(4, 1 ether);
        bad = Malformed.spell(signState(keyA, s), which);
        vm.expectRevert(abi.encodeWithSelector(ChannelManager.GetSignatureOf.selector, a));
        manager.respond(id, s, bad, "");
    }

    function test_a_malformed_request_does_not_open(uint8 kind) public {
        use(terms(address(0), 8, PERIOD, 0));
        vm.prank(b);
        manager.depositCredit{value: DEPOSIT_B}();
        uint256 deadline = block.timestamp;
        bytes memory bad =
            Malformed.spell(signOpen(keyB, 1, DEPOSIT_A, DEPOSIT_B, deadline), bound(kind, 0, Malformed.KINDS - 1));
        vm.prank(a);
        vm.expectRevert(abi.encodeWithSelector(ChannelManager.GetSignatureOf.selector, b));
        manager.openBoth{value: DEPOSIT_A}(id, DEPOSIT_A, DEPOSIT_B, deadline, bad);
    }

    function test_a_signature_for_another_contract_is_refused() public {
        ChannelManager here = manager;
        manager = ChannelManager(create("ChannelManager", type(ChannelManager).creationCode, ""));
        openChannel();
        IChannelManager.State memory s = state(1, 1 ether);
        bytes memory elsewhere = signClose(keyA, s);
        vm.prank(b);
        vm.expectRevert(abi.encodeWithSelector(ChannelManager.GetSignatureOf.selector, a));
        here.close(id, s, elsewhere, "");
    }

    /// Balances that sum to the total only because they wrap around.
    function test_balances_that_overflow_are_refused_by_name(uint256 more) public {
        more = bound(more, 1, type(uint256).max - TOTAL);
        uint256 version = (uint256(1) << 40) | 1;
        vm.prank(b);
        vm.expectRevert(abi.encodeWithSelector(ChannelManager.KeepTotal.selector, TOTAL));
        raw(
            abi.encodeWithSelector(
                ChannelManager.challenge.selector,
                id,
                version,
                TOTAL + more,
                type(uint256).max - more + 1,
                bytes32(0),
                uint256(256),
                uint256(0)
            )
        );
    }

    function test_a_version_beyond_its_bits_is_another_epoch(uint256 high) public {
        uint256 version = (bound(high, 1, type(uint200).max) << 56) | (uint256(1) << 40) | 1;
        vm.prank(b);
        vm.expectRevert(abi.encodeWithSelector(ChannelManager.UseEpoch.selector, 1));
        raw(
            abi.encodeWithSelector(
                ChannelManager.challenge.selector,
                id,
                version,
                uint256(DEPOSIT_A),
                uint256(DEPOSIT_B),
                bytes32(0),
                uint256(256),
                uint256(0)
            )
        );
    }

    function test_deposits_that_overflow_are_refused_by_name(uint256 own, uint256 peers) public {
        unchecked {
            vm.assume(own > type(uint80).max || peers > type(uint80).max || own + peers > type(uint80).max);
        }
        use(terms(address(0), 8, PERIOD, 0));
        vm.prank(a);
        vm.expectRevert(abi.encodeWithSelector(ChannelManager.LowerDeposits.selector, type(uint80).max));
        manager.open(id, own, peers);
    }

    function test_parties_with_dirty_high_bits_open_nothing_and_name_no_channel(uint96 dirt) public {
        dirt = uint96(bound(dirt, 1, type(uint96).max));
        uint256 dirtyA = (uint256(dirt) << 160) | uint160(a);
        uint256 dirtyB = (uint256(dirt) << 160) | uint160(b);
        vm.startPrank(a);
        vm.expectRevert(abi.encodeWithSelector(ChannelManager.OrderPartiesAscending.selector));
        raw(abi.encodeWithSelector(ChannelManager.open.selector, uint256(uint160(a)), dirtyB, id.terms, 0, 0));
        vm.expectRevert(abi.encodeWithSelector(ChannelManager.OrderPartiesAscending.selector));
        raw(abi.encodeWithSelector(ChannelManager.open.selector, dirtyA, dirtyB, id.terms, 0, 0));
        vm.expectRevert(abi.encodeWithSelector(ChannelManager.ChallengeFirst.selector, 0));
        raw(abi.encodeWithSelector(ChannelManager.finalize.selector, uint256(uint160(a)), dirtyB, id.terms));
    }

    /// Opening in coin calls nobody, so it needs no lock, even from within a payment.
    function test_a_payee_may_open_a_channel_while_it_is_paid() public {
        Wallet wallet = new Wallet(a);
        vm.deal(address(wallet), 1 ether);
        wallet.run(address(manager), 1 ether, abi.encodeCall(ChannelManager.depositCredit, ()));
        (id.a, id.b) = address(wallet) < b ? (address(wallet), b) : (b, address(wallet));
        wallet.setReentry(address(manager), abi.encodeCall(ChannelManager.open, (id, 0, 1 ether)));
        wallet.run(address(manager), 0, abi.encodeCall(ChannelManager.withdrawCredit, (address(0))));

        vm.assertEq(address(wallet).balance, 1 ether, "paid once");
        vm.assertEq(address(manager).balance, TOTAL, "the channel's money");
        IChannelManager.ChannelView memory c = manager.channel(manager.channelId(id));
        vm.assertEq(uint256(c.phase), uint256(IChannelManager.Phase.Opening), "opened");
    }

    function raw(bytes memory call) private {
        (bool ok, bytes memory answer) = address(manager).call(call);
        assembly {
            if iszero(ok) { revert(add(answer, 0x20), mload(answer)) }
        }
    }
}

contract BadTaskInputTest is SchedulerBase {
    function test_terms_are_kept_to_the_last_bit(
        uint96 perServer,
        uint96 stake,
        uint32 scheduleIn,
        uint24 key,
        uint24 result,
        uint24 last
    ) public {
        terms.servers = 1;
        terms.perServer = uint96(bound(perServer, 0, type(uint80).max));
        terms.stake = uint96(bound(stake, 0, type(uint72).max));
        terms.scheduleBy = uint40(block.timestamp + bound(scheduleIn, 1, type(uint32).max));
        terms.keyBy = terms.scheduleBy + uint40(bound(key, 60, type(uint24).max));
        terms.completeBy = terms.keyBy + uint40(bound(result, 60, type(uint24).max));
        terms.reportBy = terms.completeBy + uint40(bound(last, 60, type(uint24).max));
        vm.deal(REQUESTER, terms.perServer);
        vm.prank(REQUESTER);
        id = scheduler.request{value: terms.perServer}("salt", "spec", terms);

        ITaskScheduler.TaskView memory t = scheduler.task(id);
        vm.assertEq(keccak256(abi.encode(t.terms)), keccak256(abi.encode(terms)), "terms");
        vm.assertEq(t.escrow, terms.perServer, "escrow");
        vm.assertEq(t.requester, REQUESTER, "requester");
    }

    function test_what_fits_no_place_is_refused_by_name() public {
        vm.deal(REQUESTER, type(uint128).max);
        vm.startPrank(REQUESTER);
        vm.expectPartialRevert(TaskScheduler.LowerBudget.selector);
        scheduler.request{value: uint256(type(uint80).max) + 1}("salt", "spec", terms);
        terms.perServer = uint96(type(uint80).max) + 1;
        terms.servers = 1;
        vm.expectPartialRevert(TaskScheduler.LowerBudget.selector);
        scheduler.request{value: terms.perServer}("salt", "spec", terms);

        terms.perServer = PER_SERVER;
        terms.stake = uint96(type(uint72).max) + 1;
        vm.expectPartialRevert(TaskScheduler.LowerStake.selector);
        scheduler.request{value: BUDGET}("salt", "spec", terms);

        terms.stake = STAKE;
        terms.reportBy = terms.completeBy + uint40(type(uint24).max) + 1;
        vm.expectRevert(abi.encodeWithSelector(TaskScheduler.ShortenWindows.selector, type(uint24).max));
        scheduler.request{value: BUDGET}("salt", "spec", terms);
        --terms.reportBy;
        scheduler.request{value: BUDGET}("salt", "spec", terms);
    }

    function test_a_malformed_signature_publishes_no_key(uint8 kind, uint8 server) public {
        assignTask();
        // The empty and the short ones shift what follows, so that the last server's is refused at the latest.
        uint256 bad = bound(server, 0, SERVERS - 1);
        bytes memory all;
        for (uint256 i; i < SERVERS; ++i) {
            bytes memory one = signKey(keys[i]);
            all = bytes.concat(all, i == bad ? Malformed.spell(one, bound(kind, 0, Malformed.KINDS - 1)) : one);
        }
        if (bad == SERVERS - 1 && bound(kind, 0, Malformed.KINDS - 1) == 2) return; // a byte after the last is nobody's
        vm.prank(REQUESTER);
        vm.expectPartialRevert(TaskScheduler.GetSignatureOf.selector);
        scheduler.publishKey(id, vm.addr(TASK_KEY), statements, all, "descriptors");
    }

    function test_a_malformed_signature_completes_nothing(uint8 kind) public {
        runTask();
        report(0);
        report(1);
        bytes memory bad = Malformed.spell(signResult(TASK_KEY, RESULT), bound(kind, 0, Malformed.KINDS - 1));
        vm.prank(owners[2]);
        vm.expectRevert(abi.encodeWithSelector(TaskScheduler.GetSignatureOfTaskKey.selector, vm.addr(TASK_KEY)));
        scheduler.complete(id, 2, RESULT, bad);
    }
}

contract BadNodeInputTest is RegistryBase {
    function test_the_last_key_epoch_is_the_last() public {
        uint32 id = register(OWNER, RELAY);
        bytes32 exhausted =
            bytes32(uint160(OWNER) | (uint256(RELAY) << 160) | (uint256(1) << 168) | (uint256(65_535) << 176));
        vm.store(address(registry), keccak256(abi.encode(id, 1)), exhausted);
        vm.assertEq(registry.node(id).keyEpoch, 65_535, "the word is where we think");
        vm.prank(OWNER);
        vm.expectPartialRevert(NodeRegistry.KeyEpochsExhausted.selector);
        registry.rotateKey(id, "new", proof);
    }

    function test_an_endpoint_is_read_as_it_was_written(bytes32 text, uint8 length, bool again) public {
        bytes memory endpoint = abi.encodePacked(text, text);
        length = uint8(bound(length, 1, 64));
        assembly {
            mstore(endpoint, length)
        }
        vm.prank(OWNER);
        uint32 id = registry.register(RELAY, 0, IDENTITY, ONION, again ? "192.0.2.1:1" : string(endpoint), proof);
        vm.prank(OWNER);
        if (again) registry.setEndpoint(id, string(endpoint));
        vm.assertEq(keccak256(bytes(registry.node(id).endpoint)), keccak256(endpoint), "endpoint");
    }
}
