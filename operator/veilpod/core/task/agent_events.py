"""What an agent's events add to what is known of its sandbox: a pure fold. Events come at least once and in order (paper steps 4 to 8)."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from veilpod.core.agent_messages import parse_exit, parse_failed, parse_flushed, parse_offers, parse_relays, parse_sealed_result
from veilpod.core.fields import Fields
from veilpod.core.task.facts import AgentSeen, Meeting, SignedResult


def fold(agent: AgentSeen, event: str, data: Mapping[str, Any]) -> AgentSeen:
    """Add one event. Events that are no news for the assignment (receipts, channel messages) change nothing. Raises ProtocolViolation."""
    match event:
        case "netguard":
            return dataclasses.replace(agent, isolated=True)
        case "relays":
            return dataclasses.replace(agent, trouble=parse_relays(data))
        case "ready":
            return dataclasses.replace(agent, isolated=True, ready=True)
        case "offers":
            offers = parse_offers(data)
            meeting = Meeting(key=offers.key, statements=offers.statements, signers=offers.signers)
            return dataclasses.replace(agent, meeting=agent.meeting or meeting)
        case "accepted":
            return dataclasses.replace(agent, accepted=True)
        case "inputs":
            return _inputs(agent, data)
        case "started":
            return dataclasses.replace(agent, started=True)
        case "exited":
            ended = parse_exit(data)
            return dataclasses.replace(agent, exited=0 if ended.success else ended.code or 1)
        case "result":
            info = parse_sealed_result(data)
            result = SignedResult(result_hash=info.result_hash, size=info.size, signature=info.signature)
            return dataclasses.replace(agent, result=agent.result or result)
        case "delivered":
            return dataclasses.replace(agent, delivered=True)
        case "flushed":
            traffic = tuple((int(peer), sent, received) for peer, sent, received in parse_flushed(data).links)
            return dataclasses.replace(agent, flushed=True, traffic=traffic)
        case "failed":
            failed = parse_failed(data)
            if not failed.fatal or agent.failed:
                return agent
            return dataclasses.replace(agent, failed=failed.code, blamed=failed.peer)
    return agent


def _inputs(agent: AgentSeen, data: Mapping[str, Any]) -> AgentSeen:
    fields = Fields(data, what="inputs", party="agent")
    received, verified, total = fields.integer("received"), fields.integer("verified"), fields.integer("total")
    fields.done()
    return dataclasses.replace(
        agent, received=agent.received or received >= total, verified=agent.verified or (verified >= total and received >= total)
    )
