"""``incdet classes``: the classes of a detector listed, renamed, merged, removed, reordered."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from incdet.app.verbs.verb import Verb, add_detector

if TYPE_CHECKING:
    from incdet.app.class_edits import Edits
    from incdet.vocab import Vocabulary


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A detector, what is to change, pictures to prove it on, and a folder for the result."""
    add_detector(parser)
    change = parser.add_argument_group("changes, made in this order; without any the classes are listed")
    change.add_argument("--rename", nargs=2, action="append", default=[], metavar=("OLD", "NEW"), help="once a class")
    change.add_argument(
        "--merge", nargs="+", action="append", default=[], metavar="NAME", help="a new name, then the classes it unites"
    )
    change.add_argument("--remove", nargs="+", action="extend", default=[], metavar="NAME", help="classes to drop")
    change.add_argument("--order", nargs="+", default=[], metavar="NAME", help="all that are left, in their new order")
    parser.add_argument(
        "--images",
        type=Path,
        nargs="+",
        default=[],
        metavar="PATH",
        help="pictures or folders, without labels: the others are proved to find the same there [noise]",
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder of the new checkpoint")


def classes(arguments: argparse.Namespace) -> int:
    """Lists the classes, or writes a checkpoint with other ones if the rest is proved to be as it was."""
    edits = _edits(arguments)
    if edits and arguments.output is None:
        arguments.parser.error("the following arguments are required: --output")
    from incdet.app.load import load

    detector = load(arguments.checkpoint, arguments.arch, arguments.known_classes)
    if not edits:
        print("\n".join(listed(detector.vocab)))
        return 0
    from incdet.app.class_edits import edit_classes
    from incdet.errors import Finding, InputError
    from incdet.files import require_output
    from incdet.network import checkpoint

    require_output(arguments.output, folder=True)
    if (arguments.output / checkpoint.DESCRIPTION).exists():
        raise InputError(Finding(str(arguments.output), "output", "already holds a checkpoint", "name another folder"))
    edited = edit_classes(detector.model, edits, arguments.images)
    print("\n".join(listed(edited.model.vocab)))
    for name, divergence in edited.divergence.items():
        print(f"{name}: {divergence:.4f} nats per object-like anchor from the loudest of the classes it stands for")
    print(edited.proof.describe())
    if edited.proof.differing:
        print("nothing was written")
        return 1
    checkpoint.save(arguments.output, edited.model)
    print(f"written: {arguments.output}")
    return 0


def listed(vocab: Vocabulary) -> list[str]:
    """A line a class: its column, step and name."""
    width = len(str(len(vocab) - 1))
    return [f"{column:>{width}}  step {vocab.step_of(name)}  {name}" for column, name in enumerate(vocab.names)]


def _edits(arguments: argparse.Namespace) -> Edits:
    from incdet.app.class_edits import Edits

    for names, option in ((arguments.rename, "--rename"), (arguments.merge, "--merge")):
        firsts = [words[0] for words in names]
        if len(set(firsts)) < len(firsts):
            arguments.parser.error(f"argument {option}: {firsts[0]!r} stands twice")
    merged = {words[0]: tuple(words[1:]) for words in arguments.merge}
    return Edits(dict(map(tuple, arguments.rename)), merged, tuple(arguments.remove), tuple(arguments.order))


VERB = Verb(
    "list the classes of a detector; rename, merge, remove or reorder them, and prove the others unchanged",
    "incdet classes runs/demo/incdet/step_3 --rename ring hoop --remove star --images photos/ --output runs/renamed",
    add_arguments,
    classes,
)
