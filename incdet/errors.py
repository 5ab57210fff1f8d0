"""What went wrong with somebody's input, in words that name the file, the object and the fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar


@dataclass(frozen=True)
class Finding:
    """One fault of an input: where it is, what is wrong, and what to do about it.

    Attributes:
        file: The file (or setting) that holds the fault.
        item: The object inside it, for example ``annotation 17`` or ``key train.base.lr``.
        problem: What is wrong, with the offending value.
        fix: What the reader can do.
        severity: ``"error"`` refuses the input, ``"warning"`` is reported only.
    """

    file: str
    item: str
    problem: str
    fix: str
    severity: str = "error"

    def __str__(self) -> str:
        text = f"{self.file}: {self.item}: {self.problem} -> {self.fix}"
        return text.encode("utf-8", "backslashreplace").decode("utf-8")  # half a surrogate pair cannot be printed


class InputError(Exception):
    """The user's input cannot be used; nothing was trained or overwritten.

    The command line prints the findings without a traceback and exits with code 2.
    """

    def __init__(self, findings: Finding | Iterable[Finding] | str) -> None:
        if isinstance(findings, str):
            # A loader's worker hands its exception on as text.
            findings = Finding("data loader", "worker", findings.strip().splitlines()[-1], "correct the named file")
        self.findings: list[Finding] = [findings] if isinstance(findings, Finding) else list(findings)
        super().__init__(self.summary())

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process of the run raises it too, which has no use for what a kind of its own carries.
        return InputError, (self.findings,), {_RELAYED: is_relayed(self)}

    def summary(self, most: int = 20) -> str:
        """The first ``most`` findings, a line each, and how many more there are."""
        lines = [str(finding) for finding in self.findings[:most]]
        if len(self.findings) > most:
            lines.append(f"... and {len(self.findings) - most} more")
        return "\n".join(lines)


def errors_of(findings: Iterable[Finding]) -> list[Finding]:
    """The findings that refuse the input."""
    return [finding for finding in findings if finding.severity == "error"]


def shown(value: object, most: int = 100) -> str:
    """A stranger's text or value for a message: as it is where it can be printed, else escaped, and never long."""
    text = value if isinstance(value, str) and value.isprintable() else repr(value)
    return text if len(text) <= most else f"{text[: most // 2]}...{text[-most // 4 :]} ({len(text)} characters)"


def suggest(word: str, known: Iterable[str]) -> str:
    """A sentence that names the known words nearest to ``word``, or lists them all if none is near."""
    names = sorted({shown(str(name)) for name in known})
    near = difflib.get_close_matches(word, names, n=3, cutoff=0.6) if len(names) < 10_000 else []
    if near:
        return "did you mean " + " or ".join(repr(name) for name in near) + "?"
    listed = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
    return f"known: {listed}" if names else "nothing is known here"


class TrainingError(Exception):
    """Training cannot go on (a loss that is not finite, say); the message names what was saved and what to try.

    The command line prints it without a traceback and exits with code 1.
    """


class Regression(TrainingError):
    """A step has lost more of the old classes than was allowed; it became no step of the run.

    The command line prints it without a traceback and exits with code 4.
    """


class Terminated(KeyboardInterrupt):
    """The process was told to end (SIGTERM, as a cluster's scheduler does); what can be resumed has been stored.

    The command line exits with code 143.
    """


class OutputError(Exception):
    """A file could not be written (disk full, quota, no permission); the file that was there before is as it was.

    The command line prints the finding without a traceback and exits with code 1.
    """

    def __init__(self, finding: Finding) -> None:
        self.finding = finding
        super().__init__(str(finding))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.finding,), self.__dict__


_RELAYED = "_incdet_relayed"
Error = TypeVar("Error", bound=BaseException)


def relayed(error: Error) -> Error:
    """``error`` with the mark that another process of the run has raised it, who tells it."""
    setattr(error, _RELAYED, True)
    return error


def is_relayed(error: BaseException) -> bool:
    """Whether another process of the run raised it first, and tells it."""
    return bool(getattr(error, _RELAYED, False))
