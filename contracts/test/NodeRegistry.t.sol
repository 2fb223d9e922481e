// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {NodeRegistry} from "../src/NodeRegistry.sol";
import {INodeRegistry} from "../src/interfaces/INodeRegistry.sol";
import {Base} from "./Base.sol";

abstract contract RegistryBase is Base {
    uint8 internal constant STORAGE = 2;
    uint8 internal constant COMPUTE = 4;
    uint8 internal constant RELAY = 8;
    address internal constant GUARDIAN = address(0x600D);
    address internal constant OWNER = address(0x0123);
    address internal constant STRANGER = address(0x5757);
    bytes32 internal constant IDENTITY = "identity";
    bytes32 internal constant ONION = "onion";

    NodeRegistry internal registry;
    bytes32[2] internal proof = [bytes32("proof r"), "proof s"];

    function setUp() public virtual {
        vm.warp(1_800_000_000);
        registry = NodeRegistry(create("NodeRegistry", type(NodeRegistry).creationCode, abi.encode(GUARDIAN)));
    }

    function register(address owner, uint8 roles) internal returns (uint32 id) {
        vm.prank(owner);
        id = registry.register(roles, roles & COMPUTE == 0 ? 0 : 2, IDENTITY, ONION, "192.0.2.1:9001", proof);
    }

    function status(uint32 id) internal view returns (INodeRegistry.Status) {
        return registry.node(id).status;
    }

    function assertStatus(uint32 id, INodeRegistry.Status expected) internal view {
        vm.assertEq(uint256(status(id)), uint256(expected), "status");
    }
}

