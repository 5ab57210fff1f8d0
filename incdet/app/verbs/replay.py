"""``incdet replay``: a step of training that failed, done once more."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from incdet.app.verbs.verb import Verb


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What a failed run left, and the precision to compute in."""
    parser.add_argument("file", type=Path, metavar="FILE", help="nonfinite.pt that a failed run names")
    parser.add_argument("--precision", choices=("off", "bf16", "fp16"), default="off", help="of the network [off]")


def replay(arguments: argparse.Namespace) -> int:
    """Prints the losses of the step on the weights it failed on."""
    import torch

    from incdet.errors import Finding, InputError
    from incdet.files import reading
    from incdet.training.failure import replay as repeat

    dtype = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}[arguments.precision]
    fix = "give the nonfinite.pt that a failed run names, as this version of incdet wrote it"
    try:
        with reading(arguments.file, "failed step", fix):
            losses = repeat(arguments.file, dtype)
    except RuntimeError as error:  # weights that do not fit, or what this machine cannot compute
        raise InputError(Finding(str(arguments.file), "failed step", f"cannot be repeated ({error})", fix)) from error
    for name, value in losses.items():
        print(f"{name:<16} {value:.6g}")
    wrong = [name for name, value in losses.items() if not math.isfinite(value)]
    print(f"not finite: {', '.join(wrong)}" if wrong else "all are finite in this precision")
    return 0


VERB = Verb(
    "repeat the step at which training failed, on the same weights, and print its losses",
    "incdet replay runs/demo/incdet/states/step_2/nonfinite.pt --precision off",
    add_arguments,
    replay,
)
