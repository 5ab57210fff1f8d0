"""``incdet train``: a protocol from step 1 to the last."""

from __future__ import annotations

import argparse
from pathlib import Path

from incdet.app.processes import say
from incdet.app.verbs.verb import Verb, add_overrides, override, words_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A configuration file, what replaces parts of it, and whether a stopped run goes on."""
    parser.add_argument("--config", required=True, type=Path, metavar="FILE", help="YAML file, see configs/")
    parser.add_argument("--method", type=words_of, metavar="NAME[,NAME]", help="methods, in place of the file's")
    parser.add_argument("--without", type=words_of, metavar="PART[,PART]", help="parts to take away (ablation)")
    parser.add_argument("--resume", action="store_true", help="go on with a run that was stopped")
    add_overrides(parser)


def train(arguments: argparse.Namespace) -> int:
    """Trains and says where the run is."""
    from incdet.app.run_folder import frozen_config, is_frozen
    from incdet.app.unused import idle_keys, refuse_unused
    from incdet.config import load_config
    from incdet.methods.registry import get_method, known_methods

    chosen = {"methods": arguments.method, "without": arguments.without}
    words = [override(key, value) for key, value in chosen.items() if value is not None]
    words = [*arguments.overrides, *words]
    config = (frozen_config if is_frozen(arguments.config) else load_config)(arguments.config, words)
    methods = [get_method(name, config.without, config.method) for name in config.methods]
    idle = config.data.of_other_formats(config.data.format) | idle_keys(methods, list(known_methods()))
    refuse_unused(arguments.overrides, idle, "this run")
    if config.extend is not None:
        from incdet.app.extend import run_extension as run
    else:
        from incdet.app.train import train as run
    say(f"written: {run(config, resume=arguments.resume)}")
    return 0


VERB = Verb(
    "train a protocol: step 1, then every later step with every method",
    "incdet train --config configs/shapes/demo.yaml output=runs/demo seed=1",
    add_arguments,
    train,
    in_processes=True,
)
