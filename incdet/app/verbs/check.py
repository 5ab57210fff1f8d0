"""``incdet check``: what is wrong with a data set."""

from __future__ import annotations

import argparse

from incdet.app.verbs.verb import Verb, add_data


def check(arguments: argparse.Namespace) -> int:
    """Prints every finding; the exit code is 2 if one of them is an error."""
    from incdet.app.check import check as findings_of

    findings = findings_of(arguments.data, arguments.images, arguments.split, exif=arguments.exif)
    for finding in findings:
        print(f"{finding.severity}: {finding}")
    errors = sum(finding.severity == "error" for finding in findings)
    print(f"{arguments.data}: {errors} error(s), {len(findings) - errors} warning(s)")
    return 2 if errors else 0


VERB = Verb(
    "report what is wrong with a data set",
    "incdet check --data my.json --images my/",
    add_arguments=add_data,
    run=check,
)
