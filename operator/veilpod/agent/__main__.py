"""`python -m veilpod.agent run|seal`: the containers of a sandbox pod that are ours.

The agent looks at its fence first and imports the rest meanwhile; it listens when both are done.
"""

import argparse
import asyncio
import base64
import contextlib
import dataclasses
import logging
import os
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from veilpod.agent import hardening, netguard
from veilpod.agent.first_look import FirstLook
from veilpod.agent.settings import Settings
from veilpod.core.canary import NODE_VARIABLE
from veilpod.core.tiers import tier_on
from veilpod.errors import InvalidInput, Refused
from veilpod.net import logs
from veilpod.net.process import until_told

if TYPE_CHECKING:
    from veilpod.agent.service import Service
    from veilpod.core.agent_messages import Configuration
    from veilpod.ports import Onion

TERMINATION_LOG = pathlib.Path("/dev/termination-log")

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one container. The exit codes are each part's own; 22 is a wrong argument."""
    options = _parser().parse_args(arguments)
    logs.configure(options.log_level)
    hardening.end_on_sigterm()
    if options.part == "seal":
        from veilpod.agent import seal

        return seal.run(socket=options.socket, termination_log=TERMINATION_LOG)
    return _run(options)


def _run(options: argparse.Namespace) -> int:
    try:
        kernel = hardening.find_kernel()
        settings = dataclasses.replace(_settings(options), tier=tier_on(kernel))
        log.info("agent.hardened", extra={**hardening.harden(), "kernel": kernel.name})
        hardening.be_born(settings.marker)
        asyncio.run(until_told(_serve(settings)))
    except Refused as error:
        log.error("agent.refused", extra={"reason": error.reason})
        hardening.say_last_word(TERMINATION_LOG, error.reason)
        codes = netguard.EXIT_CODES | {"AgentRestarted": hardening.REBORN_EXIT}
        return codes.get(error.reason, codes["BadArguments"])
    except InvalidInput as error:
        print(f"veilpod.agent: {error}", file=sys.stderr)
        return netguard.EXIT_CODES["BadArguments"]
    except Exception as error:  # noqa: BLE001 - a defect ends the sandbox; a traceback could carry data into the node's log
        log.error("agent.defect", extra={"errors": sorted(_names(error))})
        hardening.say_last_word(TERMINATION_LOG, "SandboxLost")
        return 1
    return 0


def _names(error: BaseException) -> set[str]:
    if isinstance(error, BaseExceptionGroup):
        return {name for inner in error.exceptions for name in _names(inner)}
    return {type(error).__name__}


async def _serve(settings: Settings) -> None:
    first_look = FirstLook(settings.allow, settings.canaries, seconds=settings.netguard_seconds, probe_seconds=settings.probe_seconds)
    from veilpod.agent.service import Service

    try:
        await first_look.passed()
    except Refused as error:
        hardening.refuse_for_ever(settings.marker, error.reason)
        raise
    service = Service(settings, lambda configuration: _make_onion(configuration, service), first_look=first_look)
    await service.run()


def _make_onion(configuration: "Callable[[], Configuration]", service: "Service") -> "Onion":
    from veilpod.net import demonstration
    from veilpod.net.onion import OnionProxy

    spec = configuration().spec

    def tell(data: dict[str, Any]) -> None:
        with contextlib.suppress(Refused):
            service.control.emit("circuit", data)

    return OnionProxy(
        directory=lambda: configuration().directory,
        hops=spec.hops,
        in_cluster=spec.relays == "InCluster",
        constant_rate=spec.constant_rate,
        trace=demonstration.trace(tell),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="veilpod.agent", description="The containers of a sandbox pod.")
    parser.add_argument("--log-level", default="INFO")
    parts = parser.add_subparsers(dest="part", required=True)

    run = parts.add_parser("run", help="prove that the fence holds, then hold the sandbox's keys and conversations")
    run.add_argument("--allow", nargs="+", default=[], help="peers that must answer, ip:port")
    run.add_argument("--canary", nargs="+", default=[], help="addresses that must not: ip:port, udp://ip:port or node:port")
    run.add_argument("--netguard-seconds", type=float, default=60.0, help="how long to wait for a fence that comes up late")
    run.add_argument("--control", default="0.0.0.0:7443", help="the operator's control stream")
    run.add_argument("--ready", default="0.0.0.0:7444", help="opens when the inputs are verified: the startup probe's port")
    run.add_argument("--operator-cert", type=base64.b64decode, required=True, help="the operator's control certificate, DER in base64")

    sealing = parts.add_parser("seal", help="hold the pod until the agent is done")
    sealing.add_argument("--socket", default=Settings.__dataclass_fields__["seal_socket"].default)
    return parser


def _settings(options: argparse.Namespace) -> Settings:
    (control, ready) = netguard.parse_endpoints([options.control, options.ready])
    return Settings(
        control=control,
        ready=ready,
        operator_cert=options.operator_cert,
        allow=tuple(netguard.parse_endpoints(options.allow)),
        canaries=netguard.parse_canaries(options.canary, os.environ.get(NODE_VARIABLE, "")),
        netguard_seconds=options.netguard_seconds,
    )


if __name__ == "__main__":
    sys.exit(main())
