// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {NodeRegistry} from "../src/NodeRegistry.sol";
import {INodeRegistry} from "../src/interfaces/INodeRegistry.sol";
import {RegistryBase} from "./NodeRegistry.t.sol";

/// The last value that is good and the first that is not.
contract RegistryEdgesTest is RegistryBase {
    function registerWith(uint8 roles, uint32 capacity, string memory endpoint) internal returns (uint32) {
        vm.prank(OWNER);
        return registry.register(roles, capacity, IDENTITY, ONION, endpoint, proof);
    }

    function ofLength(uint256 length) internal pure returns (string memory) {
        return string(new bytes(length));
    }

    function test_a_node_may_have_every_role() public {
        uint32 id = registerWith(31, 1, "192.0.2.1:9001");
        vm.assertEq(registry.node(id).roles, 31, "roles");
        vm.expectPartialRevert(NodeRegistry.ChooseRoles.selector);
        registerWith(32, 0, "192.0.2.1:9001");
    }

    function test_a_node_of_two_roles_is_active_in_each_and_in_both() public {
        uint32 id = registerWith(STORAGE | COMPUTE, 1, "192.0.2.1:9001");
        for (uint8 role = STORAGE; role <= (STORAGE | COMPUTE); role += 2) {
            (address owner,) = registry.requireActive(id, role);
            vm.assertEq(owner, OWNER, "owner");
        }
    }

    function test_capacity_fits_twenty_four_bits() public {
        uint32 above = uint32(type(uint24).max) + 1;
        for (uint8 role = COMPUTE; role <= RELAY; role += RELAY - COMPUTE) {
            uint32 id = registerWith(role, type(uint24).max, "192.0.2.1:9001");
            vm.assertEq(registry.node(id).capacity, type(uint24).max, "capacity");
            vm.expectPartialRevert(NodeRegistry.ReduceCapacity.selector);
            registerWith(role, above, "192.0.2.1:9001");
            vm.expectPartialRevert(NodeRegistry.ReduceCapacity.selector);
            vm.prank(OWNER);
            registry.setCapacity(id, above);
        }
    }

    function test_an_endpoint_has_sixty_four_bytes_at_most() public {
        registerWith(RELAY, 0, ofLength(64));
        vm.expectRevert(abi.encodeWithSelector(NodeRegistry.ShortenEndpoint.selector, 64));
        registerWith(RELAY, 0, ofLength(65));
    }

    function test_an_endpoint_is_read_as_it_was_registered_whatever_follows_it(bytes32[2] memory text, uint256 length)
        public
    {
        length = bound(length, 0, 64);
        string memory endpoint = string(abi.encodePacked(text));
        bytes memory data =
            abi.encodeCall(registry.register, (COMPUTE, 1, IDENTITY, ONION, endpoint, [IDENTITY, ONION]));
        assembly {
            mstore(endpoint, length)
            // Selector, seven words with the proof in them, then the length. What is behind it stays.
            mstore(add(data, add(0x24, mul(7, 0x20))), length)
        }
        vm.prank(OWNER);
        (bool success,) = address(registry).call(data);
        vm.assertTrue(success, "registered");
        vm.assertEq(keccak256(bytes(registry.node(1).endpoint)), keccak256(bytes(endpoint)), "endpoint");
    }

    function test_a_name_has_one_to_sixty_four_bytes() public {
        uint32 id = register(OWNER, STORAGE);
        registry.addResource(id, ofLength(1), "digest", 1);
        registry.addResource(id, ofLength(64), "digest", 1);
        for (uint256 length; length <= 65; length += 65) {
            vm.expectRevert(abi.encodeWithSelector(NodeRegistry.ChooseNameOfLength.selector, 1, 64));
            registry.addResource(id, ofLength(length), "digest", 1);
        }
    }

    function test_a_size_fits_fifty_six_bits() public {
        uint32 id = register(OWNER, STORAGE);
        bytes32 resource = registry.addResource(id, "name", "digest", type(uint56).max);
        vm.assertEq(registry.resource(resource).size, type(uint56).max, "size");
        vm.expectPartialRevert(NodeRegistry.ChooseSize.selector);
        registry.addResource(id, "other", "digest", uint64(type(uint56).max) + 1);
    }

    function test_a_page_begins_and_ends_where_it_is_told() public {
        for (uint256 i; i < 3; ++i) {
            register(OWNER, RELAY);
        }
        assertPage(0, 4, 1, 3); // ids begin at one: zero is nobody's
        assertPage(1, 3, 1, 3);
        assertPage(1, 2, 1, 2);
        assertPage(2, 1, 2, 1);
        assertPage(3, 9, 3, 1);
        assertPage(4, 9, 0, 0);
        assertPage(2, 0, 0, 0);
        assertPage(0, 1, 0, 0);
    }

    function assertPage(uint32 from, uint32 count, uint32 first, uint256 length) private view {
        INodeRegistry.NodeView[] memory found = registry.page(RELAY, from, count);
        vm.assertEq(found.length, length, "length");
        for (uint32 i; i < length; ++i) {
            vm.assertEq(found[i].id, first + i, "id");
        }
    }
}
