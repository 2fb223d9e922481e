"""`build/demo/report.html`: the report for a person. One self-contained file: a verdict, a timeline, a picture of who talked to whom, the money.

Pure: report in, text out. No script, no font, no network.
"""

import datetime
import html
from typing import Any

STEPS = (
    "Requested",
    "Scheduled",
    "ChannelsOpen",
    "NetworkIsolated",
    "SandboxReady",
    "KeyPublished",
    "DataDelivered",
    "InputsVerified",
    "Computed",
    "ResultDelivered",
    "FinalStateSigned",
    "SandboxDestroyed",
    "KeyRevoked",
    "Settled",
)
COLOURS = {"requester": "#7c5cff", "server": "#0ea5a4", "hospital": "#e0567a", "relay": "#8a93a6", "chain": "#d99a26"}

STYLE = """
:root{color-scheme:light dark;--ink:#1b2130;--soft:#667085;--line:#e3e6ee;--card:#fff;--page:#f5f6fa;--good:#0f9d6b;--bad:#d43c4a}
@media(prefers-color-scheme:dark){:root{--ink:#e8eaf2;--soft:#97a0b5;--line:#2b3142;--card:#171b26;--page:#0f121a}}
*{box-sizing:border-box}body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:1080px;margin:0 auto;padding:32px 20px 64px}h1{font-size:26px;margin:0 0 4px}h2{font-size:17px;margin:0 0 12px}
p{margin:0 0 12px}.soft{color:var(--soft)}section{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:20px;margin-top:18px}
table{border-collapse:collapse;width:100%;font-size:13px}th{text-align:left;color:var(--soft);font-weight:500}td,th{padding:5px 10px 5px 0;border-bottom:1px solid var(--line);vertical-align:top}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}code{font:12px ui-monospace,monospace}.good{color:var(--good)}.bad{color:var(--bad)}
.big{display:flex;gap:28px;flex-wrap:wrap}.big div{min-width:120px}.big b{display:block;font-size:24px;font-weight:600}svg{width:100%;height:auto;display:block}svg text{fill:var(--ink);font:12px system-ui,sans-serif}svg .s{fill:var(--soft)}
.scroll{overflow-x:auto}
"""


def render(report: dict[str, Any]) -> str:
    """Render the report as one HTML page."""
    sections = [
        _summary(report),
        _timeline(report),
        _picture(report),
        _sandboxes(report),
        _channels(report),
        _money(report),
        _transactions(report),
        _versions(report),
    ]
    return f"""<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Veilpod: two hospitals, one model</title><style>{STYLE}</style><main>
<h1>Two hospitals, one model, nobody sees anything</h1>
<p class="soft">One ComputeTask between ten strangers on a real cluster and a real chain. Every number below was read from the chain, the API server or the kubelet's own reports.</p>
{"".join(sections)}</main></html>
"""


def _summary(report: dict[str, Any]) -> str:
    accuracy = report["accuracy"]
    holds = report["balances"]["equation"]["holds"]
    cells = [
        (_percent(accuracy["alone"]["north"]), "hospital north alone"),
        (_percent(accuracy["alone"]["south"]), "hospital south alone"),
        (_percent(accuracy["pooled"]), "both pooled (nobody may do this)"),
        (_percent(accuracy["federated"]), "federated in sandboxes"),
        (f"{len(report['sandboxes'])}", "sandboxes, all destroyed" if _all_destroyed(report) else "sandboxes, NOT all destroyed"),
        ("adds up" if holds else "DOES NOT ADD UP", "every coin, before and after"),
    ]
    figures = "".join(f"<div><b>{html.escape(value)}</b><span class=soft>{html.escape(text)}</span></div>" for value, text in cells)
    return f"<section><h2>What came of it</h2><div class=big>{figures}</div><p style='margin-top:14px'>On {accuracy['heldOutCases']} held-out cases: {html.escape(accuracy['verdict'])}.</p></section>"


