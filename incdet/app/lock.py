"""One process a run folder: a lock that ends with its owner, however that ends."""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from incdet.errors import Finding, InputError

NAME = ".lock"
_held: set[Path] = set()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds ``folder``, which exists, for this process; a killed owner leaves a file that holds nobody up.

    The lock is the operating system's and belongs to the process alone: processes that it forks do not prolong it.
    Where a file system has no locks, nobody is kept out.

    Raises:
        InputError: Another process, or another run of this one, works in the folder.
    """
    path = folder.resolve() / NAME
    if path in _held:
        raise _in_use(folder, "this very process")
    handle = _taken(path, folder)
    _held.add(path)
    try:
        yield
    finally:
        _held.discard(path)
        if os.name == "nt":  # where an open file cannot be removed
            handle.close()
        with contextlib.suppress(OSError):
            path.unlink()
        handle.close()


def _taken(path: Path, folder: Path) -> IO[str]:
    while True:
        handle = path.open("a+", encoding="utf-8")
        if not _take(handle):
            handle.seek(0)
            owner = handle.read().strip()
            handle.close()
            raise _in_use(folder, owner or "another process")
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(handle.fileno()), path.stat()):
                break
        handle.close()  # its last owner removed it just now: what we hold has no name any more
    handle.truncate(0)
    handle.write(f"process {os.getpid()} on {platform.node()}")
    handle.flush()
    return handle


def _take(handle: IO[str]) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            handle.seek(1 << 30)  # beyond the text, which others are to read
            msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)
    return True


def _in_use(folder: Path, owner: str) -> InputError:
    fix = "wait until it ends, or name another output folder"
    return InputError(Finding(str(folder), "run folder", f"is in use by {owner}", fix))
