// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

/// An ERC-20 with the vices under test: it may take a fee, answer nothing or false, refuse an account, or call back.
contract Token {
    event Transfer(address indexed from, address indexed to, uint256 amount);

    uint8 public constant decimals = 6;

    mapping(address => uint256) public balanceOf;
    mapping(address => mapping(address => uint256)) public allowance;
    mapping(address => bool) public blocked;
    uint256 public fee;
    bool public silent;
    bool public failing;
    address public hook;
    bytes public hookCall;

    function mint(address to, uint256 amount) external {
        balanceOf[to] += amount;
    }

    function approve(address spender, uint256 amount) external returns (bool) {
        allowance[msg.sender][spender] = amount;
        return true;
    }

    function setFee(uint256 fee_) external {
        fee = fee_;
    }

    function setSilent(bool silent_) external {
        silent = silent_;
    }

    function setFailing(bool failing_) external {
        failing = failing_;
    }

    function setBlocked(address account, bool blocked_) external {
        blocked[account] = blocked_;
    }

    function setHook(address hook_, bytes calldata call_) external {
        (hook, hookCall) = (hook_, call_);
    }

    function transfer(address to, uint256 amount) external returns (bool) {
        if (failing) return false;
        _move(msg.sender, to, amount);
        return _answer();
    }

    function transferFrom(address from, address to, uint256 amount) external returns (bool) {
        if (failing) return false;
        allowance[from][msg.sender] -= amount;
        _move(from, to, amount);
        return _answer();
    }

    function _move(address from, address to, uint256 amount) private {
        require(!blocked[to], "blocked");
        balanceOf[from] -= amount;
        balanceOf[to] += amount - fee;
        emit Transfer(from, to, amount);
        if (hook != address(0)) {
            (bool ok, bytes memory why) = hook.call(hookCall);
            if (!ok) {
                assembly {
                    revert(add(why, 0x20), mload(why))
                }
            }
        }
    }

    /// Some tokens return nothing at all.
    function _answer() private view returns (bool) {
        if (silent) {
            assembly {
                return(0, 0)
            }
        }
        return true;
    }
}
