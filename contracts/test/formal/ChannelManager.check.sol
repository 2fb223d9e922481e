// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {IChannelManager} from "../../src/interfaces/IChannelManager.sol";
import {Formal, both, either} from "./Formal.sol";

/// What halmos proves of one call in any state (`check_*`), for a channel in one asset. Together with "a word that is sane stays
/// so" each is an invariant: it holds after any number of calls.
/// A `witness_*` claims that the call never succeeds. It must be refuted, or the check beside it would say nothing.
abstract contract ChannelManagerCheck is Formal {
    function asset() internal view virtual returns (address);

    /*//////////////////////////////////////////////////////////////
                                 CLOSE
    //////////////////////////////////////////////////////////////*/

    function check_close_conserves() external {
        Before memory x = anything(asset());
        RawState memory s = anyState();
        if (!close(x, s)) return;

        assert(both(gainedA(x) == s.balanceA, gainedB(x) == s.balanceB));
        assert(both(s.balanceA <= total(x.word), s.balanceB == total(x.word) - s.balanceA));
        assert(conserved(x, total(x.word), 0));
    }

    function check_close_takes_no_state_of_another_epoch_and_none_that_is_outdated() external {
        Before memory x = anything(asset());
        RawState memory s = anyState();
        if (!close(x, s)) return;

        assert(either(phase(x.word) == OPEN, phase(x.word) == DISPUTED));
        assert(both(s.version >> 40 == epoch(x.word), s.version & 0xffffffffff >= sequence(x.word)));
        assert(isTombstone(x));
    }

    function isTombstone(Before memory x) private view returns (bool) {
        uint256 w = word(x);
        return both(both(phase(w) == CLOSED, epoch(w) == epoch(x.word)), both(sequence(w) >= sequence(x.word), sane(w)));
    }

    function witness_close() external {
        assert(!close(anything(asset()), anyState()));
    }

    /*//////////////////////////////////////////////////////////////
                          CHALLENGE AND RESPOND
    //////////////////////////////////////////////////////////////*/

    function check_challenge_takes_no_state_of_another_epoch() external {
        Before memory x = anything(asset());
        RawState memory s = anyState();
        if (!challenge(x, s)) return;

        uint256 w = word(x);
        assert(both(phase(x.word) == OPEN, either(x.caller == A, x.caller == B)));
        assert(s.version >> 40 == epoch(x.word));
        assert(either(sequence(w) != 0, balanceA(w) == balanceA(x.word)));
        assert(both(both(phase(w) == DISPUTED, w & PENALTY == 0), byB(w) == (x.caller == B)));
        assert(deadline(w) == x.time + uint32(x.terms >> 16));
        assert(both(records(w, x, s), conserved(x, total(x.word), total(w))));
    }

    function witness_challenge() external {
        assert(!challenge(anything(asset()), anyState()));
    }

    function check_respond_is_monotone() external {
        Before memory x = anything(asset());
        RawState memory s = anyState();
        if (!respond(x, s)) return;

        uint256 w = word(x);
        assert(both(phase(x.word) == DISPUTED, x.time <= deadline(x.word)));
        assert(both(s.version >> 40 == epoch(x.word), sequence(w) > sequence(x.word)));
        assert(both(both(phase(w) == DISPUTED, deadline(w) == deadline(x.word)), byB(w) == byB(x.word)));
        bool fined = either(x.word & PENALTY != 0, sequence(w) >= sequence(x.word) + 2);
        assert((w & PENALTY != 0) == fined);
        assert(both(records(w, x, s), conserved(x, total(x.word), total(w))));
    }

    /// The state, and not a bit of it lost, is what the channel is now worth.
    function records(uint256 w, Before memory x, RawState memory s) private pure returns (bool) {
        bool balances = both(balanceA(w) == s.balanceA, balanceB(w) == s.balanceB);
        bool version = (epoch(w) << 40) | sequence(w) == s.version;
        return both(both(balances, version), both(total(w) == total(x.word), sane(w)));
    }

    function witness_respond() external {
        assert(!respond(anything(asset()), anyState()));
    }

    /*//////////////////////////////////////////////////////////////
                                FINALIZE
    //////////////////////////////////////////////////////////////*/

    function check_finalize_is_never_early() external {
        Before memory x = anything(asset());
        if (!finalize(x)) return;

        assert(both(phase(x.word) == DISPUTED, x.time > deadline(x.word)));
        assert(isTombstone(x));
    }

    function check_finalize_conserves() external {
        Before memory x = anything(asset());
        if (!finalize(x)) return;

        // How big the fine is takes a division of unknowns, which no solver likes: the model in tests/chain computes it.
        bool fined = x.word & PENALTY != 0;
        if (byB(x.word)) fineIsFair(fined, balanceB(x.word), gainedB(x), balanceA(x.word), gainedA(x));
        else fineIsFair(fined, balanceA(x.word), gainedA(x), balanceB(x.word), gainedB(x));
        assert(conserved(x, total(x.word), 0));
    }

    function fineIsFair(bool fined, uint256 challengers, uint256 challengerGot, uint256 peers, uint256 peerGot)
        private
        pure
    {
        assert(both(challengerGot <= challengers, either(fined, challengerGot == challengers)));
        assert(peerGot - peers == challengers - challengerGot);
    }

    function witness_finalize() external {
        assert(!finalize(anything(asset())));
    }

    /*//////////////////////////////////////////////////////////////
                          OPENING AND CANCELLING
    //////////////////////////////////////////////////////////////*/

    function check_open_starts_the_next_epoch_and_conserves() external {
        Before memory x = anything(asset());
        if (!open(x)) return;

        isNextEpoch(x, OPENING);
        assert(both(byB(word(x)) == (x.caller == B), x.caller != STRANGER));
        assert(conserved(x, 0, x.caller == B ? balanceB(word(x)) : balanceA(word(x))));
    }

    function witness_open() external {
        assert(!open(anything(asset())));
    }

    function check_openBoth_starts_the_next_epoch_and_conserves() external {
        Before memory x = anything(asset());
        if (!openBoth(x)) return;

        isNextEpoch(x, OPEN);
        assert(x.caller != STRANGER);
        assert(conserved(x, 0, total(word(x))));
    }

    function witness_openBoth() external {
        assert(!openBoth(anything(asset())));
    }

    function isNextEpoch(Before memory x, uint256 phase_) private view {
        uint256 w = word(x);
        assert(either(phase(x.word) == NONE, phase(x.word) == CLOSED));
        assert(both(both(epoch(w) == epoch(x.word) + 1, sequence(w) == 0), both(phase(w) == phase_, sane(w))));
    }

    function check_join_joins_the_epoch_it_names_and_conserves() external {
        Before memory x = anything(asset());
        uint16 named = uint16(svm.createUint(16, "named"));
        if (!join(x, named)) return;

        uint256 w = word(x);
        assert(both(both(phase(x.word) == OPENING, phase(w) == OPEN), both(named == epoch(x.word), epoch(w) == named)));
        assert(x.caller == (byB(x.word) ? A : B));
        assert(both(balanceA(w) == balanceA(x.word), balanceB(w) == balanceB(x.word)));
        assert(both(sequence(w) == sequence(x.word), sane(w)));
        assert(conserved(x, byB(x.word) ? balanceB(w) : balanceA(w), total(w)));
    }

    function witness_join() external {
        assert(!join(anything(asset()), uint16(svm.createUint(16, "named"))));
    }

    function check_cancel_gives_back_and_keeps_the_epoch() external {
        Before memory x = anything(asset());
        if (!cancel(x)) return;

        assert(both(phase(x.word) == OPENING, isTombstone(x)));
        assert(x.caller == (byB(x.word) ? B : A));
        uint256 deposit = x.caller == A ? balanceA(x.word) : balanceB(x.word);
        assert((x.caller == A ? gainedA(x) : gainedB(x)) == deposit);
        assert(conserved(x, deposit, 0));
    }

    function witness_cancel() external {
        assert(!cancel(anything(asset())));
    }

    /*//////////////////////////////////////////////////////////////
                                 CREDIT
    //////////////////////////////////////////////////////////////*/

    function check_withdrawCredit_conserves_and_leaves_channels_alone() external {
        Before memory x = anything(asset());
        if (!act(x, 0, abi.encodeCall(IChannelManager.withdrawCredit, (x.asset)))) return;

        assert(both(word(x) == x.word, both(gainedA(x) == 0, gainedB(x) == 0)));
        assert(conserved(x, 0, 0));
    }

    function witness_withdrawCredit() external {
        Before memory x = anything(asset());
        assert(!act(x, 0, abi.encodeCall(IChannelManager.withdrawCredit, (x.asset))));
    }
}

contract EtherCheck is ChannelManagerCheck {
    function asset() internal pure override returns (address) {
        return address(0);
    }

    function check_depositCredit_conserves_and_leaves_channels_alone() external {
        Before memory x = anything(asset());
        if (!act(x, svm.createUint(96, "value"), abi.encodeCall(IChannelManager.depositCredit, ()))) return;

        assert(both(word(x) == x.word, both(gainedA(x) == 0, gainedB(x) == 0)));
        assert(conserved(x, 0, 0));
    }

    function witness_depositCredit() external {
        Before memory x = anything(asset());
        assert(!act(x, svm.createUint(96, "value"), abi.encodeCall(IChannelManager.depositCredit, ())));
    }
}

contract TokenCheck is ChannelManagerCheck {
    function asset() internal view override returns (address) {
        return address(token);
    }
}
