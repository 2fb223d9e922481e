"""What a program leaves for the next pod of its node, and looks for."""

import ctypes
import os
import pathlib

from hostile.calls import LIBC

PLACES = ("/tmp", "/veilpod/out", "/dev/shm", "/dev/mqueue", "/var/tmp", "/run", "/mnt")
_SHARED = 0x5EC0


def leave(word: str) -> list[str]:
    """Leave a word wherever something can be left. Returns where."""
    left = []
    for place in PLACES:
        try:
            pathlib.Path(place, "left-behind").write_text(word)
        except OSError:
            continue
        left.append(place)
    if LIBC.shmget(_SHARED, 4096, 0o1600) >= 0:
        left.append("shared memory")
    return left


def find(word: str) -> list[str]:
    """Look for the word. Returns where it is."""
    found = []
    for place in PLACES:
        for folder, _, files in os.walk(place):
            for file in files:
                try:
                    found += [f"{folder}/{file}"] if word.encode() in pathlib.Path(folder, file).read_bytes() else []
                except OSError:
                    continue
    ctypes.set_errno(0)
    return found + (["shared memory"] if LIBC.shmget(_SHARED, 4096, 0) >= 0 else [])
