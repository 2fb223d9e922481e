"""`python -m veilpod.control --config FILE`: run one release's operator until SIGTERM."""

import argparse
import asyncio
import contextlib
import dataclasses
import importlib
import logging
import os
import pathlib
import sys
import time
from collections.abc import Sequence

import kopf

from veilpod import chain
from veilpod.control import config as configs
from veilpod.control import handlers, probes
from veilpod.control.app import Operator
from veilpod.control.canaries import of_process as own_canaries
from veilpod.control.context import Context
from veilpod.control.drafts import Drafts
from veilpod.control.events import EventRecorder
from veilpod.control.metrics import Metrics
from veilpod.control.role import Role
from veilpod.control.tasks import Tasks
from veilpod.core.keys import SigningKey, node_keys, signing_key
from veilpod.core.kinds import OWN_KINDS
from veilpod.errors import InvalidInput, VeilpodError
from veilpod.kube.api import KubeApi
from veilpod.kube.connection import discover
from veilpod.net import control, logs
from veilpod.ports import ControlLink

log = logging.getLogger(__name__)
_STATUS_SECONDS = 3.0  # a change of a status that nobody waits for is written with the next ones

KINDS = {
    "requester": ("computetasks",),
    "compute": ("taskassignments", "statechannels"),
    "storage": ("datasets",),
    "relay": ("onionrelays",),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until told to stop. 2 is a configuration that a person must correct, 1 a defect."""
    parser = argparse.ArgumentParser(prog="veilpod.control", description="Run one release's operator.")
    parser.add_argument("--config", type=pathlib.Path, required=True, help="the configuration file (YAML)")
    options = parser.parse_args(arguments)
    try:
        config = configs.load(options.config)
        logs.configure(config.log_level)
        logging.getLogger("kopf").setLevel(logging.WARNING)
        asyncio.run(run(config, _load_key(config.key_file)))
    except InvalidInput as error:
        print(f"veilpod.control: {error.reason}: {error}", file=sys.stderr)
        return 2
    except VeilpodError as error:
        log.error("operator.failed", extra={"error": type(error).__name__, "why": str(error)})
        return 1
    except KeyboardInterrupt:
        return 0
    return 0


async def run(config: configs.Config, key: SigningKey) -> None:
    """Run the operator inside kopf's loop. Raises what ended it, if anything did."""
    connection, metrics, keys = discover(), Metrics(), node_keys(key)
    canaries = (*config.compute.canaries, *own_canaries(connection, http_port=config.http_port))
    config = dataclasses.replace(config, compute=dataclasses.replace(config.compute, canaries=canaries))
    cluster = KubeApi(connection)

    async def connect_agent(host: str, port: int, *, pinned_tls_key: bytes | None = None) -> ControlLink:
        return await control.connect(host, port, key=keys.control, pinned_tls_key=pinned_tls_key)

    async def connect_chain() -> chain.Chain:
        return await chain.connect(
            config.chain.rpc_url,
            chain_id=config.chain.chain_id,
            addresses=chain.Addresses(registry=config.chain.registry, scheduler=config.chain.scheduler, channels=config.chain.channels),
            state_dir=config.state_dir / "chain",
            key=key,
            depth=config.chain.confirmations,
            cross_check_url=config.chain.cross_check_url or None,
        )

    def make_context(link: chain.Chain) -> Context:
        return Context(
            config=config,
            cluster=cluster,
            reader=link.reader,
            writer=link.writer,
            key=key,
            node_keys=keys,
            clock=time.time,
            connect=connect_agent,
            events=EventRecorder(cluster, instance=os.environ.get("HOSTNAME", "operator"), clock=time.time),
            metrics=metrics,
            tasks=tasks,
            enqueue=operator.enqueue,
            drafts=Drafts(seconds=_STATUS_SECONDS),
        )

    stopping = asyncio.Event()
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(cluster)
        tasks = await stack.enter_async_context(Tasks())
        operator = Operator(connect_chain=connect_chain, make_context=make_context, make_roles=make_roles, metrics=metrics, tasks=tasks)
        runner = await probes.serve(port=config.http_port, alive=operator.alive, ready=operator.ready, metrics=metrics)
        stack.push_async_callback(runner.cleanup)

        async def start() -> None:
            operator.start()

        kinds = [OWN_KINDS[plural] for role in config.roles for plural in KINDS[role]]
        registry = handlers.register(kinds, connection=connection, enqueue=operator.enqueue, start=start, stop=operator.stop)
        failed = asyncio.create_task(_stop_on_failure(tasks, stopping))
        try:
            await kopf.operator(
                registry=registry, settings=handlers.settings(), standalone=True, namespaces=[config.namespace], stop_flag=stopping
            )
        finally:
            if failed.done():
                await failed
            failed.cancel()


async def make_roles(context: Context) -> Sequence[Role]:
    """Plug in the configured roles by name."""
    roles: list[Role] = []
    for name in context.config.roles:
        module = importlib.import_module(f"veilpod.control.roles.{name}")
        roles.append(await module.create(context))
    return roles


async def _stop_on_failure(tasks: Tasks, stopping: asyncio.Event) -> None:
    try:
        await tasks.wait_failed()
    finally:
        stopping.set()


def _load_key(path: pathlib.Path) -> SigningKey:
    try:
        return signing_key(path.read_text())
    except OSError as error:
        raise InvalidInput("NoChainKey", f"cannot read keyFile: {error.strerror}") from error


if __name__ == "__main__":
    sys.exit(main())
