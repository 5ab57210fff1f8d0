"""``incdet merge``: one detector of two, with the classes of both."""

from __future__ import annotations

import argparse
from pathlib import Path

from incdet.app.verbs.verb import ClassWords, Verb, add_device, add_overrides

_HOW = {
    "heads": "one network with the predictors of both: they share everything but these",
    "trunk": "the heads of both side by side on one trunk, which they share",
    "beside": "two whole networks side by side",
    "distil": "one network that learned from both, without any label",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Two detectors, pictures, and a folder for the one they become."""
    parser.add_argument("first", metavar="FIRST", help="a detector; of a class that both know, this one speaks")
    parser.add_argument("second", metavar="SECOND", help="another one")
    parser.add_argument(
        "--images",
        action=ClassWords,
        nargs="+",
        default=[],
        metavar="PATH",
        help="pictures or folders, without labels: to learn from, or to prove on that nothing changed",
    )
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder of the new checkpoint")
    words = "; ".join(f"{name}: {what}" for name, what in _HOW.items())
    parser.add_argument("--how", choices=("auto", *_HOW), default="auto", help=f"{words} [by what the two share]")
    add_device(parser)
    add_overrides(parser)


def merge(arguments: argparse.Namespace) -> int:
    """Merges and says how, and what is known about the result."""
    from incdet.app.merge import merge as make_one

    merged = make_one(
        arguments.first,
        arguments.second,
        arguments.output,
        images=arguments.images,
        how=arguments.how,
        overrides=arguments.overrides,
        device=arguments.device,
    )
    print(f"{len(merged.model.vocab)} classes: {', '.join(merged.model.vocab.names)}")
    if merged.shared:
        print(f"known to both, taken from the first: {', '.join(merged.shared)}")
    print(f"how: {_HOW[merged.how]}")
    for whose, proof in merged.proof.items():
        print(proof.describe(whose))
    if merged.how in ("trunk", "beside"):
        print("the second's score of a box is lowered by what the first sees over it")
    for whose, value in merged.agreement.items():
        shown = "it shows nothing there" if value is None else f"{value:.3f}"
        print(f"AP50 against what the {whose} detector shows on pictures held out: {shown}")
    if merged.agreement:
        print("scores are on a scale of their own: incdet calibrate finds the thresholds to deploy")
    print(f"written: {arguments.output}")
    return 0


VERB = Verb(
    "make one detector of two, with the classes of both; without labels",
    "incdet merge runs/demo/base/step_1 runs/demo/incdet/step_2 --how beside --images photos/ --output runs/merged",
    add_arguments,
    merge,
)
