"""What the command line knows of a verb, and the arguments that several verbs share."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

SETTING = re.compile(r"[a-z_]+(\.\w+)*=.*", re.DOTALL)
"""How a ``key=value`` word looks."""


class Verb(NamedTuple):
    """A verb of ``incdet``.

    Attributes:
        summary: What it does, in a line.
        example: A command line that works.
        add_arguments: Puts its arguments into a parser.
        run: Does it and returns the exit code.
        in_processes: Whether several processes (``torchrun``) do it together; otherwise rank 0 does it alone.
    """

    summary: str
    example: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    in_processes: bool = False

    @property
    def description(self) -> str:
        """The head of its help page."""
        return f"{self.summary}\n\nexample: {self.example}"


class ClassWords(argparse.Action):
    """Takes the words after ``--classes``; ``key=value`` words among them are settings, which may stand anywhere."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Called by argparse for every use of the option."""
        words = [str(word) for word in values or ()]
        given = getattr(namespace, self.dest) or []
        setattr(namespace, self.dest, [*given, *(word for word in words if not SETTING.fullmatch(word))])
        settings = [word for word in words if SETTING.fullmatch(word)]
        namespace.swallowed = [*getattr(namespace, "swallowed", []), *settings]


class Names(ClassWords):
    """The same for names that no data can tell apart: one word alone is a file, or a list written with commas."""

    def __call__(self, *words: Any) -> None:
        """Called by argparse for every use of the option."""
        super().__call__(*words)
        _, namespace, *_ = words
        given = getattr(namespace, self.dest)
        if len(given) == 1:
            try:
                given = Path(given[0]).read_text(encoding="utf-8").splitlines()
            except UnicodeDecodeError as error:
                raise argparse.ArgumentError(self, f"{given[0]} is no UTF-8 text: {error.reason}") from None
            except OSError:  # no such file: the word is a list
                given = words_of(given[0])
        setattr(namespace, self.dest, [word.strip() for word in given])


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """``key=value`` words that replace settings."""
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        default=[],
        help="settings that replace those of the file, such as seed=1 train.base.lr=1e-3 (`incdet keys` lists them)",
    )


def add_data(parser: argparse.ArgumentParser) -> None:
    """The annotations a verb works on, and their pictures."""
    parser.add_argument(
        "--data", required=True, type=Path, metavar="PATH", help="annotations: COCO, VOC, YOLO, Labelme or CSV"
    )
    parser.add_argument("--images", type=Path, metavar="DIR", help="folder of the images, if they lie apart")
    add_split(parser, "--split", "the annotations")
    parser.add_argument(
        "--exif",
        choices=("auto", "apply", "ignore"),
        default="auto",
        help="turn pictures as the camera says: auto tells it from the stated sizes [auto]",
    )


def add_split(parser: argparse._ActionsContainer, option: str, what: str) -> None:
    """Which part of annotations a verb takes."""
    parser.add_argument(option, metavar="NAME", help=f"split of {what}, such as train, val, 2007_test [as needed]")


_DETECTOR = "a checkpoint or run folder; torchvision's BUILDER:WEIGHTS; or a state dict, with --arch and its classes"


def add_detector(parser: argparse.ArgumentParser) -> None:
    """The detector a verb works with, as a word of its own; ``--checkpoint`` goes on meaning the same.

    The command line hands it on as ``arguments.checkpoint``, and refuses a call without one or with two.
    """
    parser.add_argument("detector_word", nargs="?", metavar="DETECTOR", help=_DETECTOR)
    parser.add_argument("--checkpoint", metavar="DETECTOR", help=argparse.SUPPRESS)
    _add_known(parser)


def add_checkpoint(parser: argparse.ArgumentParser, option: str, purpose: str) -> None:
    """A detector that may be left out, and what a verb wants one for."""
    parser.add_argument(option, metavar="DETECTOR", help=f"{purpose}: {_DETECTOR}")
    _add_known(parser)


def _add_known(parser: argparse.ArgumentParser) -> None:
    """What a state dict does not tell of itself."""
    parser.add_argument("--arch", metavar="NAME", help="network of a state dict, such as retinanet_resnet50_fpn")
    what = "name of each column of a state dict; N/A for one without a class"
    add_names(parser, "--classes-known", "--known-classes", what=what, dest="known_classes")


def add_names(parser: argparse.ArgumentParser, *options: str, what: str, dest: str | None = None) -> None:
    """Names of classes as words of their own, as one word with commas, or as a file with one a line."""
    named = {} if dest is None else {"dest": dest}
    words = f"{what}; or a file with one a line"
    parser.add_argument(*options, nargs="+", action=Names, metavar="NAME", help=words, **named)  # type: ignore[arg-type]


def add_device(parser: argparse.ArgumentParser) -> None:
    """Where the network runs."""
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:N or mps [auto]")


def words_of(text: str) -> list[str]:
    """The words of a list that is written with commas."""
    return [word.strip() for word in text.split(",") if word.strip()]


def override(key: str, words: Sequence[str]) -> str:
    """The setting ``key`` as a list of words, in the form of the command line."""
    return f"{key}={json.dumps(list(words))}"


def share(text: str) -> float:
    """A number in [0, 1], for argparse."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError("has to be in 0..1")
    return value


def positive(text: str) -> int:
    """A whole number of 1 or more, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("has to be 1 or more")
    return value
