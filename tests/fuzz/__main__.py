"""Run the fuzzing targets, each in a process of its own: `python -m tests.fuzz --seconds 5`, or one by name.

atheris (libFuzzer) instruments the product's modules and looks for inputs that take new ways. A finding is an exception that no caller
expects, a relay that no longer serves others, or memory without bound; its input is left in build/fuzz. What was found interesting stays in
build/fuzz/corpus and is where the next run begins.
"""

import argparse
import pathlib
import subprocess
import sys

NAMES = ("parsers", "directory", "relay", "client")
BUILD = pathlib.Path(__file__).resolve().parent.parent.parent / "build" / "fuzz"


def main() -> int:
    """Run all targets, or be the process of one."""
    parser = argparse.ArgumentParser(prog="tests.fuzz", description=__doc__)
    parser.add_argument("target", nargs="?", choices=NAMES)
    parser.add_argument("--seconds", type=int, default=60)
    options = parser.parse_args()
    if options.target:
        fuzz(options.target, options.seconds)
    passed = 0
    for name in NAMES:
        again = [sys.executable, "-m", "tests.fuzz", name, "--seconds", str(options.seconds)]
        done = subprocess.run(again, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False)
        lines = [line for line in done.stdout.splitlines() if not line.startswith("INFO: ")]
        if done.returncode != 0:
            print("\n".join(lines[-60:]), f"\n{name}: found something; again: {' '.join(again)}")
            return 1
        print(f"{name:12}{next((line for line in reversed(lines) if line.startswith('Done')), '')}")
        passed += 1
    print(f"{passed} passed")
    return 0


def fuzz(name: str, seconds: int) -> None:
    """Be the process of one target. Does not return."""
    import atheris

    with atheris.instrument_imports(include=["veilpod.core.onion", "veilpod.net", "veilpod.relay"]):
        from tests.fuzz import targets

    corpus = BUILD / "corpus" / name
    corpus.mkdir(parents=True, exist_ok=True)
    limits = ["-timeout=20", "-rss_limit_mb=1024", "-max_len=8192", f"-max_total_time={seconds}", f"-artifact_prefix={BUILD}/{name}-"]
    atheris.Setup([sys.argv[0], str(corpus), *limits], getattr(targets, name))
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
