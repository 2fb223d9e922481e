// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

/// An ERC-1271 account of one key, which can refuse money, burn gas on it, or call back.
contract Wallet {
    address public immutable owner;
    bool public refusing;
    bool public burning;
    bool public hungry;
    mapping(uint256 => uint256) private meals;
    address public target;
    bytes public reentry;
    bytes public answer;

    constructor(address owner_) {
        owner = owner_;
    }

    function setRefusing(bool refusing_) external {
        refusing = refusing_;
    }

    function setBurning(bool burning_) external {
        burning = burning_;
    }

    function setHungry(bool hungry_) external {
        hungry = hungry_;
    }

    function setReentry(address target_, bytes calldata call_) external {
        (target, reentry) = (target_, call_);
    }

    function run(address to, uint256 value, bytes calldata call_) external payable {
        (bool ok, bytes memory why) = to.call{value: value}(call_);
        if (!ok) {
            assembly {
                revert(add(why, 0x20), mload(why))
            }
        }
    }

    function isValidSignature(bytes32 hash, bytes calldata signature) external view returns (bytes4) {
        require(signature.length == 65, "length");
        address signer = ecrecover(hash, uint8(signature[64]), bytes32(signature[0:32]), bytes32(signature[32:64]));
        return signer == owner ? this.isValidSignature.selector : bytes4(0xffffffff);
    }

    receive() external payable {
        require(!refusing, "refused");
        while (burning) {}
        if (hungry) meals[gasleft()] = 1; // a cold write: 22,100 gas, and a second below
        if (hungry) meals[gasleft()] = 1;
        if (target != address(0)) (, answer) = target.call(reentry);
    }
}
