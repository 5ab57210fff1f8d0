"""The command line: builds the parser, runs one verb, and turns what can go wrong into an exit code and a message.

Exit codes: 0 done, 1 training could not go on or a file could not be written, 2 the input was refused, 3 done but for
files that could not be read (``predict``), 4 a step lost more of the old classes than allowed, 130 interrupted, 143
told to end (SIGTERM).
"""

from __future__ import annotations

import argparse
import errno
import io
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from incdet import __version__
from incdet.app.processes import leave_group, tell_end
from incdet.app.verbs import (
    calibrate,
    check,
    classes,
    compare,
    completion,
    convert,
    doctor,
    evaluate,
    export,
    extend,
    import_,
    keys,
    merge,
    methods,
    predict,
    pull,
    push,
    replay,
    report,
    rollback,
    train,
    verify,
)
from incdet.app.verbs.verb import SETTING, Verb
from incdet.errors import InputError, OutputError, Regression, Terminated, TrainingError, relayed, shown, suggest
from incdet.files import is_writer

VERBS: dict[str, Verb] = {
    module.__name__.rpartition(".")[2].rstrip("_"): module.VERB
    for module in (
        train,
        extend,
        evaluate,
        predict,
        calibrate,
        export,
        import_,
        check,
        classes,
        convert,
        report,
        replay,
        compare,
        verify,
        rollback,
        methods,
        keys,
        merge,
        pull,
        push,
        doctor,
        completion,
    )
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``incdet VERB ...`` and return the exit code; refused input prints its findings, never a traceback."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = build_parser()
    verb = next((word for word in words if not word.startswith("-")), None)
    if verb is not None and verb not in VERBS:
        parser.error(f"{verb!r} is no verb; {suggest(verb, VERBS)}")
    return _guarded(parser, words)


def run_tool(verb: str | Verb, argv: Sequence[str] | None = None) -> int:
    """Run one verb, or what is a tool alone, as a script of its own (``tools/*.py``) and return the exit code."""
    parser = argparse.ArgumentParser()
    _fill(parser, VERBS[verb] if isinstance(verb, str) else verb)
    return _guarded(parser, list(sys.argv[1:] if argv is None else argv))


def build_parser() -> argparse.ArgumentParser:
    """The parser of ``incdet`` with all its verbs."""
    parser = argparse.ArgumentParser(
        prog="incdet", description="Incremental object detection: new classes in, old classes kept."
    )
    parser.add_argument("--version", action="version", version=f"incdet {__version__}")
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    for name, verb in VERBS.items():
        own = verbs.add_parser(name, help=verb.summary)
        _fill(own, verb, name)
        own.set_defaults(root=parser)
    return parser


def _fill(parser: argparse.ArgumentParser, verb: Verb, name: str | None = None) -> None:
    parser.description = verb.description
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    verb.add_arguments(parser)
    parser.set_defaults(in_processes=verb.in_processes, verb=name, work=verb.run, parser=parser)


def _parse(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.Namespace:
    """The arguments of a verb; ``key=value`` words and the detector may stand anywhere, where argparse is strict."""
    arguments, rest = parser.parse_known_args(words)
    fail = arguments.parser.error
    rest += getattr(arguments, "swallowed", [])
    for word in rest:
        if word.startswith("-"):
            options = re.findall(r"--[\w-]+", arguments.parser.format_usage())
            fail(f"{word} is no option; {suggest(word.partition('=')[0], options)}")
    if hasattr(arguments, "overrides"):
        rest = [*arguments.overrides, *rest]
    detectors = []
    if hasattr(arguments, "detector_word"):
        rest = [word for word in (arguments.detector_word, *rest) if word is not None]
        detectors = [word for word in rest if not (hasattr(arguments, "overrides") and SETTING.fullmatch(word))]
        rest = [word for word in rest if word not in detectors]
        if not detectors and arguments.checkpoint is None:
            fail("the following arguments are required: DETECTOR")
        if arguments.checkpoint is None:
            arguments.checkpoint = detectors.pop(0)
    if hasattr(arguments, "overrides"):
        arguments.overrides = [word for word in rest if "=" in word]
        rest = [word for word in rest if "=" not in word]
    for word in (*detectors, *rest):
        fail(f"{word!r} is one word too many")
    return arguments


def _guarded(parser: argparse.ArgumentParser, words: Sequence[str]) -> int:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files and classes that the terminal cannot show
            stream.reconfigure(errors="backslashreplace")
    arguments = _parse(parser, words)
    if not (arguments.in_processes or is_writer()):
        return 0  # the process of rank 0 does it
    try:
        with _terminable():
            code = int(arguments.work(arguments))
        leave_group()
        return code
    except InputError as error:
        told = "The input was refused; nothing was trained or overwritten."
        return tell_end(2, f"{told}\n{error}", error)
    except Regression as error:
        return tell_end(4, f"The step was not taken.\n{error}", error)
    except TrainingError as error:
        return tell_end(1, f"Training cannot go on.\n{error}", error)
    except OutputError as error:
        told = "A file could not be written; what was there before is as it was."
        return tell_end(1, f"{told}\n{error}", error)
    except BrokenPipeError:  # `incdet keys | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _told(error)
    except KeyboardInterrupt as interrupt:
        code = 143 if isinstance(interrupt, Terminated) else 130
        goes_on = "The same command with --resume goes on from the last checkpoint."
        rest = goes_on if hasattr(arguments, "resume") else "Files that were finished stay."
        return tell_end(code, f"Interrupted. {rest}", relayed(interrupt))
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's, which only a verb has imported
            raise
        fix = "use a smaller batch (evaluation.batch_size, --batch-size), a smaller model, or --device cpu"
        return tell_end(1, f"The memory of the GPU does not suffice: {str(error).splitlines()[0]}\n{fix}", error)


def _told(error: OSError) -> int:
    """The exit code for what the system refuses, with a line that says so; what names no file is no user's fault."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO):
        # The log, say: what is written whole tells it by OutputError.
        print(f"Writing failed ({error.strerror}): free some space, and run the same command again.", file=sys.stderr)
        return 1
    if error.filename is None:
        raise error
    line = f"{shown(error.filename)}: cannot be used ({error.strerror}) -> check the path and its permissions"
    print(f"The input was refused.\n{line}", file=sys.stderr)
    return 2


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends the block by an exception, as Ctrl-C does, so that everything in it is left in order."""

    def end(*_: object) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main())