contract NodeTest is RegistryBase {
    function test_a_registered_node_is_active_in_key_epoch_one() public {
        vm.expectEmit();
        emit INodeRegistry.NodeRegistered(1, OWNER, ONION, proof);
        vm.prank(OWNER);
        uint32 id = registry.register(RELAY | COMPUTE, 3, IDENTITY, ONION, "[2001:db8::1]:9001", proof);

        INodeRegistry.NodeView memory n = registry.node(id);
        vm.assertEq(n.id, 1, "ids start at one");
        vm.assertEq(n.owner, OWNER, "owner");
        vm.assertEq(n.roles, RELAY | COMPUTE, "roles");
        vm.assertEq(uint256(n.status), uint256(INodeRegistry.Status.Active), "status");
        vm.assertEq(n.keyEpoch, 1, "key epoch");
        vm.assertEq(n.updatedAt, block.timestamp, "updated at");
        vm.assertEq(n.capacity, 3, "capacity");
        vm.assertEq(n.identityKey, IDENTITY, "identity key");
        vm.assertEq(n.onionKey, ONION, "onion key");
        vm.assertEq(keccak256(bytes(n.endpoint)), keccak256("[2001:db8::1]:9001"), "endpoint");
        vm.assertEq(registry.ownerOf(id), OWNER, "owner of");
    }

    function test_one_owner_may_have_several_nodes() public {
        register(OWNER, RELAY);
        vm.assertEq(register(OWNER, STORAGE), 2, "second id");
        vm.assertEq(registry.nodeCount(), 2, "count");
    }

    function test_roles_are_the_five_known_ones(uint8 roles) public {
        vm.prank(OWNER);
        if (roles == 0 || roles > 31) vm.expectPartialRevert(NodeRegistry.ChooseRoles.selector);
        registry.register(roles, roles & COMPUTE == 0 ? 0 : 1, IDENTITY, ONION, "192.0.2.1:1", proof);
    }

    function test_a_computing_server_promises_at_least_one_place() public {
        vm.startPrank(OWNER);
        vm.expectPartialRevert(NodeRegistry.GiveCapacity.selector);
        registry.register(COMPUTE, 0, IDENTITY, ONION, "", proof);
        vm.expectPartialRevert(NodeRegistry.GiveCapacity.selector);
        registry.register(COMPUTE | RELAY, 0, IDENTITY, ONION, "192.0.2.1:1", proof);
        uint32 id = registry.register(COMPUTE, 1, IDENTITY, ONION, "", proof);
        vm.expectPartialRevert(NodeRegistry.GiveCapacity.selector);
        registry.setCapacity(id, 0);
    }

    function test_a_relay_may_claim_its_bandwidth_and_take_the_claim_back() public {
        vm.startPrank(OWNER);
        uint32 id = registry.register(RELAY, 10_240, IDENTITY, ONION, "192.0.2.1:1", proof);
        vm.assertEq(registry.node(id).capacity, 10_240, "claimed");
        registry.setCapacity(id, 0);
        vm.assertEq(registry.node(id).capacity, 0, "taken back");
    }

    function test_capacity_is_where_something_is_counted_and_fits_its_bits(uint8 roles, uint32 capacity, bool later)
        public
    {
        (roles, capacity) = (uint8(bound(roles, 1, 31)), uint32(bound(capacity, 0, 1 << 25)));
        vm.startPrank(OWNER);
        uint32 first = roles & COMPUTE == 0 ? 0 : 1;
        uint32 id = later ? registry.register(roles, first, IDENTITY, ONION, "192.0.2.1:1", proof) : 1;

        if (capacity == 0) {
            if (roles & COMPUTE != 0) vm.expectPartialRevert(NodeRegistry.GiveCapacity.selector);
        } else if (roles & (COMPUTE | RELAY) == 0) {
            vm.expectPartialRevert(NodeRegistry.SetCapacityForComputeOrRelayOnly.selector);
        } else if (capacity > type(uint24).max) {
            vm.expectPartialRevert(NodeRegistry.ReduceCapacity.selector);
        }
        if (later) registry.setCapacity(id, capacity);
        else registry.register(roles, capacity, IDENTITY, ONION, "192.0.2.1:1", proof);
    }

    function test_changing_the_capacity_changes_nothing_else_and_is_a_heartbeat(uint24 before, uint24 capacity) public {
        vm.startPrank(OWNER);
        uint32 id = registry.register(RELAY, before, IDENTITY, ONION, "192.0.2.1:9001", proof);
        registry.setStatus(id, INodeRegistry.Status.Draining);
        registry.rotateKey(id, "new", proof);
        INodeRegistry.NodeView memory was = registry.node(id);
        vm.warp(block.timestamp + 5 minutes);
        vm.expectEmit();
        emit INodeRegistry.NodeCapacity(id, capacity);
        registry.setCapacity(id, capacity);

        INodeRegistry.NodeView memory n = registry.node(id);
        vm.assertEq(n.updatedAt, vm.getBlockTimestamp(), "heartbeat");
        (was.capacity, was.updatedAt) = (capacity, n.updatedAt);
        vm.assertEq(keccak256(abi.encode(n)), keccak256(abi.encode(was)), "all the rest");
    }

    function test_whoever_is_dialled_has_an_endpoint_and_a_computing_server_needs_none() public {
        vm.startPrank(OWNER);
        vm.expectPartialRevert(NodeRegistry.GiveEndpoint.selector);
        registry.register(RELAY, 0, IDENTITY, ONION, "", proof);
        uint32 id = registry.register(COMPUTE, 1, IDENTITY, ONION, "", proof);
        vm.assertEq(bytes(registry.node(id).endpoint).length, 0, "no endpoint");
        vm.expectPartialRevert(NodeRegistry.ShortenEndpoint.selector);
        registry.setEndpoint(id, string(new bytes(65)));
    }

    function test_keys_are_there() public {
        vm.startPrank(OWNER);
        vm.expectPartialRevert(NodeRegistry.GiveKeys.selector);
        registry.register(RELAY, 0, 0, ONION, "192.0.2.1:1", proof);
        vm.expectPartialRevert(NodeRegistry.GiveKeys.selector);
        registry.register(RELAY, 0, IDENTITY, 0, "192.0.2.1:1", proof);
    }

    function test_rotating_the_key_starts_the_next_epoch_and_keeps_the_identity() public {
        uint32 id = register(OWNER, RELAY);
        vm.warp(block.timestamp + 1 days);
        vm.expectEmit();
        emit INodeRegistry.NodeKey(id, 2, "new", proof);
        vm.prank(OWNER);
        registry.rotateKey(id, "new", proof);
        INodeRegistry.NodeView memory n = registry.node(id);
        vm.assertEq(n.keyEpoch, 2, "key epoch");
        vm.assertEq(n.onionKey, "new", "onion key");
        vm.assertEq(n.identityKey, IDENTITY, "identity key");
        vm.assertEq(n.updatedAt, vm.getBlockTimestamp(), "heartbeat");
    }

    function test_an_endpoint_moves_and_may_grow_and_shrink() public {
        uint32 id = register(OWNER, RELAY);
        string memory long = "[2001:0db8:0000:0000:0000:0000:0000:0001]:65535";
        vm.startPrank(OWNER);
        registry.setEndpoint(id, long);
        vm.assertEq(keccak256(bytes(registry.node(id).endpoint)), keccak256(bytes(long)), "long");
        registry.setEndpoint(id, "192.0.2.9:1");
        vm.assertEq(keccak256(bytes(registry.node(id).endpoint)), keccak256("192.0.2.9:1"), "short");
        vm.expectPartialRevert(NodeRegistry.GiveEndpoint.selector);
        registry.setEndpoint(id, "");
    }

    function test_only_the_owner_touches_a_node() public {
        uint32 id = register(OWNER, RELAY);
        vm.startPrank(STRANGER);
        vm.expectPartialRevert(NodeRegistry.CallAsOwner.selector);
        registry.rotateKey(id, "new", proof);
        vm.expectPartialRevert(NodeRegistry.CallAsOwner.selector);
        registry.setEndpoint(id, "192.0.2.9:1");
        vm.expectPartialRevert(NodeRegistry.CallAsOwner.selector);
        registry.setCapacity(id, 1);
        vm.expectPartialRevert(NodeRegistry.CallAsOwner.selector);
        registry.setStatus(id, INodeRegistry.Status.Offline);
        vm.expectPartialRevert(NodeRegistry.CallAsOwner.selector);
        registry.heartbeat(id);
        vm.expectPartialRevert(NodeRegistry.RegisterNodeFirst.selector);
        registry.heartbeat(id + 1);
    }

    function test_a_heartbeat_says_the_node_lives() public {
        uint32 id = register(OWNER, RELAY);
        vm.warp(block.timestamp + 5 minutes);
        vm.prank(OWNER);
        registry.heartbeat(id);
        vm.assertEq(registry.node(id).updatedAt, vm.getBlockTimestamp(), "updated at");
    }
}

