"""``incdet methods``: what can be trained."""

from __future__ import annotations

import argparse

from incdet.app.verbs.verb import Verb


def methods(arguments: argparse.Namespace) -> int:
    """Prints every method, its source and its parts."""
    del arguments
    from incdet.methods.registry import known_methods

    for method in known_methods().values():
        print(f"{method.name:<10} {method.source}\n{'':<10} parts: {', '.join(method.parts) or 'none'}")
    return 0


VERB = Verb("list the methods and their parts", "incdet methods", lambda parser: None, methods)
