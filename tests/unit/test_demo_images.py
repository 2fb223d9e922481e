"""The cache of the demo's images, which every checkout of a machine shares."""

import os
import pathlib

from demo import images


def test_an_outdated_archive_goes_unless_another_checkout_may_be_loading_it(tmp_path: pathlib.Path) -> None:
    for name, age in (("relay-old.tar", 3600), ("relay-new.tar", 30), ("store-old.tar", 3600)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (10_000 - age, 10_000 - age))
    images.forget_outdated(tmp_path, "relay", now=10_000)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["relay-new.tar", "store-old.tar"]
