"""Writing files: whole or not at all, on one process, with the mode the umask says; and reading back what was written.

Every file incdet leaves behind goes through ``replacing``. The new content is written to a hidden temporary file in the
same folder (``.NAME.PID-NUMBER.tmp.SUFFIX``), brought to the disk, and renamed; a reader sees the old file or the
new one. Temporary files of processes that were killed are removed when their folder is written to again.

Under ``accelerate launch`` and ``torchrun`` only the process of rank 0 writes; on the others every function here
returns without touching the disk.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from incdet.errors import Finding, InputError, OutputError

_TEMPORARY = re.compile(r"\..+\.(\d+)-\d+\.tmp(\.[^.]*)?", re.DOTALL)
_numbers = itertools.count()
_drafts: set[Path] = set()
_seen: set[tuple[int, Path]] = set()
_FORGOTTEN_SECONDS = 86400.0
_FIXES = {
    errno.ENOSPC: "free some space on that disk, or write to another",
    errno.EDQUOT: "your quota is used up: remove files, or write to another disk",
    errno.EFBIG: "the system allows no file of this size: raise the limit (ulimit -f), or write to another disk",
    errno.EROFS: "the disk is read-only: write to another",
    errno.EACCES: "you may not write there: change the permissions, or write to another folder",
    errno.EPERM: "you may not write there: change the permissions, or write to another folder",
    errno.EIO: "the disk reports a fault: write to another",
    errno.EISDIR: "it is a folder: name a file",
    errno.ENOTDIR: "a folder of that path is a file: write to another folder",
    errno.EEXIST: "a folder of that path is a file: write to another folder",
    errno.ENAMETOOLONG: "shorten the name",
}


def is_writer() -> bool:
    """Whether this process writes files: the only one of a run does, or rank 0 (by ``RANK``, else ``LOCAL_RANK``)."""
    return os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path with the suffix of ``path``; what is written there becomes ``path`` when the block ends well.

    For writers of other libraries. An exception in the block leaves the file of before as it was. Several files that
    belong together are written in one ``with``: none is replaced before all are written.

    ``torch.save`` is to be given an open handle (``draft.open("wb")``), or it does not say that a disk is full.

    Args:
        path: The file to write; its folder is made where it is missing. On other ranks nothing appears there.

    Raises:
        OutputError: The file cannot be written: disk full, quota, read-only, no permission.
    """
    path = Path(path)
    if not is_writer():
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder) / path.name
        return
    draft = path.with_name(f".{path.stem[:40]}.{os.getpid()}-{next(_numbers)}.tmp{path.suffix}")
    _drafts.add(draft)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_forgotten(path.parent)
        draft.touch()
        mode = stat.S_IMODE(draft.stat().st_mode)
        yield draft
        draft.chmod(mode)  # writers that replace the file themselves give it another
        _to_disk(draft)
        os.replace(draft, path)
        _to_disk(path.parent)
    except Exception as error:
        fault = _fault_of_writing(error, {draft, path, *path.parents})
        if fault is None:
            raise
        raise OutputError(_finding(path, fault)) from error
    finally:
        _remove(draft)
        _drafts.discard(draft)


def write_bytes(path: Path, content: bytes) -> None:
    """Writes ``content`` whole or not at all; raises as ``replacing`` does."""
    if is_writer():
        with replacing(path) as draft:
            draft.write_bytes(content)


def write_remade(path: Path, content: bytes) -> None:
    """Writes ``content`` in place, not waiting for the disk: for files that are made anew until a later one is there.

    Raises:
        OutputError: The file cannot be written.
    """
    try:
        path.write_bytes(content)
    except OSError as fault:
        raise OutputError(_finding(path, fault)) from fault


