"""Detectors handed from one person to another: a hub, or a folder that stands for one where there is no network.

A detector on a hub is ``hub:OWNER/NAME``, or ``hub:OWNER/NAME@REVISION``. Where the environment variable ``INCDET_HUB``
names a folder, that is the hub: ``OWNER/NAME`` is a folder below it, without revisions. A plain path is a hub of one.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import incdet
from incdet.errors import Finding, InputError
from incdet.files import copy_file, require_output, write_text
from incdet.network import checkpoint
from incdet.network.retinanet import IncrementalRetinaNet

PREFIX = "hub:"
FOLDER = "INCDET_HUB"
CARD = "README.md"
FILES = (checkpoint.TENSORS, checkpoint.DESCRIPTION)
"""What a detector needs; nothing else is fetched, and none of it is code."""


class Place(NamedTuple):
    """Where a detector lies on a hub.

    Attributes:
        name: ``OWNER/NAME``.
        revision: A branch, tag or commit; None for the newest.
    """

    name: str
    revision: str | None = None

    @classmethod
    def of(cls, text: str) -> Place:
        """What ``hub:OWNER/NAME@REVISION`` says.

        Raises:
            InputError: It says nothing of that kind.
        """
        match = re.fullmatch(r"hub:([\w-][\w.-]{0,95}/[\w-][\w.-]{0,95})(?:@([\w./-]{1,200}))?", text)
        if match is None or ".." in text:
            fix = "write hub:OWNER/NAME, or hub:OWNER/NAME@REVISION"
            raise InputError(Finding(text[:200], "hub", "is no place on a hub", fix))
        return cls(match[1], match[2])


def is_place(text: str | Path) -> bool:
    """Whether ``text`` means a hub, and not a path."""
    return str(text).startswith(PREFIX)


def push(model: IncrementalRetinaNet, target: str | Path, *, private: bool = True) -> str:
    """Puts a detector, and a page that says what it is, on a hub or into a folder; replaces what was there.

    Args:
        model: The detector.
        target: ``hub:OWNER/NAME[@BRANCH]``, or the path of a folder.
        private: Whether a new place on the hub is for its owner alone.

    Returns:
        Where it lies now.

    Raises:
        InputError: The folder cannot be written, or the hub refuses or cannot be reached.
    """
    folder, place = _target(target)
    if folder is not None:
        require_output(folder, folder=True)
    with tempfile.TemporaryDirectory() as work:
        draft = Path(work)
        checkpoint.save(draft, model)
        write_text(draft / CARD, card(model, str(target) if place else None))
        if folder is not None:
            for name in (*FILES, CARD):
                copy_file(draft / name, folder / name)
            return str(folder)
        assert place is not None
        return _upload(draft, place, private)


def pull(source: str, output: Path) -> IncrementalRetinaNet:
    """Fetches a detector from a hub into a checkpoint folder, and reads it: what is cut off or changed is refused.

    Args:
        source: ``hub:OWNER/NAME[@REVISION]``, or the path of a folder that was pushed to.
        output: Folder of the checkpoint; must not hold one.

    Raises:
        InputError: There is no such detector, it is damaged, the hub cannot be reached, or ``output`` is taken.
    """
    require_output(output, folder=True)
    if (output / checkpoint.DESCRIPTION).exists():
        raise InputError(Finding(str(output), "output", "already holds a checkpoint", "name another folder"))
    found = fetched(source) if is_place(source) else Path(source)
    model = checkpoint.load(found).model
    for name in (*FILES, CARD):
        if (found / name).is_file():
            copy_file(found / name, output / name)
    return model


def fetched(source: str) -> Path:
    """The folder on this machine that holds the checkpoint ``hub:OWNER/NAME[@REVISION]``.

    Raises:
        InputError: There is no such detector, or the hub cannot be reached and it was never fetched before.
    """
    place = Place.of(source)
    home = os.environ.get(FOLDER)
    if home:
        folder = Path(home) / place.name
        if not (folder / checkpoint.DESCRIPTION).is_file():
            problem = f"is not in {home}, which {FOLDER} names"
            raise InputError(Finding(source, "hub", problem, f"push it there, or unset {FOLDER}"))
        return folder
    hub = _package()
    with _reaching(source):
        return Path(hub.snapshot_download(place.name, revision=place.revision, allow_patterns=[*FILES, CARD]))


def card(model: IncrementalRetinaNet, address: str | None = None) -> str:
    """A page of Markdown about a detector; with the ``address`` by which it is loaded again."""
    architecture, calibration = model.architecture, model.calibration
    steps = "\n".join(
        f"| {number} | {', '.join(_cell(name) for name in names)} |"
        for number, names in enumerate(model.vocab.steps, start=1)
    )
    measured = "not measured"
    if calibration is not None:
        measured = f"for {len(calibration.thresholds)} classes, on {calibration.images} pictures"
    network = architecture.detector or f"RetinaNet, {architecture.backbone}"
    sizes = "/".join(str(size) for size in architecture.min_size)
    where = address or "this/folder"
    return f"""---
