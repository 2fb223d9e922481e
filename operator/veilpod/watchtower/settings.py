"""A tower's settings, from its command line. Nothing here is secret: the key's file is named, not its content."""

import argparse
import dataclasses
import pathlib
from collections.abc import Sequence

from veilpod.chain import Addresses
from veilpod.core.ids import Address
from veilpod.core.keys import parse_address
from veilpod.core.typed_data import Domain
from veilpod.errors import ProtocolViolation
from veilpod.net.process import Listen, listen


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One tower. Money in wei, times in seconds."""

    rpc_url: str
    chain_id: int
    contracts: Addresses
    confirmations: int
    data: pathlib.Path
    key_file: pathlib.Path
    listen: Listen
    admin: Listen
    metrics: Listen
    cap: int
    period: int
    max_fee: int
    keep: int
    parties: tuple[Address, ...]
    log_level: str

    @property
    def domain(self) -> Domain:
        """What states are signed for."""
        return Domain(chain_id=self.chain_id, contract=self.contracts.channels)


def parse(arguments: Sequence[str] | None) -> Settings:
    """Read the command line; exits with 2 and a sentence when it cannot be used."""
    parser = argparse.ArgumentParser(
        prog="veilpod.watchtower", description="Hold the newest co-signed states of channels, and answer older ones on chain."
    )
    parser.add_argument("--rpc-url", required=True, help="JSON-RPC endpoint of a node that you trust to tell the truth")
    parser.add_argument("--chain-id", type=int, required=True)
    for name in ("registry", "scheduler", "channels"):
        parser.add_argument(
            f"--{name}", type=_address, required=True, metavar="ADDRESS", help=f"the contract (`veilpod chain deploy`: {name})"
        )
    parser.add_argument("--confirmations", type=int, default=1, help="blocks on top before something is believed")
    parser.add_argument("--data", type=pathlib.Path, required=True, help="directory of the volume: states, transactions, account")
    parser.add_argument("--key-file", type=pathlib.Path, required=True, help="the hot key in hex: signs receipts, pays for answers")
    parser.add_argument("--listen", type=listen, default=listen("0.0.0.0:9201"), help="where clients hand in states")
    parser.add_argument("--admin", type=listen, default=listen("127.0.0.1:9202"), help="what is guarded, for who may forward a port")
    parser.add_argument("--metrics", type=listen, default=listen("0.0.0.0:9090"), help="Prometheus metrics and probes")
    parser.add_argument("--cap", type=_amount, required=True, metavar="WEI", help="gas that is paid for at most within a period")
    parser.add_argument("--period", type=int, default=86_400, metavar="SECONDS", help="length of that period")
    parser.add_argument("--max-fee", type=_amount, required=True, metavar="WEI", help="highest bid per gas")
    parser.add_argument("--keep", type=int, default=90 * 86_400, metavar="SECONDS", help="how long a state is guarded unless it is renewed")
    parser.add_argument(
        "--party", type=_address, action="append", default=[], metavar="ADDRESS", help="guard only channels of these parties"
    )
    parser.add_argument("--log-level", default="INFO")
    options = parser.parse_args(arguments)
    return Settings(
        rpc_url=options.rpc_url,
        chain_id=options.chain_id,
        contracts=Addresses(registry=options.registry, scheduler=options.scheduler, channels=options.channels),
        confirmations=options.confirmations,
        data=options.data,
        key_file=options.key_file,
        listen=options.listen,
        admin=options.admin,
        metrics=options.metrics,
        cap=options.cap,
        period=options.period,
        max_fee=options.max_fee,
        keep=options.keep,
        parties=tuple(options.party),
        log_level=options.log_level,
    )


def _address(text: str) -> Address:
    try:
        return parse_address(text)
    except ProtocolViolation as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _amount(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"an amount is a whole number of wei, not {text[:50]!r}")
    return int(text)
