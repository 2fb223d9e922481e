"""What every process of ours does at its edges."""

import argparse

import pytest

from veilpod.net.process import Listen, listen


@pytest.mark.parametrize(
    ("text", "host", "port"), [("127.0.0.1:9102", "127.0.0.1", 9102), ("[::1]:9102", "::1", 9102), (":9090", "", 9090)]
)
def test_where_to_listen_is_read(text: str, host: str, port: int) -> None:
    assert listen(text) == Listen(host=host, port=port)


def test_what_is_no_address_is_refused() -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        listen("everywhere")