def _timeline(report: dict[str, Any]) -> str:
    rows = {name: conditions for name, conditions in report["conditions"].items() if "/computetask/" in name or "/taskassignment/" in name}
    times = {
        (name, c["type"]): _time(c["lastTransitionTime"])
        for name, conditions in rows.items()
        for c in conditions
        if c["status"] == "True" and c["type"] in STEPS and c["lastTransitionTime"]
    }
    if not times:
        return ""
    start, end = min(times.values()), max(times.values())
    width, left, top, row = 1000, 190, 26, 22
    span = max((end - start).total_seconds(), 1)

    def x(moment: datetime.datetime) -> float:
        return left + (width - left - 30) * (moment - start).total_seconds() / span

    parts = []
    for number in range(6):
        at = left + (width - left - 30) * number / 5
        parts.append(
            f"<line x1={at:.0f} y1={top - 8} x2={at:.0f} y2={top + row * len(STEPS)} stroke='var(--line)'/><text class=s x={at:.0f} y=12 text-anchor=middle>{span * number / 5:.0f} s</text>"
        )
    for line, step in enumerate(STEPS):
        y = top + line * row + 12
        parts.append(f"<text x=0 y={y + 4}>{step}</text>")
        for name in rows:
            moment = times.get((name, step))
            if moment is not None:
                task = "/computetask/" in name
                colour = COLOURS["requester" if task else "server"]
                title = f"{html.escape(name)}: {step} after {(moment - start).total_seconds():.0f} s"
                parts.append(
                    f"<circle cx={x(moment):.1f} cy={y} r={6 if task else 4} fill='{colour}' fill-opacity={0.95 if task else 0.7}><title>{title}</title></circle>"
                )
    height = top + row * len(STEPS) + 8
    legend = "The requester's view is violet, each server's own view is green. Times are the conditions' own (whole seconds)."
    return f"<section><h2>Timeline</h2><svg viewBox='0 0 {width} {height}' role=img aria-label='timeline of conditions'>{''.join(parts)}</svg><p class=soft>{legend}</p></section>"


def _picture(report: dict[str, Any]) -> str:
    """Everybody talks to relays; nobody talks to anybody."""
    servers = sorted({sandbox["server"] for sandbox in report["sandboxes"]})
    place: dict[str, tuple[float, float]] = {"institute": (500, 350), "hospital-north": (90, 90), "hospital-south": (90, 250)}
    place |= {"relay-one": (390, 60), "relay-two": (610, 60), "relay-three": (390, 220), "relay-four": (610, 220)}
    place |= {name: (910, 60 + index * 110) for index, name in enumerate(servers)}
    parts = []
    weights: dict[tuple[str, str], int] = {}
    for circuit in report["circuits"]:
        # An exit's last relay dials the mailbox; a meeting's and a rendezvous' splices.
        hops = [str(hop) for hop in circuit["relays"]] + (["institute"] if circuit["purpose"] == "exit" else [])
        total = int(circuit.get("sent", 0)) + int(circuit.get("received", 0))
        for one, other in zip([circuit["party"], *hops], hops, strict=False):
            weights[(one, other)] = weights.get((one, other), 0) + total
    for (one, other), total in sorted(weights.items()):
        if one in place and other in place:
            (x1, y1), (x2, y2) = place[one], place[other]
            thick = min(7.0, 1 + (total / 200_000) ** 0.5)
            parts.append(
                f"<line x1={x1} y1={y1:.0f} x2={x2} y2={y2:.0f} stroke='{COLOURS['relay']}' stroke-opacity=.45 stroke-width={thick:.1f}><title>{html.escape(one)} to {html.escape(other)}: {total:,} bytes</title></line>"
            )
    for name, (x, y) in place.items():
        kind = "requester" if name == "institute" else name.split("-")[0]
        parts.append(
            f"<circle cx={x} cy={y:.0f} r=13 fill='{COLOURS[kind]}'/><text x={x} y={y + 30:.0f} text-anchor=middle>{html.escape(name)}</text>"
        )
    total = sum(int(c.get("sent", 0)) + int(c.get("received", 0)) for c in report["circuits"])
    note = f"{len(report['circuits'])} circuits carried {total:,} bytes. Stores and sandboxes have lines to relays only; the mailbox is a public service, and what it sees is a relay."
    return f"<section><h2>Who talked to whom</h2><svg viewBox='0 0 1000 410' role=img aria-label='parties and relays'>{''.join(parts)}</svg><p class=soft>{note} Only the demo's images can tell this: production images do not carry the module that traces circuits.</p></section>"


