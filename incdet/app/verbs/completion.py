"""``incdet completion``: verbs and options completed by the shell."""

from __future__ import annotations

import argparse

from incdet.app.verbs.verb import Verb

SHELLS = ("bash", "zsh", "fish")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The shell."""
    parser.add_argument("shell", choices=SHELLS, help="whose completion to print")


def completion(arguments: argparse.Namespace) -> int:
    """Prints the script."""
    from incdet.app.completion import script

    print(script(arguments.shell, arguments.root), end="")
    return 0


VERB = Verb(
    "print what a shell has to read to complete verbs and options",
    "incdet completion bash",
    add_arguments,
    completion,
)
