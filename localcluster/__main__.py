"""Commands: python3 -m localcluster up | down | status, and a few that scripts and tests use."""

import argparse
import pathlib
import sys

from localcluster import build, containerd, inspect, layout, lifecycle, progress


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    top = argparse.ArgumentParser(prog="python3 -m localcluster", description="A real one-node Kubernetes cluster on this machine.")
    commands = top.add_subparsers(dest="command", required=True)
    for command, description in {
        "up": "start the cluster (nothing to do if it runs)",
        "down": "end it; leaves logs, nothing else",
        "status": "say what runs",
        "build": "only build the programs",
        "load": "import OCI archives; prints name@digest for each image",
        "netpol": "switch the enforcement of NetworkPolicy off or on",
        "etcd-dump": "print every key and value of etcd, raw",
        "exec": "run a command in the node's namespaces",
    }.items():
        sub = commands.add_parser(command, help=description, description=description)
        if command != "build":
            which = sub.add_mutually_exclusive_group()
            which.add_argument("--name", default="dev", help="which cluster (default: dev)")
        if command == "down":
            which.add_argument("--all", action="store_true", help="every cluster of this checkout, also those of tests that were killed")
        if command == "load":
            sub.add_argument("archive", nargs="+", type=pathlib.Path)
        if command == "netpol":
            sub.add_argument("state", choices=("on", "off"))
        if command == "exec":
            sub.add_argument("argument", nargs="+")
    return top


def main(arguments: list[str]) -> int:
    """Run one command; return its exit status."""
    options = parser().parse_args(arguments)
    match options.command:
        case "up":
            kubeconfig = lifecycle.up(options.name)
            progress.say(f"\nexport KUBECONFIG={kubeconfig} PATH={layout.BUILD / 'bin'}:$PATH")
        case "down":
            for name in lifecycle.names() if options.all else [options.name]:
                lifecycle.down(name)
        case "build":
            build.ensure_all()
        case "load":
            pid = lifecycle.require(options.name).inner.pid
            for digested in containerd.load(pid, *options.archive).values():
                print(digested)
        case "status":
            return inspect.status(options.name)
        case "netpol":
            inspect.switch_netpol(options.name, on=options.state == "on")
        case "etcd-dump":
            return inspect.dump_etcd(options.name)
        case "exec":
            return inspect.execute(options.name, options.argument)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except progress.Failure as failure:
        progress.complain(failure)
        sys.exit(1)
    except ValueError as error:
        progress.complain(progress.Failure(str(error)))
        sys.exit(2)
