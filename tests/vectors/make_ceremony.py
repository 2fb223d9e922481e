"""Golden vectors of the key ceremony: `python -m tests.vectors.make_ceremony` writes ceremony.json again.

Two members with secrets of counters. Shares are sealed with randomness: those of the file are kept, and opened by the test. A change here
is a change of the protocol.
"""

import json
import pathlib
from typing import Any

from tests.support import ceremonies
from veilpod.core.canonical import to_hex
from veilpod.core.ceremony import derive
from veilpod.core.ceremony.member import Progress, hear, speak
from veilpod.core.ceremony.words import Commitment, Stage, parse_received

PATH = pathlib.Path(__file__).with_name("ceremony.json")
COUNT = 2


def vectors() -> dict[str, Any]:
    """Everything that follows from the secrets alone."""
    ceremony, signing = ceremonies.ceremony(COUNT), ceremonies.keys(COUNT)
    members = ceremonies.members(ceremony, signing)
    words = [speak(one, Progress()).word for one in members]
    commitments = derive.set_digest(ceremony, [word for word in words if isinstance(word, Commitment)])
    group = derive.group_key(commitments, [one.contribution for one in members])
    return {
        "taskId": to_hex(ceremony.task),
        "statementsHash": to_hex(ceremony.statements),
        "signingKeys": [to_hex(key.secret) for key in signing],
        "contributions": [to_hex(one.contribution) for one in members],
        "ceremonyKeys": [to_hex(one.key.to_bytes()) for one in members],
        "commitments": [word.document() for word in words],
        "commitmentsDigest": to_hex(commitments),
        "groupKey": to_hex(group.secret),
        "groupAddress": group.address,
    }


def sealed() -> dict[str, Any]:
    """What is different each time: reveals with their shares, and the confirmations after them."""
    members = ceremonies.members(ceremonies.ceremony(COUNT), ceremonies.keys(COUNT))
    posts, _ = ceremonies.play(members)
    return {"reveals": [post.document() for post in posts[1]], "confirmations": [post.document() for post in posts[2]]}


def replayed(document: dict[str, Any]) -> str:
    """The address of the key that server 1 gets from a file's words."""
    own = ceremonies.members(ceremonies.ceremony(COUNT), ceremonies.keys(COUNT))[1]
    everybody = ceremonies.members(ceremonies.ceremony(COUNT), ceremonies.keys(COUNT))
    bodies = [to_hex(one.key.public_bytes) for one in everybody]
    progress = Progress()
    for stage in Stage:
        if stage is Stage.COMMIT:
            shown = [{"word": word, "body": body} for word, body in zip(document["commitments"], bodies, strict=True)]
        else:
            posts = document["reveals" if stage is Stage.REVEAL else "confirmations"]
            shown = [{"word": post["word"], "body": post["bodies"][1] if post["bodies"] else "0x"} for post in posts]
        outcome = hear(own, progress, [parse_received(item, own.index) for item in shown])
        assert isinstance(outcome, Progress)
        progress = outcome
    assert progress.group
    return progress.group.address


if __name__ == "__main__":
    PATH.write_text(json.dumps(vectors() | sealed(), indent=1) + "\n")
