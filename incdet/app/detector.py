"""The detector that a configuration describes, or names."""

from __future__ import annotations

import torch

from incdet.config import Config
from incdet.config.architecture import Architecture
from incdet.data.protocols import Protocol
from incdet.errors import Finding, InputError
from incdet.network import checkpoint
from incdet.network.retinanet import IncrementalRetinaNet
from incdet.vocab import Vocabulary


def build_model(config: Config, vocabulary: Vocabulary) -> IncrementalRetinaNet:
    """The detector of ``config.model``; its weights are a function of the seed (and of the weights file)."""
    torch.manual_seed(config.seed)
    return IncrementalRetinaNet(config.model.architecture, vocabulary, config.model.weights)


def load_base(config: Config, protocol: Protocol) -> IncrementalRetinaNet | None:
    """The checkpoint that ``config.base`` names, checked against the protocol; None if step 1 is to be trained.

    Raises:
        InputError: The checkpoint cannot be read, or knows other classes than step 1.
    """
    if config.base is None:
        return None
    model = checkpoint.load(config.base).model
    if model.vocab.names != protocol.steps[0]:
        raise InputError(
            Finding(
                str(config.base),
                "class vocabulary",
                f"knows {', '.join(model.vocab.names)}",
                f"the protocol's step 1 has {', '.join(protocol.steps[0])}: use its own checkpoint or protocol",
            )
        )
    wanted, own = config.model.architecture.decisive(), model.architecture.decisive()
    # A weights file may bring its own epsilon, which no configuration names.
    differing = [name for name in wanted if wanted[name] != own[name] and name != "norm_eps"]
    if differing:
        name = differing[0]
        raise InputError(
            Finding(
                str(config.base),
                f"architecture, {name}",
                f"is {own[name]!r}, the configuration says {wanted[name]!r}",
                "give the model section that the checkpoint was trained with",
            )
        )
    return model


def describe(architecture: Architecture) -> str:
    """A detector in a few words, for tables."""
    name = architecture.detector or f"RetinaNet {architecture.backbone} FPN-{architecture.channels}"
    return f"{name}, {'/'.join(str(size) for size in architecture.min_size)} px"
