"""``incdet keys``: what can be set."""

from __future__ import annotations

import argparse
import json

from incdet.app.verbs.verb import Verb


def keys(arguments: argparse.Namespace) -> int:
    """Prints every setting, its default and its meaning."""
    del arguments
    from incdet.config import describe_keys
    from incdet.methods.registry import describe_settings

    for key, default, description in describe_keys():
        print(f"{key} [{default}]\n    {description}")
    for setting in describe_settings():
        print(f"{setting.key} [{json.dumps(setting.value)}]\n    {setting.description}")
    return 0


VERB = Verb("list the settings, their defaults and meanings", "incdet keys | grep memory", lambda parser: None, keys)
