"""`veilpod`: what people do. Argument parsing and printing only; the work is in `client`.

Exit codes: 0 done; 1 refused, failed or not verified; 2 something that you must correct; 3 something did not answer, try again.
"""

import argparse
import asyncio
import dataclasses
import json
import pathlib
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from veilpod import __version__
from veilpod.client import commands
from veilpod.client.chains import ChainOptions
from veilpod.client.kubectl import Kubectl
from veilpod.errors import InvalidInput, Terminal, Transient

_EPILOG = "exit codes: 0 done; 1 refused, failed or not verified; 2 correct your input; 3 something did not answer, try again"

Run = Callable[[argparse.Namespace], Coroutine[Any, Any, commands.Answer]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command."""
    options = _parser().parse_args(arguments)
    run: Run = options.run
    try:
        answer = asyncio.run(run(options))
    except InvalidInput as error:
        return _complain(options, error.reason, str(error), 2)
    except Terminal as error:
        return _complain(options, error.reason, str(error), 1)
    except Transient as error:
        return _complain(options, type(error).__name__, str(error), 3)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 0
    if answer.note:
        print(answer.note, file=sys.stderr)
    if _as_json(options):
        print(json.dumps(answer.value, indent=1))
    elif answer.lines:
        print("\n".join(answer.lines))
    return 0 if answer.good else 1


def _complain(options: argparse.Namespace, reason: str, message: str, code: int) -> int:
    if _as_json(options):
        print(json.dumps({"error": {"code": reason, "message": message}}, indent=1))
    print(f"veilpod: {reason}: {message}", file=sys.stderr)
    return code


def _as_json(options: argparse.Namespace) -> bool:
    return getattr(options, "output", "text") == "json"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="veilpod", description="Compute with data of people who do not trust each other.", epilog=_EPILOG)
    parser.add_argument("--version", action="version", version=f"veilpod {__version__}")
    top = parser.add_subparsers(required=True, metavar="COMMAND")
    _keys(top.add_parser("keys", help="make and show keys").add_subparsers(required=True, metavar="WHAT"))
    _datasets(top.add_parser("dataset", help="seal, upload and register data sets").add_subparsers(required=True, metavar="WHAT"))
    _tasks(top)
    _evidence(top.add_parser("evidence", help="who broke a task's key ceremony").add_subparsers(required=True, metavar="WHAT"))
    _chain(top)
    _watchtower(top)
    _relay_identity(top)
    _doctor(top)
    return parser


def _keys(parsers: Any) -> None:
    new = _add(parsers, "new", _new_key, "make a key file, readable by you only")
    new.add_argument("kind", choices=["chain", "result"], help="chain: an account; result: who can read results")
    new.add_argument("file", type=pathlib.Path)
    show = _add(parsers, "show", _show_key, "show what is public about a key file: address, custody key, recipient")
    show.add_argument("file", type=pathlib.Path)


def _datasets(parsers: Any) -> None:
    seal = _add(parsers, "seal", _seal, "encrypt a file; prints the Dataset to apply")
    seal.add_argument("source", type=pathlib.Path)
    seal.add_argument("target", type=pathlib.Path)
    seal.add_argument("--to", required=True, metavar="CUSTODY_KEY", help="who can open it: a custody key of `veilpod keys show` (veil1…)")
    seal.add_argument("--name", required=True, help="the data set's name, as tasks will write it")
    seal.add_argument("--owner", metavar="ADDRESS", help="the owner's account; without it the store's own release owns it")
    seal.add_argument("--custody", choices=["Store", "Owner"], default="Store", help="whether the storage server holds the data key")
    put = _add(parsers, "put", _put, "upload a sealed file to the store in a namespace")
    put.add_argument("file", type=pathlib.Path)
    _cluster(put)
    register = _add(parsers, "register", _register, "register a sealed file on chain, as its owner")
    register.add_argument("file", type=pathlib.Path)
    register.add_argument("--node", type=int, required=True, help="the storage node that holds it (`veilpod node list`)")
    _sender(register)
    revoke = _add(parsers, "revoke", _revoke, "revoke a data set on chain: no further grants")
    revoke.add_argument("name")
    _sender(revoke)


def _tasks(top: Any) -> None:
    tasks = top.add_parser("task", help="look at tasks").add_subparsers(required=True, metavar="WHAT")
    status = _add(tasks, "status", _status, "say how far a task is, and what to do")
    status.add_argument("name")
    status.add_argument("-w", "--watch", action="store_true", help="go on until it is settled or failed")
    _cluster(status)
    result = _add(top, "result", _result, "fetch, verify and open a task's result")
    result.add_argument("name")
    result.add_argument("--key", type=pathlib.Path, required=True, help="your result key")
    result.add_argument("-o", "--directory", type=pathlib.Path, default=None, help="where to write it (default: ./NAME)")
    _chain_options(result)
    verify = _add(top, "verify", _verify, "check a sandbox statement offline; prints the claim ladder")
    verify.add_argument("file", type=pathlib.Path, help="a statement with its signatures, or statements.json of a result")
    verify.add_argument("--server", metavar="ADDRESS", action="append", help="the account that must have countersigned; once per statement")
    verify.add_argument("--digest", metavar="0xHEX", action="append", help="the statement digest that is on chain; once per statement")
    verify.add_argument("--program", metavar="sha256:HEX", help="the digest of the program's image that you agreed to")
    verify.add_argument("--agent", metavar="sha256:HEX", help="the digest of the agent's image of the release that you trust")


def _evidence(parsers: Any) -> None:
    fetch = _add(parsers, "fetch", _fetch_evidence, "save what convicts servers of breaking a task's key ceremony")
    fetch.add_argument("name", help="the ComputeTask; the evidence goes with it")
    fetch.add_argument("-o", "--file", type=pathlib.Path, default=None, help="where to write it (default: ./NAME-evidence.json)")
    _cluster(fetch)
    judge = _add(parsers, "judge", _judge_evidence, "judge a file of evidence offline")
    judge.add_argument("file", type=pathlib.Path)


def _chain(top: Any) -> None:
    chain = top.add_parser("chain", help="the contracts").add_subparsers(required=True, metavar="WHAT")
    deploy = _add(chain, "deploy", _deploy, "deploy the three contracts to a chain of your own")
    deploy.add_argument("--rpc", required=True, metavar="URL")
    deploy.add_argument("--key", type=pathlib.Path, required=True, help="the deployer's chain key")
    deploy.add_argument("--guardian", metavar="ADDRESS", help="who may suspend nodes (default: the deployer)")
    stake = top.add_parser("stake", help="a server's stake").add_subparsers(required=True, metavar="WHAT")
    deposit = _add(stake, "deposit", _deposit, "deposit stake for a computing server's account")
    deposit.add_argument("amount", help="in the chain's coin, an exact decimal such as 0.1")
    _sender(deposit)
    nodes = top.add_parser("node", help="the directory").add_subparsers(required=True, metavar="WHAT")
    listing = _add(nodes, "list", _nodes, "list every node of the registry")
    _chain_options(listing)


def _watchtower(top: Any) -> None:
    tower = top.add_parser("watchtower", help="look at a watchtower").add_subparsers(required=True, metavar="WHAT")
    guards = _add(tower, "guards", _guards, "list the channels it guards: newest version, until when, last answer")
    guards.add_argument("--url", help="its admin port, if not through the cluster: http://127.0.0.1:9202 on its own host")
    _cluster(guards)


def _relay_identity(top: Any) -> None:
    identity = _add(
        top, "relay-identity", _identities, "make a Secret with identity keys for an OnionRelay, so that restarts keep its node"
    )
    identity.add_argument("name", help="the Secret's name, to be written into spec.identitySecretName")
    identity.add_argument("-n", "--namespace", help="the OnionRelay's namespace (default: the kubeconfig's)")
    identity.add_argument("--context", help="the kubeconfig's context")


def _doctor(top: Any) -> None:
    doctor = _add(top, "doctor", _examine, "check that a cluster can keep Veilpod's promises, before installing")
    doctor.add_argument(
        "--image", help="an image with python3 that the cluster can pull, for the network probes (Veilpod's relay image will do)"
    )
    doctor.add_argument("--runtime-class", action="append", default=[], metavar="NAME", help="a RuntimeClass that must exist; repeatable")
    doctor.add_argument("--context", help="the kubeconfig's context")


def _add(parsers: Any, name: str, run: Run, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = parsers.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", epilog=_EPILOG)
    parser.add_argument("--output", choices=["text", "json"], default="text", help="json for scripts")
    parser.set_defaults(run=run)
    return parser


def _cluster(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-n", "--namespace", help="the release's namespace (default: the kubeconfig's)")
    parser.add_argument("--context", help="the kubeconfig's context")
    parser.add_argument("--release", help="the release, if the namespace has more than one")


def _chain_options(parser: argparse.ArgumentParser) -> None:
    _cluster(parser)
    parser.add_argument("--rpc", metavar="URL", help="JSON-RPC endpoint (default: the release's)")
    parser.add_argument(
        "--contracts", type=pathlib.Path, metavar="FILE", help="the JSON of `veilpod chain deploy` (default: the release's)"
    )
    parser.add_argument("--chain-id", type=int)
    parser.add_argument("--confirmations", type=int, help="blocks on top before something is believed")


def _sender(parser: argparse.ArgumentParser) -> None:
    _chain_options(parser)
    parser.add_argument("--key", type=pathlib.Path, required=True, help="the sender's chain key")


def _kubectl(options: argparse.Namespace) -> Kubectl:
    return Kubectl(namespace=getattr(options, "namespace", None), context=options.context)


def _choice(options: argparse.Namespace) -> ChainOptions:
    return ChainOptions(
        rpc_url=options.rpc,
        chain_id=options.chain_id,
        contracts=options.contracts,
        confirmations=options.confirmations,
        release=options.release,
    )


# Each command in one line: what the parser found, handed on.


async def _new_key(options: argparse.Namespace) -> commands.Answer:
    return commands.new_key(options.kind, options.file)


async def _show_key(options: argparse.Namespace) -> commands.Answer:
    return commands.show_key(options.file)


async def _seal(options: argparse.Namespace) -> commands.Answer:
    answer = commands.seal(options.source, options.target, to=options.to, name=options.name, owner=options.owner, custody=options.custody)
    return dataclasses.replace(answer, lines=() if options.output == "json" else answer.lines)


async def _put(options: argparse.Namespace) -> commands.Answer:
    return await commands.put(options.file, _kubectl(options), release=options.release)


async def _register(options: argparse.Namespace) -> commands.Answer:
    return await commands.register(options.file, node=options.node, key=options.key, kubectl=_kubectl(options), chain=_choice(options))


async def _revoke(options: argparse.Namespace) -> commands.Answer:
    return await commands.revoke(options.name, key=options.key, kubectl=_kubectl(options), chain=_choice(options))


async def _status(options: argparse.Namespace) -> commands.Answer:
    show = None if options.output == "json" else lambda text: print(text, flush=True)
    return await commands.status(options.name, _kubectl(options), watch=options.watch, show=show)


async def _result(options: argparse.Namespace) -> commands.Answer:
    directory = options.directory or pathlib.Path(options.name)
    return await commands.result(options.name, key=options.key, directory=directory, kubectl=_kubectl(options), chain=_choice(options))


async def _verify(options: argparse.Namespace) -> commands.Answer:
    return commands.verify(
        options.file, servers=options.server or (), digests=options.digest or (), program=options.program, agent=options.agent
    )


async def _fetch_evidence(options: argparse.Namespace) -> commands.Answer:
    path = options.file or pathlib.Path(f"{options.name}-evidence.json")
    return await commands.fetch_evidence(options.name, path, kubectl=_kubectl(options), release=options.release)


async def _judge_evidence(options: argparse.Namespace) -> commands.Answer:
    return commands.judge_evidence(options.file)


async def _deploy(options: argparse.Namespace) -> commands.Answer:
    return await commands.deploy(options.rpc, key=options.key, guardian=options.guardian)


async def _deposit(options: argparse.Namespace) -> commands.Answer:
    return await commands.deposit(options.amount, key=options.key, kubectl=_kubectl(options), chain=_choice(options))


async def _nodes(options: argparse.Namespace) -> commands.Answer:
    return await commands.nodes(kubectl=_kubectl(options), chain=_choice(options))


async def _guards(options: argparse.Namespace) -> commands.Answer:
    return await commands.guards(url=options.url, kubectl=_kubectl(options), release=options.release)


async def _identities(options: argparse.Namespace) -> commands.Answer:
    return await commands.make_identities(options.name, _kubectl(options))


async def _examine(options: argparse.Namespace) -> commands.Answer:
    return await commands.examine(_kubectl(options), image=options.image, runtime_classes=options.runtime_class)


if __name__ == "__main__":
    sys.exit(main())