def _sandboxes(report: dict[str, Any]) -> str:
    rows = [
        [
            s["server"],
            s["role"],
            f"<code>{html.escape(str(s['podUID'])[:8])}…</code>",
            _clock(s["created"]),
            _clock(s["key"]),
            _clock(s["evidence"].get("containersTerminated")),
            _clock(s["evidence"].get("nodeConfirmed")),
            _clock(s["evidence"].get("gone")),
            _clock(s["destroyed"]),
        ]
        for s in report["sandboxes"]
    ]
    head = ["server", "role", "pod UID", "created", "key published", "containers dead", "node confirmed", "object gone", "recorded"]
    return _section(
        "Sandboxes",
        head,
        rows,
        "Destroyed means: the kubelet reported every container dead, then removed the memory volumes, then sent its final delete; then the object of that UID was gone.",
    )


def _channels(report: dict[str, Any]) -> str:
    rows = [
        [
            f"{c['a']} and {c['b']}",
            _coins(c["opening"]["depositA"]) + " + " + _coins(c["opening"]["depositB"]),
            str(c["updates"]),
            str(c["finalSequence"]),
            f"<code>{html.escape(c['transcriptHead'][0][:14])}…</code> {'<span class=good>equal on both sides</span>' if len(c['transcriptHead']) == 1 else '<span class=bad>differs</span>'}"
            if c["transcriptHead"]
            else "",
            f"{_coins(c['payout']['a'])} + {_coins(c['payout']['b'])}" if c["payout"] else "<span class=bad>open</span>",
        ]
        for c in report["channels"]
    ]
    return _section(
        "State channels", ["between", "deposits", "co-signed updates", "final sequence", "transcript head", "paid out"], rows, ""
    )


def _money(report: dict[str, Any]) -> str:
    balances = report["balances"]
    rows = [
        [name, _coins(balances["before"][name]), _coins(balances["after"][name]), _coins(change)]
        for name, change in balances["change"].items()
        if name in balances["before"]
    ]
    equation = balances["equation"]
    holds = "<span class=good>holds</span>" if equation["holds"] else "<span class=bad>does not hold</span>"
    note = f"<code>{html.escape(equation['text'])}</code>: {_coins(equation['before'])} = {_coins(equation['after'])} + {_coins(equation['fees'])} — {holds}"
    return _section("Balances", ["account", "before", "after", "change"], rows, note, numbers=3)


def _transactions(report: dict[str, Any]) -> str:
    rows = [
        [
            str(t["block"]),
            html.escape(t["sender"]),
            html.escape(t["to"]),
            html.escape(t["function"]),
            f"{t['gas']:,}",
            "ok" if t["ok"] else "<span class=bad>reverted</span>",
            f"<code>{t['hash'][:12]}…</code>",
        ]
        for t in report["transactions"]
    ]
    return _section(
        "Transactions",
        ["block", "sender", "contract", "function", "gas", "", "hash"],
        rows,
        f"{len(rows)} transactions, {sum(t['gas'] for t in report['transactions']):,} gas.",
    )


def _versions(report: dict[str, Any]) -> str:
    rows = [
        [html.escape(name), f"<code>{html.escape(str(value))}</code>"]
        for name, value in [*report["versions"].items(), *report["images"].items()]
    ]
    return _section("Images and versions", ["", ""], rows, "")


def _section(title: str, head: list[str], rows: list[list[str]], note: str, *, numbers: int = 0) -> str:
    """A table whose last `numbers` columns are numbers. Cells are HTML already."""
    first = len(head) - numbers
    header = "".join(f"<th{' class=n' if i >= first and numbers else ''}>{text}</th>" for i, text in enumerate(head))
    body = "".join(
        "<tr>" + "".join(f"<td{' class=n' if i >= first and numbers else ''}>{cell}</td>" for i, cell in enumerate(row)) + "</tr>"
        for row in rows
    )
    return f"<section><h2>{title}</h2><div class=scroll><table><tr>{header}</tr>{body}</table></div>{f'<p class=soft style=margin-top:12px>{note}</p>' if note else ''}</section>"


def _all_destroyed(report: dict[str, Any]) -> bool:
    return all(sandbox["destroyed"] for sandbox in report["sandboxes"])


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _coins(wei: str | int) -> str:
    return f"{int(wei) / 10**18:,.6f}".rstrip("0").rstrip(".") or "0"


def _time(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))


def _clock(text: str | None) -> str:
    return _time(text).strftime("%H:%M:%S") if text else "<span class=bad>not seen</span>"
