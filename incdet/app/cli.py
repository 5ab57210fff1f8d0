"""The command line: every verb parses, calls one function and says where the result is.

Heavy imports happen inside the verbs, so that ``--help`` answers at once. Exit codes: 0 done, 1 training could not go
on or a file could not be written, 2 the input was refused, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from incdet import __version__
from incdet.errors import Finding, InputError, OutputError, TrainingError


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``incdet VERB ...`` and return the exit code; refused input prints its findings, never a traceback."""
    return _guarded(build_parser(), sys.argv[1:] if argv is None else argv)


def run_tool(verb: str, argv: Sequence[str] | None = None) -> int:
    """Run one verb as a script of its own (``tools/*.py``) and return the exit code."""
    describe, add, _ = VERBS[verb]
    parser = argparse.ArgumentParser(description=describe, formatter_class=argparse.RawDescriptionHelpFormatter)
    add(parser)
    parser.set_defaults(verb=verb)
    return _guarded(parser, sys.argv[1:] if argv is None else argv)


def build_parser() -> argparse.ArgumentParser:
    """The parser of ``incdet`` with all its verbs."""
    parser = argparse.ArgumentParser(
        prog="incdet", description="Incremental object detection: new classes in, old classes kept."
    )
    parser.add_argument("--version", action="version", version=f"incdet {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, (describe, add, _) in VERBS.items():
        add(
            verbs.add_parser(
                name,
                help=describe.splitlines()[0],
                description=describe,
                formatter_class=argparse.RawDescriptionHelpFormatter,
            )
        )
    return parser


def _guarded(parser: argparse.ArgumentParser, argv: Sequence[str]) -> int:
    arguments, rest = parser.parse_known_args(list(argv))
    wrong = [word for word in rest if word.startswith("-") or "=" not in word or not hasattr(arguments, "overrides")]
    if wrong:
        parser.error(f"unrecognised: {' '.join(wrong)}")
    if rest:  # argparse takes key=value words in one place only; people write them before and after options
        arguments.overrides = [*arguments.overrides, *rest]
    try:
        code: int = VERBS[arguments.verb][2](arguments)
    except InputError as error:
        print(f"The input was refused; nothing was trained or overwritten.\n{error}", file=sys.stderr)
        return 2
    except TrainingError as error:
        print(f"Training cannot go on.\n{error}", file=sys.stderr)
        return 1
    except OutputError as error:
        print(f"A file could not be written; what was there before is as it was.\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted. The same command with --resume goes on from the last checkpoint.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `incdet keys | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


def _add_overrides(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        default=[],
        help="settings that replace those of the file, such as seed=1 train.base.lr=1e-3 (`incdet keys` lists them)",
    )


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", required=True, type=Path, metavar="FILE", help="COCO JSON, or a folder of VOC XML files beside images"
    )
    parser.add_argument("--images", type=Path, metavar="DIR", help="folder of the images a COCO file names")


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _add_train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, type=Path, metavar="FILE", help="YAML file, see configs/")
    parser.add_argument("--method", metavar="NAME[,NAME]", help="methods to train, in place of the file's")
    parser.add_argument("--without", metavar="PART[,PART]", help="parts to take away from the methods (ablation)")
    parser.add_argument("--resume", action="store_true", help="go on with a run that was stopped")
    _add_overrides(parser)


def _train(arguments: argparse.Namespace) -> int:
    from incdet.config import load_config

    overrides = list(arguments.overrides)
    for key, value in (("methods", arguments.method), ("without", arguments.without)):
        if value is not None:
            overrides.append(f"{key}={json.dumps(_names(value))}")
    config = load_config(arguments.config, overrides)
    from incdet.app.run import run

    print(f"written: {run(config, resume=arguments.resume)}")
    return 0


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", required=True, type=Path, metavar="FOLDER", help="folder of one step")
    _add_data(parser)
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the scores there as JSON")
    parser.add_argument("--batch-size", type=_positive, default=8, metavar="N", help="images in a forward pass [8]")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda [auto]")


def _evaluate(arguments: argparse.Namespace) -> int:
    from incdet.app.extend import evaluate_checkpoint

    scores = evaluate_checkpoint(
        arguments.checkpoint,
        arguments.data,
        arguments.images,
        output=arguments.output,
        batch_size=arguments.batch_size,
        device=arguments.device,
    )
    print(_score_table(scores))
    if arguments.output is not None:
        print(f"written: {arguments.output}")
    return 0


def _score_table(scores: Mapping[str, Any]) -> str:
    """AP and AP50 of every class and of all, a line each."""
    rows = [*scores.get("per_class", {}).items(), ("all", scores)]
    width = max(len(name) for name, _ in rows)
    lines = [f"{'class':<{width}}  {'AP':>6}  {'AP50':>6}"]
    for name, score in rows:
        cells = [score.get(metric) if score else None for metric in ("AP", "AP50")]
        lines.append(f"{name:<{width}}  " + "  ".join("     -" if cell is None else f"{cell:6.3f}" for cell in cells))
    return "\n".join(lines)