contract StatusTest is RegistryBase {
    uint32 internal id;

    function setUp() public override {
        super.setUp();
        id = register(OWNER, COMPUTE);
    }

    function test_the_owner_drains_leaves_and_returns() public {
        vm.startPrank(OWNER);
        registry.setStatus(id, INodeRegistry.Status.Draining);
        assertStatus(id, INodeRegistry.Status.Draining);
        registry.setStatus(id, INodeRegistry.Status.Offline);
        vm.expectEmit();
        emit INodeRegistry.NodeStatus(id, INodeRegistry.Status.Active);
        registry.setStatus(id, INodeRegistry.Status.Active);
        assertStatus(id, INodeRegistry.Status.Active);
    }

    function test_some_statuses_are_not_the_owners_to_choose() public {
        vm.startPrank(OWNER);
        vm.expectPartialRevert(NodeRegistry.ChooseOwnersStatus.selector);
        registry.setStatus(id, INodeRegistry.Status.None);
        vm.expectPartialRevert(NodeRegistry.ChooseOwnersStatus.selector);
        registry.setStatus(id, INodeRegistry.Status.Suspended);
    }

    function test_retired_is_final() public {
        vm.startPrank(OWNER);
        registry.setStatus(id, INodeRegistry.Status.Retired);
        vm.expectPartialRevert(NodeRegistry.NodeRetired.selector);
        registry.setStatus(id, INodeRegistry.Status.Active);
        vm.expectPartialRevert(NodeRegistry.NodeRetired.selector);
        registry.rotateKey(id, "new", proof);
        vm.expectPartialRevert(NodeRegistry.NodeRetired.selector);
        registry.setCapacity(id, 1);
        vm.stopPrank();
        vm.prank(GUARDIAN);
        vm.expectPartialRevert(NodeRegistry.NodeRetired.selector);
        registry.setSuspended(id, true);
    }

    function test_only_the_guardian_suspends() public {
        vm.prank(OWNER);
        vm.expectPartialRevert(NodeRegistry.CallAsGuardian.selector);
        registry.setSuspended(id, true);
    }

    function test_a_suspended_node_may_only_retire() public {
        vm.prank(GUARDIAN);
        registry.setSuspended(id, true);
        vm.startPrank(OWNER);
        vm.expectPartialRevert(NodeRegistry.NodeSuspended.selector);
        registry.setStatus(id, INodeRegistry.Status.Active);
        registry.setStatus(id, INodeRegistry.Status.Retired);
        assertStatus(id, INodeRegistry.Status.Retired);
    }

    function test_lifting_a_suspension_leaves_the_node_offline_until_its_owner_activates_it() public {
        vm.startPrank(GUARDIAN);
        registry.setSuspended(id, true);
        assertStatus(id, INodeRegistry.Status.Suspended);
        registry.setSuspended(id, false);
        assertStatus(id, INodeRegistry.Status.Offline);
        vm.stopPrank();
        vm.prank(OWNER);
        registry.setStatus(id, INodeRegistry.Status.Active);
        assertStatus(id, INodeRegistry.Status.Active);
    }

    function test_lifting_what_is_not_suspended_is_refused() public {
        vm.prank(GUARDIAN);
        vm.expectPartialRevert(NodeRegistry.SuspendNodeFirst.selector);
        registry.setSuspended(id, false);
    }

    function test_require_active_checks_role_and_status() public {
        (address owner, uint32 capacity) = registry.requireActive(id, COMPUTE);
        vm.assertEq(owner, OWNER, "owner");
        vm.assertEq(capacity, 2, "capacity");
        vm.prank(OWNER);
        registry.setCapacity(id, 5);
        (, capacity) = registry.requireActive(id, COMPUTE);
        vm.assertEq(capacity, 5, "changed capacity");
        vm.expectRevert(abi.encodeWithSelector(NodeRegistry.NodeLacksRole.selector, id, STORAGE));
        registry.requireActive(id, STORAGE);
        vm.expectPartialRevert(NodeRegistry.RegisterNodeFirst.selector);
        registry.requireActive(99, COMPUTE);
        vm.prank(OWNER);
        registry.setStatus(id, INodeRegistry.Status.Draining);
        vm.expectPartialRevert(NodeRegistry.NodeNotActive.selector);
        registry.requireActive(id, COMPUTE);
    }
}

