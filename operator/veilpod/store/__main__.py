"""`python -m veilpod.store`: run one store until SIGTERM."""

import argparse
import asyncio
import base64
import contextlib
import ctypes
import functools
import pathlib
import resource
import signal
import sys
from collections.abc import Sequence

from veilpod.errors import InvalidInput
from veilpod.net import demonstration, logs
from veilpod.net.onion import OnionProxy
from veilpod.store.service import Address, Service

_PR_SET_DUMPABLE = 4


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the arguments and serve. 2 is a wrong argument."""
    options = _parser().parse_args(arguments)
    logs.configure(options.log_level)
    _keep_memory_private()
    try:
        asyncio.run(_serve(options))
    except InvalidInput as error:
        print(f"veilpod.store: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="veilpod.store", description="Hold sealed data sets and the requester's mailbox.")
    parser.add_argument(
        "--listen", type=address, default=address("0.0.0.0:9101"), help="sealed requests, reached through the onion network"
    )
    parser.add_argument("--control", type=address, default=address("0.0.0.0:7443"), help="the operator's control stream")
    parser.add_argument("--upload", type=address, default=address("127.0.0.1:9102"), help="data sets in and results out, by port-forward")
    parser.add_argument("--metrics", type=address, default=None, help="Prometheus metrics and probes, e.g. :9090")
    parser.add_argument("--data", type=pathlib.Path, required=True, help="directory of the volume")
    parser.add_argument("--quota", type=int, default=10 << 30, help="bytes of data sets that are held at most")
    parser.add_argument("--operator-cert", type=base64.b64decode, required=True, help="the operator's control certificate, DER in base64")
    parser.add_argument("--log-level", default="INFO")
    return parser


def address(text: str) -> Address:
    """Read "host:port", "[v6]:port" or ":port" (every interface, both families: what asyncio makes of an empty host)."""
    host, _, port = text.rpartition(":")
    try:
        return Address(host=host.strip("[]"), port=int(port))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not host:port: {text!r}") from error


async def _serve(options: argparse.Namespace) -> None:
    proxy = functools.partial(OnionProxy, trace=demonstration.trace(demonstration.show))
    service = Service(data=options.data, quota=options.quota, operator_cert=options.operator_cert, onion=proxy)
    serving = asyncio.create_task(
        service.run(listen=options.listen, control=options.control, upload=options.upload, metrics_at=options.metrics)
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, serving.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await serving


def _keep_memory_private() -> None:
    # The node's sealing key is in this memory: no core file, no debugger of the same user.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main())
