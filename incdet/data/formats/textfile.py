"""The bytes and the text of a file that a stranger made: it may be a pipe, a device, cut off or in any encoding."""

from __future__ import annotations

import codecs
import os
import stat
from pathlib import Path

from incdet.errors import Finding, InputError, suggest

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_bytes(path: Path) -> bytes:
    """The content of a regular file.

    Raises:
        InputError: There is no such file, it is a folder, a pipe or a device, or it may not be read.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        raise InputError(Finding(str(path), "file", "does not exist", f"give the file; {neighbours(path)}")) from None
    if not stat.S_ISREG(mode):
        problem = "is a folder" if stat.S_ISDIR(mode) else "is no regular file (but a pipe, a socket or a device)"
        raise InputError(Finding(str(path), "file", problem, f"give the annotation file; {neighbours(path)}"))
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(
            Finding(str(path), "file", f"cannot be read ({error.strerror})", "change its permissions")
        ) from None


def decode_text(path: Path, content: bytes) -> str:
    """``content`` as text: UTF-8, or UTF-16 that says so; the mark at its beginning (BOM) is no part of it.

    Raises:
        InputError: It is neither.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if content.startswith(_UTF16):
            try:
                return content.decode("utf-16")
            except UnicodeDecodeError:
                pass
        raise InputError(Finding(str(path), "file", f"is no UTF-8 text ({error.reason})", "save it as UTF-8")) from None


def read_text(path: Path) -> str:
    """The text of a regular file, see ``read_bytes`` and ``decode_text``."""
    return decode_text(path, read_bytes(path))


def neighbours(path: Path) -> str:
    """What lies where ``path`` was looked for, the names nearest to its own first."""
    if not os.path.isdir(path.parent):
        return f"the folder {path.parent} does not exist either"
    return suggest(path.name, os.listdir(path.parent))
