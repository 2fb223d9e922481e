// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {ChannelManager} from "../src/ChannelManager.sol";
import {IChannelManager} from "../src/interfaces/IChannelManager.sol";
import {ChannelBase} from "./ChannelManager.t.sol";
import {Token} from "./mocks/Token.sol";
import {Wallet} from "./mocks/Wallet.sol";

/// Does to four channels (two of ETH, two of a token) whatever the two parties may do, in any order. `b` is a contract that now and
/// then refuses ETH, and the token now and then blocks `a`. No call here may revert: the guards are known, so a revert is a bug.
contract ChannelHandler is ChannelBase {
    Token public token;
    uint256[4] private channels;
    mapping(uint256 channel => uint256) public opener;
    mapping(uint256 channel => uint16) private lastEpoch;

    constructor() {
        setUp();
        token = new Token();
        for (uint256 i; i < 2; ++i) {
            address party = i == 0 ? a : b;
            token.mint(party, 1e30);
            vm.deal(party, 1e30);
            vm.prank(party);
            token.approve(address(manager), type(uint256).max);
        }
        vm.etch(b, address(new Wallet(b)).code);
        for (uint256 i; i < 4; ++i) {
            channels[i] = terms(i < 2 ? address(0) : address(token), i, 60 + i, 2_500 * i);
        }
    }

    modifier on(uint256 seed) {
        use(channels[seed % 4]);
        _;
        IChannelManager.ChannelView memory c = manager.channel(cid);
        require(c.epoch >= lastEpoch[id.terms], "an epoch came back");
        lastEpoch[id.terms] = c.epoch;
    }

    function open(uint256 seed, uint80 deposit, uint80 peerDeposit, bool byB) external on(seed) {
        if (live()) return;
        (deposit, peerDeposit) = (deposit / 2, peerDeposit / 2);
        opener[id.terms] = byB ? 2 : 1;
        vm.prank(byB ? b : a);
        manager.open{value: value(deposit)}(id, deposit, peerDeposit);
    }

    function join(uint256 seed) external on(seed) {
        IChannelManager.ChannelView memory c = manager.channel(cid);
        if (c.phase != IChannelManager.Phase.Opening) return;
        bool byB = opener[id.terms] == 1;
        vm.prank(byB ? b : a);
        manager.join{value: value(byB ? c.balanceB : c.balanceA)}(id, c.epoch);
    }

    function openBoth(uint256 seed, uint80 depositA, uint80 depositB) external on(seed) {
        if (live()) return;
        uint16 epoch = manager.channel(cid).epoch + 1;
        depositA /= 2;
        depositB = uint80(bound(depositB, 0, asset() == address(0) ? available(b) : type(uint80).max / 2));
        bytes memory signature = signOpen(keyB, epoch, depositA, depositB, block.timestamp);
        vm.prank(a);
        manager.openBoth{value: value(depositA)}(id, depositA, depositB, block.timestamp, signature);
    }

    function cancel(uint256 seed) external on(seed) {
        if (manager.channel(cid).phase != IChannelManager.Phase.Opening) return;
        vm.prank(opener[id.terms] == 1 ? a : b);
        manager.cancel(id);
    }

    function close(uint256 seed, uint40 lead, uint80 balanceA) external on(seed) {
        IChannelManager.ChannelView memory c = manager.channel(cid);
        if (c.phase != IChannelManager.Phase.Open && c.phase != IChannelManager.Phase.Disputed) return;
        IChannelManager.State memory s = later(c, lead, balanceA);
        bytes memory fromA = signClose(keyA, s);
        vm.prank(b);
        manager.close(id, s, fromA, "");
    }

    function challenge(uint256 seed, uint40 sequence, uint80 balanceA, bool byB) external on(seed) {
        IChannelManager.ChannelView memory c = manager.channel(cid);
        if (c.phase != IChannelManager.Phase.Open) return;
        IChannelManager.State memory s = later(c, sequence, balanceA);
        if (uint40(s.version) == 0) s.balanceA = c.balanceA;
        s.balanceB = c.balanceA + c.balanceB - s.balanceA;
        bytes memory signature = signState(byB ? keyA : keyB, s);
        vm.prank(byB ? b : a);
        manager.challenge(id, s, signature);
    }

    function respond(uint256 seed, uint40 lead, uint80 balanceA) external on(seed) {
        IChannelManager.ChannelView memory c = manager.channel(cid);
        if (c.phase != IChannelManager.Phase.Disputed || block.timestamp > c.deadline) return;
        IChannelManager.State memory s = later(c, uint40(bound(lead, 1, 3)), balanceA);
        bytes memory fromA = signState(keyA, s);
        bytes memory fromB = signState(keyB, s);
        manager.respond(id, s, fromA, fromB);
        require(manager.channel(cid).sequence > c.sequence, "a dispute went back");
        require(manager.channel(cid).deadline == c.deadline, "the clock moved");
    }

    function finalize(uint256 seed) external on(seed) {
        IChannelManager.ChannelView memory c = manager.channel(cid);
        if (c.phase != IChannelManager.Phase.Disputed) return;
        if (block.timestamp <= c.deadline) vm.warp(uint256(c.deadline) + 1);
        manager.finalize(id);
    }

    function depositCredit(uint80 amount, bool byB) external on(0) {
        vm.prank(byB ? b : a);
        manager.depositCredit{value: amount}();
    }

    function withdrawCredit(uint256 seed, bool byB) external on(seed) {
        address party = byB ? b : a;
        if (manager.credit(party, asset()) == 0) return;
        if (asset() == address(0) ? byB && Wallet(payable(b)).refusing() : token.blocked(party)) return;
        address asset_ = asset();
        vm.prank(party);
        manager.withdrawCredit(asset_);
    }

    function refuse(bool refusing, bool blocked) external on(0) {
        Wallet(payable(b)).setRefusing(refusing);
        token.setBlocked(a, blocked);
    }

    /// What the manager owes in an asset: deposits in channels and credits.
    function owed(address asset_) external view returns (uint256 sum) {
        for (uint256 i; i < 4; ++i) {
            if (address(uint160(channels[i] >> 96)) != asset_) continue;
            IChannelManager.ChannelView memory c = manager.channel(keccak256(abi.encode(a, b, channels[i])));
            bool opening = c.phase == IChannelManager.Phase.Opening;
            if (!opening || opener[channels[i]] == 1) sum += c.balanceA;
            if (!opening || opener[channels[i]] == 2) sum += c.balanceB;
        }
        sum += manager.credit(a, asset_) + manager.credit(b, asset_);
    }

    function held(address asset_) external view returns (uint256) {
        return asset_ == address(0) ? address(manager).balance : token.balanceOf(address(manager));
    }

    function live() private view returns (bool) {
        IChannelManager.Phase phase = manager.channel(cid).phase;
        return phase != IChannelManager.Phase.None && phase != IChannelManager.Phase.Closed;
    }

    function asset() private view returns (address) {
        return address(uint160(id.terms >> 96));
    }

    function value(uint256 amount) private view returns (uint256) {
        return asset() == address(0) ? amount : 0;
    }

    function available(address party) private view returns (uint256) {
        uint256 credit = manager.credit(party, address(0));
        return credit > type(uint80).max / 2 ? type(uint80).max / 2 : credit;
    }

    function later(IChannelManager.ChannelView memory c, uint40 lead, uint80 balanceA)
        private
        pure
        returns (IChannelManager.State memory)
    {
        uint80 total = c.balanceA + c.balanceB;
        balanceA = uint80(bound(balanceA, 0, total));
        return stateOf(c.epoch, c.sequence + uint40(bound(lead, 0, 5)), balanceA, total - balanceA);
    }
}

contract ChannelInvariantTest is ChannelBase {
    ChannelHandler internal handler;

    function setUp() public override {
        handler = new ChannelHandler();
    }

    function targetContracts() external view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(handler);
    }

    function excludeSelectors() external view returns (FuzzSelector[] memory excluded) {
        excluded = new FuzzSelector[](1);
        excluded[0].addr = address(handler);
        excluded[0].selectors = new bytes4[](1);
        excluded[0].selectors[0] = ChannelBase.setUp.selector;
    }

    function invariant_money_in_is_deposits_and_credits() external view {
        vm.assertEq(handler.held(address(0)), handler.owed(address(0)), "ether");
        vm.assertEq(handler.held(address(handler.token())), handler.owed(address(handler.token())), "tokens");
    }
}
