"""Runs inside a pod of a test cluster: three relays and a mailbox in one process, at the pod's own address."""

import asyncio
import base64
import json
import os
import pathlib
import time

from veilpod.core.ids import NodeId
from veilpod.core.keys import checksum_address
from veilpod.core.onion.directory import RelayEntry
from veilpod.net.process import Listen
from veilpod.relay.router import Relay
from veilpod.store.service import Service

PORTS = (9001, 9002, 9003)
MAILBOX_PORT = 9101
REGISTRY = checksum_address(b"\x0e" * 20)


async def main() -> None:
    host = os.environ["POD_IP"]
    entries = []
    relays = [Relay() for _ in PORTS]
    for number, (relay, port) in enumerate(zip(relays, PORTS, strict=True), start=1):
        await relay.listen("0.0.0.0", port)
        owner = checksum_address(bytes([number]) * 20)
        entries.append(
            RelayEntry(
                node_id=NodeId(number),
                owner=owner,
                identity_key=relay.keys.identity_public,
                onion_key=relay.keys.newest.public,
                key_epoch=1,
                host=host,
                port=port,
                proof=relay.keys.prove(owner=owner, key_epoch=1, registry=REGISTRY, chain_id=31337),
                updated_at=int(time.time()),
                registry=REGISTRY,
                chain_id=31337,
            )
        )
    for relay in relays:
        relay.use_directory(entries)
        relay.policy.replace([f"{host}:{MAILBOX_PORT}"])

    def no_onion(**_: object) -> object:
        raise AssertionError("a mailbox builds no circuit")

    mailbox = Service(data=pathlib.Path("/data"), quota=1 << 20, operator_cert=base64.b64decode(os.environ["CERT"]), onion=no_onion)  # type: ignore[arg-type]
    everywhere = [Listen(host="0.0.0.0", port=port) for port in (MAILBOX_PORT, 7443, 9102)]
    print(json.dumps([entry.to_json() for entry in entries]), flush=True)
    await mailbox.run(listen=everywhere[0], control=everywhere[1], upload=everywhere[2], metrics_at=None)


asyncio.run(main())
