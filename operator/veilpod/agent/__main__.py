"""`python -m veilpod.agent netguard|run|seal`: the containers of a sandbox pod that are ours.

A part imports what it needs when it is its turn: with a fifth of a processor the agent's imports take longer than its first look at the
fence, so they go on at the same time, and netguard does without.
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
from veilpod.agent.settings import Settings
from veilpod.core.tiers import tier_on
from veilpod.errors import InvalidInput, Refused
from veilpod.net import logs
from veilpod.net.process import until_told

if TYPE_CHECKING:
    from veilpod.agent.service import Service
    from veilpod.core.agent_messages import Configuration
    from veilpod.ports import Onion

TERMINATION_LOG = pathlib.Path("/dev/termination-log")
NODE_ADDRESSES = "VEILPOD_NODE"  # the environment variable that the pod's manifest fills from status.hostIPs

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one container. The exit codes are each part's own; 22 is a wrong argument."""
    options = _parser().parse_args(arguments)
    logs.configure(options.log_level)
    hardening.end_on_sigterm()
    if options.part == "netguard":
        return netguard.run(
            allow=options.allow,
            canary=options.canary,
            node=os.environ.get(NODE_ADDRESSES, ""),
            seconds=options.timeout,
            evidence=options.evidence,
            termination_log=TERMINATION_LOG,
        )
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
        first_look = netguard.FirstLook(settings.allow, settings.canaries, probe_seconds=settings.probe_seconds)
        asyncio.run(until_told(_serve(settings, first_look)))
    except Refused as error:
        log.error("agent.refused", extra={"reason": error.reason})
        hardening.say_last_word(TERMINATION_LOG, error.reason)
        return hardening.REBORN_EXIT if error.reason == "AgentRestarted" else netguard.EXIT_CODES["BadArguments"]
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


async def _serve(settings: Settings, first_look: netguard.FirstLook) -> None:
    from veilpod.agent.service import Service

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

    guard = parts.add_parser("netguard", help="prove that the network fence holds")
    run = parts.add_parser("run", help="hold the sandbox's keys and conversations")
    for part in (guard, run):
        part.add_argument("--allow", nargs="+", default=[], help="peers that must answer, ip:port")
        part.add_argument("--canary", nargs="+", default=[], help="addresses that must not: ip:port, udp://ip:port or node:port")
    guard.add_argument("--timeout", type=float, default=60.0, help="seconds until the verdict")
    guard.add_argument("--evidence", type=pathlib.Path, default=None, help="file to leave the observation in")
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
        canaries=netguard.parse_canaries(options.canary, os.environ.get(NODE_ADDRESSES, "")),
    )


if __name__ == "__main__":
    sys.exit(main())
