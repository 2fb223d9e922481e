// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {INodeRegistry} from "../src/interfaces/INodeRegistry.sol";
import {RegistryBase} from "./NodeRegistry.t.sol";

/// Does to many nodes whatever their owner and the guardian may do, in any order, and keeps a second account of what a node's first
/// word says. No call here may revert: the guards are known, so a revert is a bug.
contract RegistryHandler is RegistryBase {
    struct Account {
        uint8 roles;
        INodeRegistry.Status status;
        uint32 keyEpoch;
        uint32 capacity;
        uint40 updatedAt;
    }

    mapping(uint32 id => Account) private accounts;
    uint32 private count;

    constructor() {
        setUp();
    }

    /// The owner acts on a node that is not retired: a heartbeat.
    modifier acting(uint256 seed) {
        uint32 id = some(seed);
        if (accounts[id].status == INodeRegistry.Status.Retired || count == 0) return;
        vm.prank(OWNER);
        _;
        accounts[id].updatedAt = uint40(vm.getBlockTimestamp());
    }

    function some(uint256 seed) private view returns (uint32) {
        return uint32(1 + (count == 0 ? 0 : seed % count)); // no call: the next one is the prank's
    }

    function capacityFor(uint8 roles, uint256 seed) private pure returns (uint32) {
        if (roles & (COMPUTE | RELAY) == 0) return 0;
        return uint32(bound(seed, roles & COMPUTE == 0 ? 0 : 1, type(uint24).max));
    }

    function registerOne(uint8 roles, uint256 capacity) external {
        roles = uint8(bound(roles, 1, 31));
        uint32 claimed = capacityFor(roles, capacity);
        vm.prank(OWNER);
        uint32 id = registry.register(roles, claimed, IDENTITY, ONION, "192.0.2.1:9001", proof);
        vm.assertEq(id, ++count, "ids are counted");
        accounts[id] = Account(roles, INodeRegistry.Status.Active, 1, claimed, uint40(vm.getBlockTimestamp()));
    }

    function setCapacity(uint256 seed, uint256 capacity) external acting(seed) {
        Account storage a = accounts[some(seed)];
        a.capacity = capacityFor(a.roles, capacity);
        registry.setCapacity(some(seed), a.capacity);
    }

    function rotateKey(uint256 seed) external acting(seed) {
        registry.rotateKey(some(seed), ONION, proof);
        ++accounts[some(seed)].keyEpoch;
    }

    function setEndpoint(uint256 seed, bool long) external acting(seed) {
        registry.setEndpoint(some(seed), long ? "[2001:0db8:0000:0000:0000:0000:0000:0001]:65535" : "192.0.2.9:1");
    }

    function heartbeat(uint256 seed) external acting(seed) {
        registry.heartbeat(some(seed));
    }

    function setStatus(uint256 seed, uint8 choice) external {
        INodeRegistry.Status status = [
            INodeRegistry.Status.Active,
            INodeRegistry.Status.Draining,
            INodeRegistry.Status.Offline,
            INodeRegistry.Status.Retired
        ][choice % 4];
        if (accounts[some(seed)].status == INodeRegistry.Status.Suspended) status = INodeRegistry.Status.Retired;
        moveTo(seed, status);
    }

    function moveTo(uint256 seed, INodeRegistry.Status status) private acting(seed) {
        registry.setStatus(some(seed), status);
        accounts[some(seed)].status = status;
    }

    function suspend(uint256 seed) external {
        Account storage a = accounts[some(seed)];
        if (count == 0 || a.status == INodeRegistry.Status.Retired) return;
        bool suspended = a.status != INodeRegistry.Status.Suspended;
        a.status = suspended ? INodeRegistry.Status.Suspended : INodeRegistry.Status.Offline;
        vm.prank(GUARDIAN);
        registry.setSuspended(some(seed), suspended);
    }

    function pass(uint256 time) external {
        vm.warp(vm.getBlockTimestamp() + bound(time, 0, 1 days));
    }

    function check() external view {
        for (uint32 id = 1; id <= count; ++id) {
            INodeRegistry.NodeView memory n = registry.node(id);
            Account memory a = accounts[id];
            vm.assertEq(n.owner, OWNER, "owner");
            vm.assertEq(n.roles, a.roles, "roles");
            vm.assertEq(uint256(n.status), uint256(a.status), "status");
            vm.assertEq(n.keyEpoch, a.keyEpoch, "key epoch");
            vm.assertEq(n.capacity, a.capacity, "capacity");
            vm.assertEq(n.updatedAt, a.updatedAt, "updated at");
            if (n.roles & COMPUTE != 0) vm.assertTrue(n.capacity != 0, "a computing server without a place");
            else if (n.roles & RELAY == 0) vm.assertEq(n.capacity, 0, "nothing to count");
        }
    }
}

contract RegistryInvariantTest is RegistryBase {
    RegistryHandler internal handler;

    function setUp() public override {
        handler = new RegistryHandler();
    }

    function targetContracts() external view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(handler);
    }

    function excludeSelectors() external view returns (FuzzSelector[] memory excluded) {
        excluded = new FuzzSelector[](1);
        excluded[0].addr = address(handler);
        excluded[0].selectors = new bytes4[](1);
        excluded[0].selectors[0] = RegistryBase.setUp.selector;
    }

    function invariant_every_node_is_what_its_owner_and_the_guardian_made_it() external view {
        handler.check();
    }
}
