"""`python -m veilpod.store`: run one store until SIGTERM."""

import argparse
import asyncio
import base64
import functools
import pathlib
import sys
from collections.abc import Sequence

from veilpod.errors import InvalidInput
from veilpod.net import demonstration, logs
from veilpod.net.onion import OnionProxy
from veilpod.net.process import keep_memory_private, listen, until_told
from veilpod.store.service import Service


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the arguments and serve. 2 is a wrong argument."""
    options = _parser().parse_args(arguments)
    logs.configure(options.log_level)
    keep_memory_private()
    try:
        asyncio.run(until_told(_serve(options)))
    except InvalidInput as error:
        print(f"veilpod.store: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="veilpod.store", description="Hold sealed data sets and the requester's mailbox.")
    parser.add_argument("--listen", type=listen, default=listen("0.0.0.0:9101"), help="sealed requests, reached through the onion network")
    parser.add_argument("--control", type=listen, default=listen("0.0.0.0:7443"), help="the operator's control stream")
    parser.add_argument("--upload", type=listen, default=listen("127.0.0.1:9102"), help="data sets in and results out, by port-forward")
    parser.add_argument("--metrics", type=listen, default=None, help="Prometheus metrics and probes, e.g. :9090")
    parser.add_argument("--data", type=pathlib.Path, required=True, help="directory of the volume")
    parser.add_argument("--quota", type=int, default=10 << 30, help="bytes of data sets that are held at most")
    parser.add_argument("--operator-cert", type=base64.b64decode, required=True, help="the operator's control certificate, DER in base64")
    parser.add_argument("--log-level", default="INFO")
    return parser


async def _serve(options: argparse.Namespace) -> None:
    proxy = functools.partial(OnionProxy, trace=demonstration.trace(demonstration.show))
    service = Service(data=options.data, quota=options.quota, operator_cert=options.operator_cert, onion=proxy)
    await service.run(listen=options.listen, control=options.control, upload=options.upload, metrics_at=options.metrics)


if __name__ == "__main__":
    sys.exit(main())
