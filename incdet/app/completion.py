"""Completion of verbs and options in a shell, as a script that is generated from the parser."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping
from typing import NamedTuple


class Option(NamedTuple):
    """An option of a verb.

    Attributes:
        name: With its hyphens.
        help: In a line.
        choices: What it takes; empty where that is a file, a number or a name.
        takes: Whether anything follows it.
    """

    name: str
    help: str
    choices: tuple[str, ...]
    takes: bool


class Words(NamedTuple):
    """What can be typed after a verb."""

    summary: str
    options: tuple[Option, ...]


def words_of(parser: argparse.ArgumentParser) -> dict[str, Words]:
    """The verbs of a parser with sub-commands, and their options."""
    (verbs,) = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    summaries = {one.dest: one.help or "" for one in verbs._choices_actions}
    return {name: Words(summaries[name], _options(one)) for name, one in verbs.choices.items()}


def script(shell: str, parser: argparse.ArgumentParser) -> str:
    """What ``shell`` has to read; files are completed wherever nothing better is known.

    Args:
        shell: ``bash``, ``zsh`` or ``fish``.
        parser: Of ``incdet``.
    """
    return _SHELLS[shell](words_of(parser))


def _options(parser: argparse.ArgumentParser) -> tuple[Option, ...]:
    found = []
    for action in parser._actions:
        names = [name for name in action.option_strings if name.startswith("--")]
        if names and action.help != argparse.SUPPRESS:
            choices = tuple(str(choice) for choice in action.choices or ())
            help_words = " ".join((action.help or "").replace("%%", "%").split())
            found.append(Option(names[0], help_words, choices, action.nargs != 0))
    return tuple(found)


def _bash(verbs: Mapping[str, Words]) -> str:
    options = "\n".join(
        f"        {name}) words={shlex.quote(' '.join(option.name for option in one.options))} ;;"
        for name, one in verbs.items()
    )
    choices = "\n".join(
        f"        {name}:{option.name}) words={shlex.quote(' '.join(option.choices))} ;;"
        for name, one in verbs.items()
        for option in one.options
        if option.choices
    )
    return f"""# bash completion of incdet; load it with: eval "$(incdet completion bash)"
_incdet() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} verb=${{COMP_WORDS[1]}} words= place
    if (( COMP_CWORD == 1 )); then
        COMPREPLY=($(compgen -W {shlex.quote(" ".join((*verbs, "--help", "--version")))} -- "$current"))
        return
    fi
    for (( place = COMP_CWORD - 1; place > 1; place-- )); do
        [[ ${{COMP_WORDS[place]}} == --* ]] && break
    done
    if [[ $current != -* ]]; then
        case $verb:${{COMP_WORDS[place]}} in
{choices}
        esac
        [[ -n $words ]] && COMPREPLY=($(compgen -W "$words" -- "$current"))
        return
    fi
    case $verb in
{options}
    esac
    COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -o default -F _incdet incdet
"""


def _zsh(verbs: Mapping[str, Words]) -> str:
    described = "\n".join(f"        {_zsh_word(name, one.summary)}" for name, one in verbs.items())
    cases = "\n".join(
        f"        {name}) _arguments -S {' '.join(map(_zsh_option, one.options))} '*:file:_files' ;;"
        for name, one in verbs.items()
    )
    return f"""#compdef incdet
# zsh completion of incdet; load it with: eval "$(incdet completion zsh)"
_incdet() {{
    local -a verbs
    verbs=(
{described}
    )
    if (( CURRENT == 2 )); then
        _describe 'verb' verbs
        return
    fi
    local verb=${{words[2]}}
    words=("${{(@)words[2,-1]}}")
    (( CURRENT-- ))
    case $verb in
{cases}
    esac
}}
compdef _incdet incdet
"""


def _zsh_word(name: str, summary: str) -> str:
    return shlex.quote(f"{name}:{summary}")


def _zsh_option(option: Option) -> str:
    told = option.help.replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]").replace(":", "\\:")
    values = f":value:({' '.join(option.choices)})" if option.choices else ":value:_files" if option.takes else ""
    return shlex.quote(f"{option.name}[{told}]{values}")


def _fish(verbs: Mapping[str, Words]) -> str:
    lines = ["# fish completion of incdet; load it with: incdet completion fish | source"]
    for name, one in verbs.items():
        lines.append(f"complete -c incdet -n __fish_use_subcommand -f -a {name} -d {_fish_word(one.summary)}")
        for option in one.options:
            parts = [f"complete -c incdet -n '__fish_seen_subcommand_from {name}' -l {option.name[2:]}"]
            if option.choices:
                parts.append(f"-x -a {_fish_word(' '.join(option.choices))}")
            elif option.takes:
                parts.append("-r")
            lines.append(" ".join([*parts, f"-d {_fish_word(option.help)}"]))
    return "\n".join(lines) + "\n"


def _fish_word(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


_SHELLS = {"bash": _bash, "zsh": _zsh, "fish": _fish}
SHELLS = tuple(_SHELLS)