library_name: incdet
pipeline_tag: object-detection
tags:
- object-detection
- incremental-learning
---

# A detector of {len(model.vocab)} classes

| step | classes |
|---|---|
{steps}

- network: {network}, {sizes} px
- thresholds: {measured}
- written by: incdet {incdet.__version__}

```python
import incdet

detector = incdet.load("{where}")
detector.predict("photo.jpg").show()
```

`incdet extend {where} --data mine.json` teaches it your own classes and keeps these.
"""


def _cell(name: str) -> str:
    return re.sub(r"([\\|`*_<>\[\]])", r"\\\1", name)


def _target(target: str | Path) -> tuple[Path | None, Place | None]:
    """The folder that is meant, or else the place on the hub."""
    if not is_place(target):
        return Path(target), None
    place = Place.of(str(target))
    home = os.environ.get(FOLDER)
    return (Path(home) / place.name if home else None), place


def _upload(folder: Path, place: Place, private: bool) -> str:
    hub = _package()
    with _reaching(f"{PREFIX}{place.name}"):
        api = hub.HfApi()
        api.create_repo(place.name, private=private, exist_ok=True)
        if place.revision is not None:
            api.create_branch(place.name, branch=place.revision, exist_ok=True)
        told = api.upload_folder(
            repo_id=place.name,
            folder_path=folder,
            revision=place.revision,
            allow_patterns=[*FILES, CARD],
            commit_message=f"Written by incdet {incdet.__version__}",
        )
    return str(getattr(told, "commit_url", None) or f"{PREFIX}{place.name}")


def _package() -> Any:
    if find_spec("huggingface_hub") is None:
        fix = f"pip install 'incdet[hub]', or set {FOLDER} to a folder that stands for the hub"
        raise InputError(Finding("hub", "package huggingface_hub", "is not installed", fix))
    import huggingface_hub

    return huggingface_hub


@contextmanager
def _reaching(source: str) -> Iterator[None]:
    """The hub's many refusals as one, with what it says."""
    from huggingface_hub import errors

    try:
        yield
    except errors.RevisionNotFoundError as error:
        raise _refusal(source, "has no such revision", "leave @REVISION out, or look at its branches") from error
    except errors.RepositoryNotFoundError as error:
        fix = "check owner and name; for a private one log in first: hf auth login"
        raise _refusal(source, "is not on the hub, or is hidden from you", fix) from error
    except errors.HFValidationError as error:
        raise _refusal(source, f"is refused ({_sentence(error)})", "write hub:OWNER/NAME") from error
    except (OSError, errors.EntryNotFoundError) as error:  # no network, no login, no room, and what it calls its own
        fix = f"check the network and `hf auth whoami`, or set {FOLDER} to a folder that stands for the hub"
        raise _refusal(source, f"cannot be reached ({_sentence(error)})", fix) from error


def _sentence(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]


def _refusal(source: str, problem: str, fix: str) -> InputError:
    return InputError(Finding(source, "hub", problem, fix))
