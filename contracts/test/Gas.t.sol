// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {IChannelManager} from "../src/interfaces/IChannelManager.sol";
import {INodeRegistry} from "../src/interfaces/INodeRegistry.sol";
import {ChannelBase} from "./ChannelManager.t.sol";
import {RegistryBase} from "./NodeRegistry.t.sol";
import {SchedulerBase} from "./TaskScheduler.t.sol";
import {LeanToken} from "./mocks/LeanToken.sol";

/// What users pay, as a receipt would say it: run by tools/gas, isolated (every call is a transaction of its own) and on the bytecode
/// that is shipped. Both parties exist and both are paid.
contract ChannelGas is ChannelBase {
    function measured(string memory name) private {
        vm.snapshotGasLastCall("ChannelManager", name);
    }

    function test_open_and_join_then_close_then_again() public {
        openMeasured("open", "join");
        closeMeasured("close");
        openMeasured("open again", "join again");
    }

    function test_open_both_then_again() public {
        // The peer's credit is what its request asks for, and is spent to the last wei.
        credit(DEPOSIT_B);
        openBothMeasured(1, DEPOSIT_A, "openBoth");
        closeMeasured("close after openBoth");
        credit(DEPOSIT_B);
        openBothMeasured(2, DEPOSIT_A, "openBoth again");
        closeMeasured("close after openBoth again");
        credit(2 * DEPOSIT_B);
        openBothMeasured(3, DEPOSIT_A, "openBoth again, credit left");
    }

    function test_dispute() public {
        openChannel();
        IChannelManager.State memory s = state(5, 2 ether);
        bytes memory fromA = signState(keyA, s);
        vm.prank(b);
        manager.challenge(id, s, fromA);
        measured("challenge");
        s = state(6, 2.5 ether);
        bytes memory fromB = signState(keyB, s);
        vm.prank(a);
        manager.respond(id, s, "", fromB);
        measured("respond");
        vm.warp(uint256(manager.channel(cid).deadline) + 1);
        vm.prank(a);
        manager.finalize(id);
        measured("finalize");
    }

    function test_tokens() public {
        LeanToken token = new LeanToken();
        use(terms(address(token), 7, PERIOD, PENALTY_BPS));
        for (uint256 i; i < 2; ++i) {
            address party = i == 0 ? a : b;
            token.mint(party, 100 ether);
            vm.prank(party);
            token.approve(address(manager), type(uint256).max);
        }
        vm.prank(a);
        manager.open(id, DEPOSIT_A, DEPOSIT_B);
        measured("token open");
        vm.prank(b);
        manager.join(id, 1);
        measured("token join");
        // While the manager holds some of the token, as it will in a net of channels: 17,100 less than the very first time.
        use(terms(address(token), 8, PERIOD, PENALTY_BPS));
        openBothMeasured(1, 0, "token openBoth");
        closeMeasured("token close while others are open");
        use(terms(address(token), 7, PERIOD, PENALTY_BPS));
        closeMeasured("token close");
    }

    function credit(uint256 amount) private {
        vm.prank(b);
        manager.depositCredit{value: amount}();
    }

    function openMeasured(string memory first, string memory second) private {
        vm.prank(a);
        manager.open{value: DEPOSIT_A}(id, DEPOSIT_A, DEPOSIT_B);
        measured(first);
        uint16 epoch = manager.channel(cid).epoch;
        vm.prank(b);
        manager.join{value: DEPOSIT_B}(id, epoch);
        measured(second);
    }

    function openBothMeasured(uint16 epoch, uint256 value, string memory name) private {
        uint256 deadline = vm.getBlockTimestamp() + 1;
        bytes memory fromB = signOpen(keyB, epoch, DEPOSIT_A, DEPOSIT_B, deadline);
        vm.prank(a);
        manager.openBoth{value: value}(id, DEPOSIT_A, DEPOSIT_B, deadline, fromB);
        measured(name);
    }

    function closeMeasured(string memory name) private {
        IChannelManager.State memory s = state(5, 2 ether);
        bytes memory fromA = signClose(keyA, s);
        vm.prank(b);
        manager.close(id, s, fromA, "");
        measured(name);
    }
}

contract RegistryGas is RegistryBase {
    function measured(string memory name) private {
        vm.snapshotGasLastCall("NodeRegistry", name);
    }

    function test_life_of_a_node() public {
        proof = [keccak256("r"), keccak256("s")]; // calldata of a real signature has few zeros
        register(OWNER, RELAY);
        vm.prank(OWNER);
        registry.register(RELAY, 10_240, keccak256("identity"), keccak256("onion"), "192.0.2.1:9001", proof);
        measured("register");
        vm.prank(OWNER);
        registry.rotateKey(2, keccak256("next"), proof);
        measured("rotateKey");
        vm.prank(OWNER);
        registry.setStatus(2, INodeRegistry.Status.Draining);
        measured("setStatus");
        vm.prank(OWNER);
        registry.setCapacity(2, 20_480);
        measured("setCapacity");
        vm.warp(vm.getBlockTimestamp() + 60);
        vm.prank(OWNER);
        registry.heartbeat(2);
        measured("heartbeat");
    }
}

/// A task on three servers with one store.
contract SchedulerGas is SchedulerBase {
    function measured(string memory name) private {
        vm.snapshotGasLastCall("TaskScheduler", name);
    }

    function test_life_of_a_task() public {
        requestTask();
        measured("request");
        vm.prank(REQUESTER);
        scheduler.assign(id, compute, stores);
        measured("assign 3");
        bytes memory signed = signatures();
        vm.prank(REQUESTER);
        scheduler.publishKey(id, vm.addr(TASK_KEY), statements, signed, "descriptors");
        measured("publishKey 3");
        report(0);
        measured("report");
        report(1);
        complete(2);
        measured("complete 3");
    }

    function test_life_of_a_task_on_one_server() public {
        keys.pop();
        keys.pop();
        compute.pop();
        compute.pop();
        statements.pop();
        statements.pop();
        terms.servers = 1;
        requestTask();
        vm.prank(REQUESTER);
        scheduler.assign(id, compute, stores);
        measured("assign 1");
        bytes memory signed = signatures();
        vm.prank(REQUESTER);
        scheduler.publishKey(id, vm.addr(TASK_KEY), statements, signed, "descriptors");
        measured("publishKey 1");
        complete(0);
        measured("complete 1");
    }
}

contract DeployGas is ChannelBase {
    /// snapshotGasLastCall does not know a CREATE. Isolated, the opcode costs the whole transaction, and its own price on top.
    function test_deploy() public {
        bytes memory code = shipped("ChannelManager");
        address deployed;
        uint256 gas = gasleft();
        assembly {
            deployed := create(0, add(code, 0x20), mload(code))
        }
        gas -= gasleft();
        require(deployed != address(0), "deployment failed");
        uint256 opcode = 32_000 + 2 * ((code.length + 31) / 32);
        vm.snapshotValue("ChannelManager", "deploy", gas - opcode);
    }
}
