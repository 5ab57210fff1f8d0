"""``incdet extend``: new classes for a detector from somebody's own annotations."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from incdet.app.processes import say
from incdet.app.verbs.verb import ClassWords, Verb, add_data, add_detector, add_overrides, add_split, share

_CODES = """\
exit codes: 0 done (or planned, with --dry-run); 1 training could not go on, or a file could not be written; 2 the input
was refused, and nothing was trained or overwritten; 4 the old classes lost more than --max-old-drop; 130 interrupted
(Ctrl-C) and 143 told to end (SIGTERM): the same command goes on."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A detector, annotations of the new classes, and what helps to keep and measure the old ones."""
    parser.epilog = _CODES
    add_detector(parser)
    add_data(parser)
    parser.add_argument(
        "--classes",
        nargs="+",
        action=ClassWords,
        metavar="NAME",
        help="classes to add [all in the data]: cat dog, or cat,dog; 'salt, pepper' is one class where the data has it",
    )
    parser.add_argument(
        "--out", "--output", dest="output", default="runs/new", type=Path, metavar="DIR", help="run folder [runs/new]"
    )
    how = parser.add_argument_group("how the old classes are kept")
    how.add_argument(
        "--keep",
        choices=("balanced", "strict", "fast"),
        help="with exemplars and teachers; the old network untouched, and proof of it; without old images [balanced]",
    )
    how.add_argument("--method", metavar="NAME", help="a method by name, in place of --keep (`incdet methods`)")
    how.add_argument("--old-data", type=Path, metavar="PATH", help="annotations to choose old exemplars from")
    how.add_argument("--old-images", type=Path, metavar="DIR", help="folder of their images")
    add_split(how, "--old-split", "--old-data")
    how.add_argument("--keep-old-images", action="store_true", help="train on images too that show known classes alone")
    seen = parser.add_argument_group("what is measured and said")
    seen.add_argument("--test-data", type=Path, metavar="PATH", help="annotations to measure on, before and after")
    seen.add_argument("--test-images", type=Path, metavar="DIR", help="folder of their images")
    add_split(seen, "--test-split", "--test-data")
    seen.add_argument(
        "--validation", type=share, default=0.2, metavar="SHARE", help="images held out without --test-data [0.2]"
    )
    what = "stop, and keep the new detector aside, if AP50 of the old classes falls by more (0.02: two points)"
    seen.add_argument("--max-old-drop", type=share, metavar="X", help=what)
    seen.add_argument("--dry-run", action="store_true", help="say what would be done, and stop")
    seen.add_argument("--json", action="store_true", help="one JSON object on stdout, everything else on stderr")
    seen.add_argument("--resume", action="store_true", help="go on; the same command does so by itself")
    add_overrides(parser)


def extend(arguments: argparse.Namespace) -> int:
    """Plans or trains, and says where the run is."""
    from rich.console import Console

    from incdet.app.extend import carry_out, plan
    from incdet.app.progress import Display

    call = _call(arguments)
    if arguments.dry_run:
        planned = plan(call)
        say(json.dumps({"plan": planned.to_json()}) if arguments.json else "\n".join(planned.lines()))
        return 0
    display = Display(Console(stderr=True, soft_wrap=True)) if arguments.json else None
    done = carry_out(call, display)
    if arguments.json:
        say(json.dumps({"plan": done.plan.to_json(), "outcome": done.outcome.to_json()}))
    else:
        say(f"written: {done.outcome.run}")
    return 0


def _call(arguments: argparse.Namespace) -> Any:
    from incdet.app.extend_settings import Call
    from incdet.config import Extension

    extension = Extension(
        checkpoint=str(arguments.checkpoint),
        arch=arguments.arch,
        known_classes=arguments.known_classes and tuple(arguments.known_classes),
        annotations=arguments.data,
        images=arguments.images,
        split=arguments.split,
        exif=arguments.exif,
        classes=arguments.classes and tuple(arguments.classes),
        keep=arguments.keep,
        keep_old_images=arguments.keep_old_images,
        old_annotations=arguments.old_data,
        old_images=arguments.old_images,
        old_split=arguments.old_split,
        test_annotations=arguments.test_data,
        test_images=arguments.test_images,
        test_split=arguments.test_split,
        validation=arguments.validation,
    )
    watched = [] if arguments.max_old_drop is None else [f"evaluation.max_old_drop={arguments.max_old_drop}"]
    return Call(extension, arguments.output, arguments.method, [*arguments.overrides, *watched], arguments.resume)


VERB = Verb(
    "teach a detector new classes from your own annotations",
    "incdet extend runs/demo/incdet/step_3 --data my.json --images my/ --out runs/mine",
    add_arguments,
    extend,
    in_processes=True,
)
