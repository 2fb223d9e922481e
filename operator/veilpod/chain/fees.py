"""What to pay for gas (EIP-1559): a first bid, and a higher one when blocks pass without us. Pure numbers, wei per gas."""

import dataclasses

_BUMP_NUMERATOR, _BUMP_DENOMINATOR = 9, 8  # nodes take a replacement from 10 % on; an eighth leaves room for rounding


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Fees:
    """A bid."""

    max_fee: int
    priority_fee: int


def capped(bid: Fees, ceiling: int | None) -> Fees:
    """Keep a bid at or below what its sender is willing to pay per gas; None for no bound."""
    if ceiling is None or bid.max_fee <= ceiling:
        return bid
    return Fees(max_fee=ceiling, priority_fee=min(bid.priority_fee, ceiling))


def suggest(*, base_fee: int, tip: int) -> Fees:
    """Bid so that the base fee may double (six full blocks) before the bid is too low."""
    return Fees(max_fee=2 * base_fee + tip, priority_fee=tip)


def raised(old: Fees, now: Fees) -> Fees | None:
    """Raise a bid that was passed over; None when it is twice the going price already: then the fee is not the reason."""
    if old.max_fee >= 2 * now.max_fee and old.priority_fee >= 2 * now.priority_fee:
        return None
    priority_fee = max(_bumped(old.priority_fee), now.priority_fee)
    return Fees(max_fee=max(_bumped(old.max_fee), now.max_fee, priority_fee), priority_fee=priority_fee)


def _bumped(fee: int) -> int:
    return -(-fee * _BUMP_NUMERATOR // _BUMP_DENOMINATOR) + 1
