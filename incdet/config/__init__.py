"""Configuration: YAML file and overrides in, one checked ``Config`` out."""

from __future__ import annotations

from incdet.config.reading import describe_keys, load_config, parse_config
from incdet.config.schema import (
    Augment,
    Config,
    Data,
    Engine,
    Evaluation,
    Extension,
    JointSchedule,
    Limit,
    Memory,
    Model,
    Protocol,
    Schedule,
    Split,
    Train,
)

__all__ = [
    "Augment",
    "Config",
    "Data",
    "Engine",
    "Evaluation",
    "Extension",
    "Limit",
    "Memory",
    "Model",
    "Protocol",
    "JointSchedule",
    "Schedule",
    "Split",
    "Train",
    "describe_keys",
    "load_config",
    "parse_config",
]