contract PageTest is RegistryBase {
    function setUp() public override {
        super.setUp();
        for (uint256 i; i < 10; ++i) {
            register(OWNER, i % 2 == 0 ? RELAY : COMPUTE);
        }
    }

    function test_a_page_has_the_nodes_of_the_roles_in_its_range() public view {
        INodeRegistry.NodeView[] memory found = registry.page(RELAY, 3, 4);
        vm.assertEq(found.length, 2, "3 and 5 of 3..6");
        vm.assertEq(found[0].id, 3, "first");
        vm.assertEq(found[1].id, 5, "second");
    }

    function test_roles_are_a_union() public view {
        vm.assertEq(registry.page(RELAY | COMPUTE, 1, 10).length, 10, "all");
        vm.assertEq(registry.page(STORAGE, 1, 10).length, 0, "none");
    }

    function test_every_status_is_listed() public {
        vm.prank(OWNER);
        registry.setStatus(1, INodeRegistry.Status.Retired);
        vm.assertEq(registry.page(RELAY, 1, 1).length, 1, "the reader decides");
    }

    function test_pages_put_together_are_the_directory(uint32 size) public view {
        size = uint32(bound(size, 1, 12));
        uint256 seen;
        for (uint32 from = 1; from <= 10; from += size) {
            INodeRegistry.NodeView[] memory found = registry.page(type(uint8).max, from, size);
            for (uint256 i; i < found.length; ++i) {
                vm.assertEq(found[i].id, ++seen, "each once, in order");
            }
        }
        vm.assertEq(seen, 10, "all");
    }

    function test_no_range_is_out_of_bounds(uint32 from, uint32 count) public view {
        uint256 first = from == 0 ? 1 : from;
        uint256 end = uint256(from) + count;
        if (end > 11) end = 11;
        vm.assertEq(registry.page(type(uint8).max, from, count).length, first < end ? end - first : 0, "length");
    }

    function test_an_unknown_node_is_empty() public view {
        vm.assertEq(registry.node(99).id, 0, "id");
        vm.assertEq(registry.ownerOf(99), address(0), "owner");
    }
}

