// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {ChannelManager} from "../../src/ChannelManager.sol";
import {IChannelManager} from "../../src/interfaces/IChannelManager.sol";
import {Token} from "../mocks/Token.sol";

/// The cheat codes that halmos knows and we use.
interface Vm {
    function assume(bool condition) external pure;
    function deal(address account, uint256 balance) external;
    function etch(address account, bytes calldata code) external;
    function load(address account, bytes32 slot) external view returns (bytes32);
    function prank(address sender) external;
    function warp(uint256 time) external;
}

/// Fresh unknowns.
interface Svm {
    function createBool(string calldata name) external pure returns (bool);
    function createBytes(uint256 size, string calldata name) external pure returns (bytes memory);
    function createUint(uint256 bits, string calldata name) external pure returns (uint256);
    function createUint256(string calldata name) external pure returns (uint256);
    function enableSymbolicStorage(address account) external;
}

/// A smart account that takes money or not, and signs everything or nothing.
contract Payee {
    bool private accepts;
    bool private signs;

    receive() external payable {
        require(accepts);
    }

    function isValidSignature(bytes32, bytes calldata) external view returns (bytes4) {
        return signs ? this.isValidSignature.selector : bytes4(0);
    }
}

// Without jumps: every jump on an unknown doubles the paths that halmos walks.

function both(bool x, bool y) pure returns (bool z) {
    assembly {
        z := and(x, y)
    }
}

function either(bool x, bool y) pure returns (bool z) {
    assembly {
        z := or(x, y)
    }
}

