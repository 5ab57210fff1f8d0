"""JSON as it is found: with a byte order mark, cut off, nested beyond sense, or no JSON at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from incdet.data.formats.textfile import read_text
from incdet.errors import Finding, InputError


def load_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        InputError: The file is missing, empty, cut off, no JSON, or holds what no annotation file needs: a number of
            thousands of digits, or brackets nested thousands deep.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(_not_json(path, text, error)) from None
    except RecursionError:
        problem = "nests its brackets thousands deep"
        raise InputError(Finding(str(path), "file", problem, "give a COCO or Labelme file")) from None
    except ValueError:  # Python's bound on the digits of a whole number
        problem = "holds a number of thousands of digits"
        raise InputError(Finding(str(path), "file", problem, "correct the number")) from None


def _not_json(path: Path, text: str, error: json.JSONDecodeError) -> Finding:
    line, end = f"line {error.lineno}", text.rstrip()
    if end and end.lstrip()[0] not in "{[":
        fix = "give a COCO or Labelme file; a table of boxes has to be named .csv"
        return Finding(str(path), line, f"is not JSON: {error.msg} at column {error.colno}", fix)
    if error.pos >= len(end) - 1 or end[-1:] not in ("}", "]"):
        return Finding(str(path), line, f"is cut off after {len(text)} characters", "copy or download the file again")
    return Finding(str(path), line, f"is not JSON: {error.msg} at column {error.colno}", "correct the file")
