"""What a watchtower guards, as its owner sees it: over a port-forward to its pod, or at a URL that leads to its admin port."""

import contextlib
import datetime
from collections.abc import AsyncIterator, Sequence
from typing import Any

from veilpod.client.kubectl import Kubectl
from veilpod.client.releases import tower_pod
from veilpod.client.status import table
from veilpod.errors import InvalidInput, PeerUnavailable

ADMIN_PORT = 9202
_SECONDS = 20.0


async def overview(kubectl: Kubectl, *, url: str | None, release: str | None) -> dict[str, Any]:
    """Ask a tower. Raises PeerUnavailable, or InvalidInput when something else answers."""
    import aiohttp  # a tenth of a second, which other commands need not wait

    async with _reachable(kubectl, url=url, release=release) as base:
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_SECONDS)) as session,
                session.get(base.rstrip("/") + "/v1/guards") as answer,
            ):
                if answer.status != 200:
                    raise InvalidInput(
                        "NoWatchtower", f"{base} is no watchtower's admin port (it says {answer.status}); it listens on {ADMIN_PORT}"
                    )
                found = await answer.json(content_type=None)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise PeerUnavailable(f"the watchtower does not answer: {type(error).__name__}") from error
        except ValueError as error:
            raise InvalidInput("NoWatchtower", f"{base} is no watchtower's admin port: its answer is no JSON") from error
    if not isinstance(found, dict) or not isinstance(found.get("guards"), list):
        raise InvalidInput("NoWatchtower", f"{base} is no watchtower's admin port")
    return found


def lines(found: dict[str, Any]) -> Sequence[str]:
    """Say it to people."""
    guards, now = found["guards"], found.get("now")
    shown = [f"watchtower {found['address']} guards {len(guards)} channel{'' if len(guards) == 1 else 's'}"]
    if found.get("problem"):
        shown.append(f"not watching: {found['problem']}")
    if spending := found.get("spending"):
        shown.append(
            f"spent {spending['spent']} of {spending['cap']} wei; {spending['answers_affordable']} more answers at the highest fee"
        )
    if not guards:
        return shown
    heading = ["CHANNEL", "EPOCH", "SEQUENCE", "UNTIL", "DISPUTE", "LAST ANSWER"]
    disputes_first = sorted(guards, key=lambda guard: (guard["disputedUntil"] is None, guard["channelId"]))
    return [*shown, "", *table([heading, *(_row(guard, now) for guard in disputes_first)])]


def _row(guard: dict[str, Any], now: int | None) -> list[str]:
    until, dispute, answer = _date(guard["until"]), _left(guard["disputedUntil"], now), _answer(guard["lastAnswer"])
    return [guard["channelId"], str(guard["epoch"]), str(guard["sequence"]), until, dispute, answer]


@contextlib.asynccontextmanager
async def _reachable(kubectl: Kubectl, *, url: str | None, release: str | None) -> AsyncIterator[str]:
    if url is not None:
        yield url
        return
    async with kubectl.forward(await tower_pod(kubectl, release=release), ADMIN_PORT) as port:
        yield f"http://127.0.0.1:{port}"


def _date(seconds: int) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d %H:%MZ")


def _left(deadline: int | None, now: int | None) -> str:
    if deadline is None:
        return "-"
    return "running" if now is None else f"{max(0, deadline - now)}s left"


def _answer(answer: dict[str, Any] | None) -> str:
    if answer is None:
        return "-"
    return f"block {answer['block']}{'' if answer['succeeded'] else ' (overtaken)'} {answer['transaction'][:12]}…"
