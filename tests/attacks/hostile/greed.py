"""More than its share: memory, disks, threads, file handles."""

import errno
import mmap
import os
import pathlib
import threading

_MIB = 1 << 20


def fill(folder: str) -> dict[str, object]:
    """Write until nothing more can be written. Returns how much, and why it ended."""
    written, part = 0, bytes(_MIB)
    try:
        with open(pathlib.Path(folder, "filling"), "wb", buffering=0) as file:
            while written < 10 << 30:
                written += file.write(part)
    except OSError as error:
        return {"mib": written // _MIB, "error": errno.errorcode[error.errno or 0]}
    return {"mib": written // _MIB, "error": ""}


def threads(most: int) -> dict[str, object]:
    """Start threads until one is refused."""
    threading.stack_size(64 << 10)
    end, started = threading.Event(), 0
    try:
        while started < most:
            threading.Thread(target=end.wait, daemon=True).start()
            started += 1
    except RuntimeError:
        return {"started": started, "refused": True}
    finally:
        end.set()
    return {"started": started, "refused": False}


def handles(most: int) -> dict[str, object]:
    """Open files until one is refused."""
    kept: list[int] = []
    try:
        while len(kept) < most:
            kept.append(os.open("/dev/null", os.O_RDONLY))
    except OSError as error:
        return {"opened": len(kept), "error": errno.errorcode[error.errno or 0]}
    finally:
        for handle in kept:
            os.close(handle)
    return {"opened": len(kept), "error": ""}


def eat() -> None:
    """Take memory until somebody ends it."""
    eaten = []
    while True:
        page = mmap.mmap(-1, 16 * _MIB)
        for at in range(0, 16 * _MIB, 4096):
            page[at] = 1
        eaten.append(page)
