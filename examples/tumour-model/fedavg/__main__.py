"""`python -m fedavg aggregate` in the hub, `python -m fedavg train` in each site. Peers are on localhost: 127.0.0.1:9092."""

import argparse
import os
import pathlib
import socket
import sys
import time

import numpy as np

from fedavg import model, wire

PORT = 9092


def main() -> None:
    """Run one side."""
    parser = argparse.ArgumentParser(prog="fedavg", description=__doc__)
    parser.add_argument("side", choices=["aggregate", "train"])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--local-steps", type=int, default=40)
    parser.add_argument("--data", type=pathlib.Path, default=pathlib.Path("/veilpod/in/train.csv"))
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("/veilpod/out"))
    parser.add_argument("--sites", type=int, default=len([p for p in os.environ.get("VEILPOD_PEERS", "").split(",") if p]))
    parser.add_argument("--port", type=int, default=PORT)
    args = parser.parse_args()
    (aggregate if args.side == "aggregate" else train)(args)


def aggregate(args: argparse.Namespace) -> None:
    """Average what the sites send, weighted by their number of cases; leave the model in the output folder."""
    if args.sites < 1:
        raise SystemExit("no sites: VEILPOD_PEERS is empty and --sites was not given")
    with socket.create_server(("127.0.0.1", args.port)) as server:
        sites = [server.accept()[0] for _ in range(args.sites)]
    print(f"{len(sites)} sites have come", flush=True)

    sums = [wire.receive(site) for site in sites]
    counts = np.array([float(s["count"]) for s in sums])
    together = [model.Moments(count=float(s["count"]), total=s["total"], squares=s["squares"]) for s in sums]
    mean, deviation = sum(together[1:], start=together[0]).scale()

    weights = np.zeros(len(mean) + 1)
    losses: list[float] = []
    for number in range(1, args.rounds + 1):
        for site in sites:
            wire.send(site, weights=weights, mean=mean, deviation=deviation, steps=float(args.local_steps))
        answers = [wire.receive(site) for site in sites]
        weights = np.average([a["weights"] for a in answers], axis=0, weights=counts)
        losses.append(float(np.average([float(a["loss"]) for a in answers], weights=counts)))
        print(f"round {number}: loss {losses[-1]:.4f}", flush=True)
    for site in sites:
        wire.send(site, steps=0.0)
        site.close()

    fitted = model.Model(weights=weights, mean=mean, deviation=deviation)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "model.json").write_text(fitted.dump(rounds=args.rounds, losses=losses, cases=counts.tolist()))


def train(args: argparse.Namespace) -> None:
    """Answer the hub's rounds with local steps on local cases; no case ever leaves."""
    features, labels = model.read_cases(args.data)
    mine = model.moments(features)
    hub = meet(args.port)
    with hub:
        wire.send(hub, count=mine.count, total=mine.total, squares=mine.squares)
        while (order := wire.receive(hub)) and (steps := int(order["steps"])):
            x = model.design(features, order["mean"], order["deviation"])
            weights = model.descend(order["weights"], x, labels, steps=steps)
            wire.send(hub, weights=weights, loss=model.loss(weights, x, labels))
    print(f"trained on {len(labels)} cases", flush=True)


def meet(port: int, patience: float = 120) -> socket.socket:
    """Connect to the hub, which may start later than this site does."""
    end = time.monotonic() + patience
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=patience)
        except OSError:
            if time.monotonic() > end:
                sys.exit("the hub did not come")
            time.sleep(0.2)  # noqa: TID251 - a peer on another machine: there is no condition to wait on but trying


if __name__ == "__main__":
    main()
