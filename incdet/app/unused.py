"""Settings that a verb does not use are refused: what was asked for and had no effect would be believed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from incdet.config.yamlfile import parse_override
from incdet.errors import Finding, InputError


def refuse_unused(overrides: Sequence[str], unused: Mapping[str, str], verb: str) -> None:
    """Checks ``key=value`` words against the sections and keys that ``verb`` has no use for.

    Args:
        overrides: As given on the command line.
        unused: Section or key -> what to do in its place.
        verb: Its name, for the message.

    Raises:
        InputError: A word sets one of them; names all such words.
    """
    findings = []
    for text in overrides:
        key, _ = parse_override(text)
        for section, fix in unused.items():
            if key == section or key.startswith(f"{section}."):
                findings.append(Finding("command line", f"key {key}", f"is not used by {verb}", fix))
    if findings:
        raise InputError(findings)
