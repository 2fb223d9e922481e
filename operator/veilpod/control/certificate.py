"""`python -m veilpod.control.certificate`: write the operator's control certificate to a file, for a store that is about to start.

A store obeys one client certificate and has to know it before anybody connects. It is derived from the chain key, so it is made here,
in the operator's image, in a container that ends before the store's begins: the store sees the certificate and never the key.
"""

import argparse
import base64
import pathlib
import sys

from veilpod.core.keys import node_keys, signing_key
from veilpod.errors import InvalidInput
from veilpod.net.control_tls import control_certificate


def main(arguments: list[str] | None = None) -> int:
    """Read the chain key, write the certificate (DER in base64). 2 is a key that cannot be used."""
    parser = argparse.ArgumentParser(prog="veilpod.control.certificate", description="Write the operator's control certificate.")
    parser.add_argument("--key-file", type=pathlib.Path, required=True, help="file with the chain key in hex")
    parser.add_argument("--output", type=pathlib.Path, required=True, help="file to write")
    options = parser.parse_args(arguments)
    try:
        keys = node_keys(signing_key(options.key_file.read_text()))
        options.output.write_text(base64.b64encode(control_certificate(keys.control)).decode())
    except (InvalidInput, OSError) as error:
        print(f"veilpod.control.certificate: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
