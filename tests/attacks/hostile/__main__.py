"""`python -m hostile PART SURROUNDINGS`: one part of the attack. Its report is the task's result, and the output's last line."""

import json
import os
import pathlib
import subprocess
import sys
import time

from hostile import greed, leftovers, neighbours, network, node, registry

__all__ = ["neighbours", "network", "node"]  # they register themselves

OUT = pathlib.Path("/veilpod/out")


def outlive(word: str) -> None:
    """Leave a process behind that writes when nobody should write any more."""
    late = f"pathlib.Path('/veilpod/out/late-{word}').write_text('x' * number)"
    code = f"import pathlib, time\nfor number in range(600):\n    {late}\n    time.sleep(1)"
    if os.fork() == 0:
        os.setsid()
        subprocess.Popen([sys.executable, "-c", code, word])
        os._exit(0)


def attempts(around: registry.Surroundings) -> object:
    """Every attempt there is, and the secret said wherever something can be said."""
    found = registry.make_all(around)
    if word := around.get("secret"):
        print(word, flush=True)
        print(word, file=sys.stderr, flush=True)
        for place in ("/proc/1/fd/1", "/dev/termination-log", "/veilpod/bin/.end/message", "/dev/kmsg", "/dev/console"):
            try:
                pathlib.Path(place).write_text(word)
            except OSError:
                continue
        leftovers.leave(word)
        outlive(around["late"])
    return found


def take(around: registry.Surroundings) -> int:
    """Fill what can be filled, and leave more than a result may hold. Returns 0 if everything came to an end."""
    with open("/tmp/hole", "wb") as file:
        file.truncate(1 << 40)
    ends = (
        greed.threads(5000)["refused"],
        greed.handles(2_000_000)["error"] == "EMFILE",
        greed.fill("/tmp")["error"] == "ENOSPC",
        greed.fill("/veilpod/out")["error"] == "ENOSPC",
    )
    return 0 if all(ends) else 10 + ends.index(False)


def main() -> int:
    """Do one part."""
    part, around = sys.argv[1], json.loads(sys.argv[2])
    if part == "careless":  # where nothing is guarded: the report goes to the log, and the pod stays
        print(json.dumps(registry.make_all(around)), flush=True)
        time.sleep(600)  # noqa: TID251
    elif part == "attempts":
        (OUT / "report.json").write_text(json.dumps(attempts(around)))
    elif part == "take":
        return take(around)
    elif part == "eat":
        leftovers.leave(around["word"])
        greed.eat()
    elif part == "find":
        (OUT / "report.json").write_text(json.dumps(leftovers.find(around["word"])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
