"""`python -m veilpod.relay`: run one relay until SIGTERM."""

import argparse
import asyncio
import base64
import logging
import pathlib
import sys
from collections.abc import Sequence

from veilpod.core.onion.relay_identity import EXIT_CODES
from veilpod.errors import InvalidInput
from veilpod.net import logs
from veilpod.net.control import ControlServer
from veilpod.net.process import keep_memory_private, listen, until_told
from veilpod.relay import metrics
from veilpod.relay.commands import Commands
from veilpod.relay.keys import RelayKeys, kept_identity
from veilpod.relay.limits import Limits
from veilpod.relay.router import Relay

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the arguments and serve. An identity that was promised and cannot be used ends the relay: it never takes another."""
    options = _parser().parse_args(arguments)
    logs.configure(options.log_level)
    keep_memory_private()
    try:
        keys = RelayKeys(kept_identity(options.identity_file) if options.identity_file else None)
    except InvalidInput as error:
        log.error("relay.identity_refused", extra={"reason": error.reason})
        return EXIT_CODES[error.reason]
    asyncio.run(until_told(_run(options, keys)))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="veilpod.relay", description="Relay cells of circuits that are none of our business.")
    parser.add_argument("--listen", type=listen, default=listen("0.0.0.0:9001"), help="links from clients and other relays")
    parser.add_argument("--control", type=listen, default=listen("0.0.0.0:7443"), help="the operator's control stream")
    parser.add_argument("--metrics", type=listen, default=None, help="Prometheus metrics and probes, e.g. 0.0.0.0:9090")
    parser.add_argument(
        "--bandwidth", type=int, default=0, help="bytes a second that are carried at most, 0 for no bound; the operator may change it"
    )
    parser.add_argument("--drain-seconds", type=float, default=0, help="how long circuits may go on after SIGTERM; a second one ends them")
    parser.add_argument("--identity-file", type=pathlib.Path, help="the Ed25519 identity key in PEM; without it, one is made in memory")
    parser.add_argument("--operator-cert", type=base64.b64decode, required=True, help="the operator's control certificate, DER in base64")
    parser.add_argument("--log-level", default="INFO")
    return parser


async def _run(options: argparse.Namespace, keys: RelayKeys) -> None:
    relay = Relay(keys, limits=Limits(bandwidth=options.bandwidth))
    control = ControlServer(options.operator_cert, Commands(relay).handlers())
    try:
        async with asyncio.TaskGroup() as group:
            await relay.listen(options.listen.host, options.listen.port)
            group.create_task(control.serve(options.control.host, options.control.port))
            if options.metrics is not None:
                group.create_task(metrics.serve(options.metrics.host, options.metrics.port, relay))
    except asyncio.CancelledError:
        await relay.drain(options.drain_seconds)
        raise
    finally:
        await relay.close()


if __name__ == "__main__":
    sys.exit(main())
