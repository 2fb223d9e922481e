"""Numbers for Prometheus, in its text format. No label names a channel or a party."""

from collections.abc import Mapping

PREFIX = "veilpod_watchtower_"
GAUGES = {
    "guarded": "Channels that are guarded.",
    "damaged": "Guards on disk that cannot be read: channels that are not guarded any more.",
    "disputed": "Guarded channels in a dispute whose time runs.",
    "owed": "Answers that are owed on chain and not there.",
    "least_seconds_left": "Of the owed answers, the time left for the most urgent one (0 when none is owed).",
    "cap_reached": "1 while an owed answer is refused because the spending cap is reached.",
    "cap_wei": "What may be spent within a period.",
    "spent_wei": "What was spent within the last period.",
    "answers_affordable": "How many answers at the highest fee both the cap and the account pay for.",
    "balance_wei": "What the hot account holds.",
    "pending_transactions": "Transactions that are not settled.",
    "head_age_seconds": "Age of the newest block that was seen.",
}
COUNTERS = {
    "answers_total": "Answers that are on chain at depth.",
    "overtaken_total": "Answers that somebody else was faster with.",
    "missed_total": "Disputes whose time ran out with an older state than the one held here.",
    "accepted_total": "States that were taken, or taken again.",
    "refused_total": "Requests that were refused.",
}
NAMES = frozenset(PREFIX + name for name in (*GAUGES, *COUNTERS))


def render(values: Mapping[str, float]) -> bytes:
    """Spell what there is, in the order above."""
    lines = []
    for kind, names in (("gauge", GAUGES), ("counter", COUNTERS)):
        for name, text in names.items():
            if name in values:
                full = PREFIX + name
                lines.append(f"# HELP {full} {text}\n# TYPE {full} {kind}\n{full} {values[name]}\n")
    return "".join(lines).encode()