/// One channel in any state whatever, and everything that can be observed about it before and after one call.
/// The word is unknown but for `sane`, which `check_*_keeps_the_word_sane` proves of every transition: a channel without a word is
/// sane, so every word that can come to be is.
abstract contract Formal {
    Vm internal constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));
    Svm internal constant svm = Svm(address(uint160(uint256(keccak256("svm cheat code")))));

    uint256 internal constant NONE = 0;
    uint256 internal constant OPENING = 1;
    uint256 internal constant OPEN = 2;
    uint256 internal constant DISPUTED = 3;
    uint256 internal constant CLOSED = 4;
    uint256 internal constant BY_B = 1 << 255;
    uint256 internal constant PENALTY = 1 << 254;

    /// A plain account, a smart account and somebody else.
    address internal constant A = address(0xAAAA);
    address internal constant B = address(0xBBBB);
    address internal constant STRANGER = address(0xCCCC);

    ChannelManager internal manager;
    Token internal token;

    struct Before {
        address asset;
        uint256 terms;
        bytes32 slot;
        uint256 word;
        uint256 held;
        uint256 creditA;
        uint256 creditB;
        uint256 creditOther;
        uint256 ownA;
        uint256 ownB;
        uint256 time;
        address caller;
    }

    function setUp() public {
        manager = new ChannelManager();
        token = new Token();
        vm.etch(B, address(new Payee()).code);
    }

    /// Any terms that `open` lets pass, any word that is sane, any balances and credits, any time, any caller.
    function anything(address asset) internal returns (Before memory x) {
        x.asset = asset;
        x.terms = anyTerms(asset);
        x.slot = keccak256(abi.encode(keccak256(abi.encode(A, B, x.terms)), 0));
        svm.enableSymbolicStorage(address(manager));
        svm.enableSymbolicStorage(B);
        x.word = word(x);
        vm.assume(sane(x.word));

        (x.creditA, x.creditB, x.creditOther) = credits(asset);
        vm.assume(both(x.creditA < 2 ** 110, both(x.creditB < 2 ** 110, x.creditOther < 2 ** 110)));
        x.held = svm.createUint(120, "held");
        fund(asset, x.held);

        x.time = svm.createUint(31, "time"); // until the year 2038: a deadline is 32 bits
        vm.warp(x.time);
        uint256 who = svm.createUint(2, "caller");
        x.caller = who == 0 ? A : who == 1 ? B : STRANGER;
        (x.ownA, x.ownB) = (own(asset, A), own(asset, B));
    }

    function anyTerms(address asset) private pure returns (uint256) {
        uint256 period = svm.createUint(32, "period");
        uint256 bps = svm.createUint(16, "bps");
        vm.assume(both(bps <= 10_000, both(period >= 60, period <= 30 days)));
        return (uint256(uint160(asset)) << 96) | (svm.createUint(48, "lane") << 48) | (period << 16) | bps;
    }

    function fund(address asset, uint256 held) private {
        vm.deal(address(manager), asset == address(0) ? held : svm.createUint(120, "ether held"));
        vm.deal(A, svm.createUint(100, "ether of a"));
        vm.deal(B, svm.createUint(100, "ether of b"));
        vm.deal(STRANGER, svm.createUint(100, "ether of somebody"));
        if (asset == address(0)) return;
        token.mint(address(manager), held);
        token.mint(A, svm.createUint(100, "tokens of a"));
        token.mint(B, svm.createUint(100, "tokens of b"));
        token.setFailing(svm.createBool("failing"));
    }

    /*//////////////////////////////////////////////////////////////
                                WORDS
    //////////////////////////////////////////////////////////////*/

    function phase(uint256 w) internal pure returns (uint256) {
        return (w >> 248) & 0x3f;
    }

    function epoch(uint256 w) internal pure returns (uint256) {
        return (w >> 232) & 0xffff;
    }

    function sequence(uint256 w) internal pure returns (uint256) {
        return (w >> 192) & 0xffffffffff;
    }

    function deadline(uint256 w) internal pure returns (uint256) {
        return (w >> 160) & 0xffffffff;
    }

    function balanceA(uint256 w) internal pure returns (uint256) {
        return (w >> 80) & type(uint80).max;
    }

    function balanceB(uint256 w) internal pure returns (uint256) {
        return w & type(uint80).max;
    }

    function total(uint256 w) internal pure returns (uint256) {
        unchecked {
            return balanceA(w) + balanceB(w);
        }
    }

    function byB(uint256 w) internal pure returns (bool) {
        return w & BY_B != 0;
    }

    function sane(uint256 w) internal pure returns (bool) {
        bool empty = either(phase(w) == OPENING, either(phase(w) == OPEN, either(phase(w) == DISPUTED, total(w) == 0)));
        bool used = both(both(epoch(w) != 0, total(w) <= type(uint80).max), both(phase(w) <= CLOSED, empty));
        // Nothing is signed before a dispute: challenge knows the deposits by the sequence that it finds.
        bool fresh = either(phase(w) == DISPUTED, either(phase(w) == CLOSED, sequence(w) == 0));
        return either(w == 0, both(both(used, fresh), phase(w) != NONE));
    }

    function word(Before memory x) internal view returns (uint256) {
        return uint256(vm.load(address(manager), x.slot));
    }

    /*//////////////////////////////////////////////////////////////
                                MONEY
    //////////////////////////////////////////////////////////////*/

    function own(address asset, address account) internal view returns (uint256) {
        return asset == address(0) ? account.balance : token.balanceOf(account);
    }

    function credits(address asset) internal view returns (uint256 ofA, uint256 ofB, uint256 ofOther) {
        return (manager.credit(A, asset), manager.credit(B, asset), manager.credit(STRANGER, asset));
    }

    /// Money in = money locked + credits: what came in or went out is what is owed more or less than before. What is owed for a
    /// channel is its total, while it is Opening the opener's deposit, and nothing when it is Closed.
    /// @dev Nothing here wraps: `anything` bounds all amounts to 120 bits.
    function conserved(Before memory x, uint256 lockedBefore, uint256 lockedAfter) internal view returns (bool) {
        (uint256 creditA, uint256 creditB, uint256 creditOther) = credits(x.asset);
        unchecked {
            uint256 owed = lockedAfter + creditA + creditB + creditOther;
            uint256 owedBefore = lockedBefore + x.creditA + x.creditB + x.creditOther;
            return own(x.asset, address(manager)) + owedBefore == x.held + owed;
        }
    }

    /// What a party has gained, in its hand or as a credit. Modulo 2^256: a loss is a huge number, never a small one.
    function gainedA(Before memory x) internal view returns (uint256) {
        unchecked {
            return own(x.asset, A) + manager.credit(A, x.asset) - x.ownA - x.creditA;
        }
    }

    function gainedB(Before memory x) internal view returns (uint256) {
        unchecked {
            return own(x.asset, B) + manager.credit(B, x.asset) - x.ownB - x.creditB;
        }
    }

    /*//////////////////////////////////////////////////////////////
                             TRANSITIONS
    //////////////////////////////////////////////////////////////*/

    /// A state as raw words: high bits that its types do not have may be set.
    struct RawState {
        uint256 version;
        uint256 balanceA;
        uint256 balanceB;
        bytes32 dataHash;
    }

    function anyState() internal pure returns (RawState memory) {
        return RawState({
            version: svm.createUint256("version"),
            balanceA: svm.createUint256("balanceA"),
            balanceB: svm.createUint256("balanceB"),
            dataHash: bytes32(svm.createUint256("dataHash"))
        });
    }

    /// The word, the sender and the clock are unknown; so is whether each signature is good.
    function act(Before memory x, uint256 value, bytes memory call) internal returns (bool ok) {
        vm.prank(x.caller);
        (ok,) = address(manager).call{value: value}(call);
    }

    function close(Before memory x, RawState memory s) internal returns (bool) {
        return act(x, 0, twoSignatures(IChannelManager.close.selector, x, s));
    }

    function respond(Before memory x, RawState memory s) internal returns (bool) {
        return act(x, 0, twoSignatures(IChannelManager.respond.selector, x, s));
    }

    function challenge(Before memory x, RawState memory s) internal returns (bool) {
        bytes memory head = abi.encodeWithSelector(IChannelManager.challenge.selector, A, B, x.terms, s, uint256(0x100));
        return act(x, 0, abi.encodePacked(head, uint256(65), svm.createBytes(65, "signature"), bytes31(0)));
    }

    function finalize(Before memory x) internal returns (bool) {
        return act(x, 0, abi.encodeCall(IChannelManager.finalize, (idOf(x))));
    }

    function cancel(Before memory x) internal returns (bool) {
        return act(x, 0, abi.encodeCall(IChannelManager.cancel, (idOf(x))));
    }

    function open(Before memory x) internal returns (bool) {
        uint256 deposit = svm.createUint256("deposit");
        uint256 peerDeposit = svm.createUint256("peerDeposit");
        return act(x, anyValue(), abi.encodeCall(IChannelManager.open, (idOf(x), deposit, peerDeposit)));
    }

    function join(Before memory x, uint16 named) internal returns (bool) {
        return act(x, anyValue(), abi.encodeCall(IChannelManager.join, (idOf(x), named)));
    }

    function openBoth(Before memory x) internal returns (bool) {
        uint256 depositA = svm.createUint256("depositA");
        uint256 depositB = svm.createUint256("depositB");
        uint256 until = svm.createUint256("until");
        bytes memory signature = svm.createBytes(65, "signature");
        return
            act(
                x, anyValue(), abi.encodeCall(IChannelManager.openBoth, (idOf(x), depositA, depositB, until, signature))
            );
    }

    function anyValue() private pure returns (uint256) {
        return svm.createUint(96, "value");
    }

    function idOf(Before memory x) private pure returns (IChannelManager.Id memory) {
        return IChannelManager.Id({a: A, b: B, terms: x.terms});
    }

    function twoSignatures(bytes4 selector, Before memory x, RawState memory s) private pure returns (bytes memory) {
        bytes memory head = abi.encodeWithSelector(selector, A, B, x.terms, s, uint256(0x120), uint256(0x1a0));
        bytes memory signatureA = abi.encodePacked(uint256(65), svm.createBytes(65, "signatureA"), bytes31(0));
        bytes memory signatureB = abi.encodePacked(uint256(65), svm.createBytes(65, "signatureB"), bytes31(0));
        return abi.encodePacked(head, signatureA, signatureB);
    }
}