contract ResourceTest is RegistryBase {
    uint32 internal store;

    function setUp() public override {
        super.setUp();
        store = register(STRANGER, STORAGE);
    }

    function add(address owner, string memory name) internal returns (bytes32) {
        vm.prank(owner);
        return registry.addResource(store, name, "digest", 4096);
    }

    function test_a_resource_is_its_owners_and_lies_at_a_store() public {
        bytes32 expected = keccak256(abi.encode(OWNER, "wdbc-north"));
        vm.expectEmit();
        emit INodeRegistry.ResourceAdded(expected, keccak256("wdbc-north"), OWNER, store, "digest", 4096, "wdbc-north");
        bytes32 id = add(OWNER, "wdbc-north");
        vm.assertEq(id, expected, "id");

        INodeRegistry.Resource memory r = registry.resource(id);
        vm.assertEq(r.owner, OWNER, "owner");
        vm.assertEq(r.node, store, "node");
        vm.assertTrue(!r.revoked, "revoked");
        vm.assertEq(r.digest, "digest", "digest");
        vm.assertEq(r.size, 4096, "size");
        vm.assertEq(keccak256(bytes(r.name)), keccak256("wdbc-north"), "name");
    }

    function test_a_name_lists_the_resources_of_every_owner() public {
        bytes32 first = add(OWNER, "cohort");
        bytes32 second = add(STRANGER, "cohort");
        add(OWNER, "other");
        bytes32[] memory ids = registry.resourcesNamed("cohort");
        vm.assertEq(ids.length, 2, "count");
        vm.assertEq(ids[0], first, "first");
        vm.assertEq(ids[1], second, "second");
    }

    function test_only_its_owner_revokes_a_resource_and_once() public {
        bytes32 id = add(OWNER, "cohort");
        vm.prank(STRANGER);
        vm.expectPartialRevert(NodeRegistry.CallAsOwner.selector);
        registry.revokeResource(id);
        vm.startPrank(OWNER);
        registry.revokeResource(id);
        vm.assertTrue(registry.resource(id).revoked, "revoked");
        vm.expectPartialRevert(NodeRegistry.AddResourceFirst.selector);
        registry.revokeResource(id);
    }

    function test_a_revoked_resource_may_be_listed_anew_and_stays_once_in_the_list() public {
        bytes32 id = add(OWNER, "cohort");
        vm.prank(OWNER);
        vm.expectPartialRevert(NodeRegistry.RevokeResourceFirst.selector);
        registry.addResource(store, "cohort", "newer", 1);
        vm.prank(OWNER);
        registry.revokeResource(id);
        vm.prank(OWNER);
        registry.addResource(store, "cohort", "newer", 1);
        vm.assertEq(registry.resource(id).digest, "newer", "digest");
        vm.assertTrue(!registry.resource(id).revoked, "not revoked");
        vm.assertEq(registry.resourcesNamed("cohort").length, 1, "once");
    }

    function test_a_resource_lies_at_a_node_that_stores() public {
        uint32 relay = register(OWNER, RELAY);
        vm.startPrank(OWNER);
        vm.expectPartialRevert(NodeRegistry.NodeLacksRole.selector);
        registry.addResource(relay, "cohort", "digest", 1);
        vm.expectPartialRevert(NodeRegistry.RegisterNodeFirst.selector);
        registry.addResource(99, "cohort", "digest", 1);
        vm.stopPrank();
        vm.prank(STRANGER);
        registry.setStatus(store, INodeRegistry.Status.Retired);
        vm.prank(OWNER);
        vm.expectPartialRevert(NodeRegistry.NodeRetired.selector);
        registry.addResource(store, "cohort", "digest", 1);
    }

    function test_names_and_sizes_have_limits() public {
        vm.startPrank(OWNER);
        vm.expectPartialRevert(NodeRegistry.ChooseNameOfLength.selector);
        registry.addResource(store, "", "digest", 1);
        vm.expectPartialRevert(NodeRegistry.ChooseNameOfLength.selector);
        registry.addResource(store, string(new bytes(65)), "digest", 1);
        vm.expectPartialRevert(NodeRegistry.ChooseSize.selector);
        registry.addResource(store, "cohort", "digest", 0);
        vm.expectPartialRevert(NodeRegistry.ChooseSize.selector);
        registry.addResource(store, "cohort", "digest", 1 << 56);
    }
}
