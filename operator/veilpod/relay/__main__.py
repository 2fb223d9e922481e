"""`python -m veilpod.relay`: run one relay until SIGTERM."""

import argparse
import asyncio
import base64
import contextlib
import ctypes
import resource
import signal
import sys
from collections.abc import Sequence

from veilpod.net import logs
from veilpod.net.control import ControlServer
from veilpod.relay import metrics
from veilpod.relay.commands import Commands
from veilpod.relay.limits import Limits
from veilpod.relay.router import Relay

_PR_SET_DUMPABLE = 4


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the arguments and serve."""
    options = _parser().parse_args(arguments)
    logs.configure(options.log_level)
    _keep_memory_private()
    asyncio.run(_serve(options))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="veilpod.relay", description="Relay cells of circuits that are none of our business.")
    parser.add_argument("--listen", type=address, default=address("0.0.0.0:9001"), help="links from clients and other relays")
    parser.add_argument("--control", type=address, default=address("0.0.0.0:7443"), help="the operator's control stream")
    parser.add_argument("--metrics", type=address, default=None, help="Prometheus metrics and probes, e.g. 0.0.0.0:9090")
    parser.add_argument("--bandwidth", type=int, default=0, help="bytes a second that are carried at most, 0 for no bound")
    parser.add_argument("--operator-cert", type=base64.b64decode, required=True, help="the operator's control certificate, DER in base64")
    parser.add_argument("--log-level", default="INFO")
    return parser


def address(text: str) -> tuple[str, int]:
    """Read "host:port", "[v6]:port" or ":port" (every interface)."""
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"not host:port: {text!r}")
    return host.strip("[]") or "0.0.0.0", int(port)  # noqa: S104 - what the operator asked for


async def _serve(options: argparse.Namespace) -> None:
    relay = Relay(limits=Limits(bandwidth=options.bandwidth))
    control = ControlServer(options.operator_cert, Commands(relay).handlers())
    serving = asyncio.create_task(_run(relay, control, options))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, serving.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await serving


async def _run(relay: Relay, control: ControlServer, options: argparse.Namespace) -> None:
    try:
        async with asyncio.TaskGroup() as group:
            await relay.listen(*options.listen)
            group.create_task(control.serve(*options.control))
            if options.metrics is not None:
                host, port = options.metrics
                group.create_task(metrics.serve(host, port, relay))
    finally:
        await relay.close()


def _keep_memory_private() -> None:
    # The relay's keys are in this memory: no core file, no debugger of the same user.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main())
