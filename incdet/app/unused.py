"""Settings that a verb does not use are refused: what was asked for and had no effect would be believed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from incdet.config.yamlfile import parse_override
from incdet.errors import Finding, InputError
from incdet.methods.method import Method


def idle_keys(methods: Sequence[Method], known: Sequence[str]) -> dict[str, str]:
    """Sections and keys that a run with ``methods``, of all that are ``known``, has no use for; with what to do."""
    idle = {}
    if not any(method.joint for method in methods):
        idle["train.joint"] = "add joint to the methods, or leave it out"
    if all(method.joint for method in methods):
        idle["train.increment"] = "name a method that learns in steps, or leave it out"
    if not any(method.balanced_finetune for method in methods):
        idle["train.finetune"] = "name a method with balanced fine-tuning (`incdet methods`), or leave it out"
    if not any(method.replay for method in methods):
        idle["memory"] = "name a method with replay (`incdet methods`), or leave it out"
    chosen = {method.name.split("-")[0] for method in methods}
    return idle | {
        f"method.{name}": f"add {name} to the methods, or leave it out" for name in known if name not in chosen
    }


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
