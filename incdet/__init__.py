"""incdet: incremental object detection on torchvision's RetinaNet.

``import incdet`` loads nothing heavy; a name below is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "Architecture",
    "Config",
    "Detector",
    "Finding",
    "IncrementalRetinaNet",
    "InputError",
    "Recipe",
    "Vocabulary",
    "__version__",
    "evaluate",
    "evaluate_checkpoint",
    "extend",
    "finetune_custom",
    "from_torchvision",
    "load",
    "load_config",
    "load_detector",
    "predict",
    "save",
    "to_torchvision",
    "train",
    "write_report",
]

if TYPE_CHECKING:
    from incdet.app.evaluate import evaluate
    from incdet.app.evaluate import evaluate as evaluate_checkpoint
    from incdet.app.extend import extend
    from incdet.app.extend import extend as finetune_custom
    from incdet.app.load import Detector, load
    from incdet.app.predict import predict
    from incdet.app.train import train
    from incdet.config import Config, load_config
    from incdet.config.architecture import Architecture
    from incdet.config.architecture import Architecture as Recipe
    from incdet.errors import Finding, InputError
    from incdet.network.checkpoint import save
    from incdet.network.importing import load_detector
    from incdet.network.retinanet import IncrementalRetinaNet
    from incdet.network.torchvision import from_torchvision, to_torchvision
    from incdet.report.html import write_report
    from incdet.vocab import Vocabulary

_HOME = {
    "Architecture": "incdet.config.architecture:Architecture",
    "Config": "incdet.config:Config",
    "Detector": "incdet.app.load:Detector",
    "Finding": "incdet.errors:Finding",
    "IncrementalRetinaNet": "incdet.network.retinanet:IncrementalRetinaNet",
    "InputError": "incdet.errors:InputError",
    "Recipe": "incdet.config.architecture:Architecture",  # its name in earlier versions
    "Vocabulary": "incdet.vocab:Vocabulary",
    "evaluate": "incdet.app.evaluate:evaluate",
    "evaluate_checkpoint": "incdet.app.evaluate:evaluate",  # the name of before
    "extend": "incdet.app.extend:extend",
    "finetune_custom": "incdet.app.extend:extend",  # the name of before
    "from_torchvision": "incdet.network.torchvision:from_torchvision",
    "load": "incdet.app.load:load",
    "load_config": "incdet.config:load_config",
    "load_detector": "incdet.network.importing:load_detector",
    "predict": "incdet.app.predict:predict",
    "save": "incdet.network.checkpoint:save",
    "to_torchvision": "incdet.network.torchvision:to_torchvision",
    "train": "incdet.app.train:train",
    "write_report": "incdet.report.html:write_report",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'incdet' has no attribute {name!r}")
    module, _, attribute = _HOME[name].partition(":")
    value = getattr(import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