def write_text(path: Path, text: str) -> None:
    """Writes ``text`` as UTF-8 with the line ends it has, whole or not at all; raises as ``replacing`` does."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any, *, indent: int | None = 2) -> None:
    """Writes ``value`` whole or not at all; NaN is refused (ValueError), for JSON has none."""
    write_text(path, json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False) + "\n")


def copy_file(source: Path, target: Path) -> None:
    """Copies the content of ``source``, whole or not at all; raises as ``replacing`` does."""
    if is_writer():
        with replacing(target) as draft:
            shutil.copyfile(source, draft)


@contextmanager
def reading(path: Path, item: str, fix: str) -> Iterator[None]:
    """What goes wrong in the block is the fault of the content of ``path``, a file that incdet wrote once.

    For whatever rebuilds values from a file: cut off, edited, of another version, nested thousands deep.

    Args:
        path: The file.
        item: What it is.
        fix: The way out.

    Raises:
        InputError: The block raised what a file that is not as it was written makes code raise.
    """
    try:
        yield
    except FileNotFoundError:
        raise InputError(Finding(str(path), item, "cannot be read: it does not exist", fix)) from None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, EOFError) as error:
        problem = f"cannot be read, it was cut off or changed ({error!r:.200})"
        raise InputError(Finding(str(path), item, problem, fix)) from error


def require_output(path: Path, *, folder: bool = False) -> None:
    """Checks before any work that ``path`` can be written later; leaves nothing behind.

    Args:
        path: File to write, or with ``folder`` the folder to write into.
        folder: What it is to be.

    Raises:
        InputError: It lies below a file, is of the other kind or a device, or its folder does not let us write.
    """
    path, wanted = Path(path), "folder" if folder else "file"
    try:
        if path.exists() and (not path.is_dir() if folder else not path.is_file()):
            problem = f"is no {wanted}" if path.is_file() or path.is_dir() else "is a device, a pipe or a socket"
            raise InputError(Finding(str(path), "output", problem, f"name a {wanted} that does not exist yet"))
        home = path if folder else path.parent
        while not home.exists():
            home = home.parent
        # Asking for permissions is not enough: root has them all on a disk that is read-only.
        with tempfile.TemporaryFile(dir=home) as trial:
            trial.write(bytes(4096))
    except OSError as error:
        raise InputError(_finding(path, error)) from error


def sha256(path: Path) -> str:
    """The SHA-256 digest of a file's content, 64 hexadecimal digits; the file is read in pieces."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _to_disk(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk, where the system can say so."""
    folder = path.is_dir()
    try:
        # Windows flushes handles opened for writing only, and opens no folder at all.
        handle = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
    except OSError:
        if folder:
            return
        raise
    try:
        os.fsync(handle)
    except OSError as error:
        if not folder and error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def _remove_forgotten(folder: Path) -> None:
    """Removes what killed processes left in ``folder``; looked for once by each process."""
    if (os.getpid(), folder) in _seen:
        return
    for entry in folder.iterdir():
        match = _TEMPORARY.fullmatch(entry.name)
        if match and _is_forgotten(entry, int(match[1])):
            _remove(entry)
    _seen.add((os.getpid(), folder))


def _is_forgotten(entry: Path, pid: int) -> bool:
    if pid == os.getpid():  # in a container the numbers come round again
        return entry not in _drafts
    if os.name == "nt":  # where asking for a process by signal 0 would end it
        return time.time() - entry.stat().st_mtime > _FORGOTTEN_SECONDS
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return False


def _remove(path: Path) -> None:
    try:
        path.unlink()
    except OSError:  # gone already, or its folder does not let us: it is only rubbish
        return


def _fault_of_writing(error: BaseException | None, ours: set[Path]) -> OSError | None:
    """The system's refusal to write one of ``ours`` behind an exception of whatever library, if that is what it was."""
    while error is not None and not isinstance(error, (InputError, OutputError)):
        if isinstance(error, OSError) and error.errno is not None:
            named = [Path(name) for name in (error.filename, error.filename2) if isinstance(name, str)]
            return error if not named or ours.intersection(named) else None
        told = re.search(r"\(os error (\d+)\)", str(error))  # safetensors
        if told:
            return OSError(int(told[1]), os.strerror(int(told[1])))
        error = error.__cause__ or error.__context__
    return None


def _finding(path: Path, fault: OSError) -> Finding:
    fix = _FIXES.get(fault.errno or 0, "write to another folder")
    return Finding(str(path), "output", f"cannot be written ({fault.strerror})", fix)
