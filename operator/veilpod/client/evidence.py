"""What convicts a server of breaking a task's key ceremony: fetched from the requester's mailbox, judged anywhere, by anybody.

A file of evidence is `{"taskId","offers":[…],"evidence":[…]}`: every sandbox's statement with its two signatures, and the documents of
docs/protocol/ceremony.md. Nothing in it rests on the word of who fetched it or of the mailbox.
"""

import dataclasses
import json
import pathlib
from typing import Any

from veilpod.client import exchange
from veilpod.client.kubectl import Kubectl
from veilpod.client.releases import UPLOAD_PORT, store_pod
from veilpod.client.results import task_of
from veilpod.core.canonical import to_hex
from veilpod.core.ceremony.evidence import judge, parse_evidence
from veilpod.core.ceremony.words import MAX_MEMBERS, Ceremony
from veilpod.core.fields import Fields
from veilpod.core.ids import Address, ServerIndex, TaskId
from veilpod.core.meeting import parse_offer
from veilpod.core.statement import countersigner, verify_statement
from veilpod.errors import InvalidInput, ProtocolViolation


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A server that broke the ceremony: how, and the account that vouched for its sandbox."""

    server: ServerIndex
    kind: str
    account: Address
    statement: bytes  # digest, 32 bytes


async def fetch(name: str, kubectl: Kubectl, release: str | None) -> dict[str, Any]:
    """The file of evidence of a ComputeTask; its list of evidence is empty when nobody is proved guilty."""
    task = to_hex(await task_of(name, kubectl))
    pod = await store_pod(kubectl, "mailbox", release=release)
    found = []
    async with kubectl.forward(pod, UPLOAD_PORT) as port:
        async with exchange.opened(port) as talk:
            offers = (await talk.ask({"get": "offers", "taskId": task})).get("offers", [])
        for server in range(len(offers)):
            async with exchange.opened(port) as talk:
                answer = await talk.ask({"get": "evidence", "taskId": task, "server": server})
            found += [answer["evidence"]] if answer.get("evidence") else []
    return {"taskId": task, "offers": offers, "evidence": found}


def save(document: dict[str, Any], path: pathlib.Path) -> None:
    """Write a file of evidence. Raises InvalidInput("Exists") instead of overwriting."""
    try:
        with path.open("x") as file:
            file.write(json.dumps(document, indent=1) + "\n")
    except FileExistsError as error:
        raise InvalidInput("Exists", f"{path} exists and is left as it is: name another file with -o") from error


def load(path: pathlib.Path) -> Any:
    """Read a file of evidence. Raises InvalidInput("CannotRead")."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InvalidInput("CannotRead", f"{path} is no file of `veilpod evidence fetch`") from error


def verdicts(document: Any) -> list[Verdict]:
    """Judge a file of evidence. Raises ProtocolViolation for what proves nothing, or is no such file."""
    fields = Fields(document, what="file of evidence", party="file")
    task = TaskId(fields.data("taskId", 32))
    offers = [parse_offer(item, party="file") for item in fields.items("offers", maximum=MAX_MEMBERS)]
    evidence = [parse_evidence(item, party="file") for item in fields.items("evidence", maximum=MAX_MEMBERS)]
    fields.done()
    for index, offer in enumerate(offers):
        if (offer.statement.task, offer.statement.index) != (task, index):
            raise ProtocolViolation("StatementRefused", "the statements are not those of one task's servers, in their order", party="file")
        verify_statement(offer.statement, offer.signature, party="file")
    ceremony = Ceremony.of(task, offers)
    found = []
    for item in evidence:
        guilty = offers[judge(ceremony, item)]
        found.append(
            Verdict(
                server=guilty.statement.index,
                kind=type(item).__name__,
                account=countersigner(guilty.statement, guilty.server_signature),
                statement=guilty.statement.digest,
            )
        )
    return found
