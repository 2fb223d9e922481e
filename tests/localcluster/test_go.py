"""The Go programs of the cluster: their own tests, run with the toolchain that builds them."""

import os
import subprocess

import pytest

from localcluster import build, toolchain


@pytest.mark.parametrize("package", ["./netpol", "./storage"])
def test_go_tests_pass(package: str) -> None:
    # The settings of the build, so that its cache serves both.
    command = [toolchain.go(), "test", "-trimpath", "-vet=all", package]
    environment = os.environ | {"CGO_ENABLED": "0", "GOWORK": "off"}
    result = subprocess.run(command, cwd=build.KUBE.source, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_go_sources_are_formatted() -> None:
    gofmt = os.path.join(os.path.dirname(os.path.realpath(toolchain.go())), "gofmt")
    result = subprocess.run([gofmt, "-l", "."], cwd=build.KUBE.source, capture_output=True, text=True, check=True)
    assert result.stdout == ""