def _add_extend(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", required=True, type=Path, metavar="FOLDER", help="what knows the old classes")
    _add_data(parser)
    parser.add_argument("--classes", type=_names, metavar="NAME[,NAME]", help="classes to add [all in the data]")
    parser.add_argument("--method", default="incdet", metavar="NAME", help="how to learn them [incdet]")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="run folder; must not hold a run")
    parser.add_argument("--old-data", type=Path, metavar="PATH", help="annotations to choose old exemplars from")
    parser.add_argument("--old-images", type=Path, metavar="DIR", help="folder of their images")
    parser.add_argument("--test-data", type=Path, metavar="PATH", help="annotations to measure on, before and after")
    parser.add_argument("--test-images", type=Path, metavar="DIR", help="folder of their images")
    _add_overrides(parser)


def _extend(arguments: argparse.Namespace) -> int:
    from incdet.app.extend import finetune_custom

    folder = finetune_custom(
        arguments.checkpoint,
        arguments.data,
        arguments.images,
        classes=arguments.classes,
        method=arguments.method,
        output=arguments.output,
        overrides=arguments.overrides,
        old_data=arguments.old_data,
        old_images=arguments.old_images,
        test_data=arguments.test_data,
        test_images=arguments.test_images,
    )
    print(f"written: {folder}")
    return 0


def _add_predict(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", required=True, type=Path, metavar="FOLDER", help="folder of one step")
    parser.add_argument("--images", required=True, type=Path, nargs="+", metavar="PATH", help="pictures or folders")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="gets detections.json and drawings")
    parser.add_argument("--threshold", type=float, default=0.3, metavar="S", help="lowest score that is kept [0.3]")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda [auto]")


def _predict(arguments: argparse.Namespace) -> int:
    from incdet.app.predict import predict

    file = predict(
        arguments.checkpoint,
        arguments.images,
        arguments.output,
        threshold=arguments.threshold,
        device=arguments.device,
    )
    print(f"written: {file}")
    return 0


def _add_check(parser: argparse.ArgumentParser) -> None:
    _add_data(parser)


def _check(arguments: argparse.Namespace) -> int:
    findings = _findings_of(arguments.data, arguments.images)
    for finding in findings:
        print(f"{finding.severity}: {finding}")
    errors = sum(finding.severity == "error" for finding in findings)
    print(f"{arguments.data}: {errors} error(s), {len(findings) - errors} warning(s)")
    return 2 if errors else 0


def _findings_of(data: Path, images: Path | None) -> Sequence[Finding]:
    """What is wrong with a COCO file or a folder of XML files, or else with their pictures."""
    from incdet.data.formats import read_coco, read_voc
    from incdet.data.images import check_pictures

    if images is None and not data.is_dir():
        raise InputError(Finding(str(data), "images", "the folder of the images is not given", "add --images DIR"))
    try:
        found = read_voc(data) if images is None else read_coco(data, images)
    except InputError as error:
        return error.findings
    return [*found.warnings, *check_pictures(found.records)]


def _add_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="RUN", help="run folder")


def _report(arguments: argparse.Namespace) -> int:
    from incdet.report.html import write_report

    print(f"written: {write_report(arguments.folder)}")
    return 0


def _add_nothing(parser: argparse.ArgumentParser) -> None:
    del parser


def _methods(arguments: argparse.Namespace) -> int:
    del arguments
    from incdet.methods.base import METHODS

    for method in METHODS.values():
        print(f"{method.name:<10} {method.source}\n{'':<10} parts: {', '.join(method.parts) or 'none'}")
    return 0


def _keys(arguments: argparse.Namespace) -> int:
    del arguments
    from incdet.config import describe_keys

    for key, default, description in describe_keys():
        print(f"{key} [{default}]\n    {description}")
    return 0


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("has to be 1 or more")
    return value


VERBS = {
    "train": (
        "train a protocol: step 1, then every later step with every method\n\n"
        "example: incdet train --config configs/shapes/demo.yaml output=runs/demo seed=1",
        _add_train,
        _train,
    ),
    "evaluate": (
        "score a checkpoint on an annotation file by COCO's rules\n\n"
        "example: incdet evaluate --checkpoint runs/demo/incdet/step_3 --data test.json --images images/",
        _add_evaluate,
        _evaluate,
    ),
    "extend": (
        "teach a checkpoint new classes from your own annotations\n\n"
        "example: incdet extend --checkpoint runs/demo/incdet/step_3 --data my.json --images my/ --output runs/mine",
        _add_extend,
        _extend,
    ),
    "predict": (
        "find the known classes in your own photographs\n\n"
        "example: incdet predict --checkpoint runs/demo/incdet/step_3 --images photos/ --output runs/found",
        _add_predict,
        _predict,
    ),
    "check": ("report what is wrong with a data set", _add_check, _check),
    "report": ("draw plots and report.html again from a run folder", _add_report, _report),
    "methods": ("list the methods and their parts", _add_nothing, _methods),
    "keys": ("list the settings, their defaults and meanings", _add_nothing, _keys),
}


if __name__ == "__main__":
    sys.exit(main())
