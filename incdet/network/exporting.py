"""A detector for programs that know nothing of incdet: TorchScript, ONNX, a torchvision state dict.

Shape letters: B images, A anchors over all levels, K classes, N detections.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from incdet.config.architecture import Architecture
from incdet.network.retinanet import IncrementalRetinaNet
from incdet.network.torchvision import to_torchvision

OPSET = 17
"""Of ONNX: what runtimes of 2022 and later read."""
WHOLE, RAW = ("boxes", "scores", "labels"), ("logits", "deltas", "anchors")
"""Outputs of a network with and without its post-processing."""


def plain_network(model: IncrementalRetinaNet) -> nn.Module:
    """``model`` as torchvision's, on the CPU and in evaluation mode.

    Raises:
        InputError: It is several networks, which torchvision's class cannot be.
    """
    return to_torchvision(model).cpu().eval()


class RawHeads(nn.Module):
    """Images as the detector prepares them, (B, 3, H, W) -> logits (B, A, K), deltas (B, A, 4), anchors (A, 4).

    Args:
        plain: Of ``plain_network``.
    """

    def __init__(self, plain: Any) -> None:
        super().__init__()
        self.backbone, self.head, self.anchor_generator = plain.backbone, plain.head, plain.anchor_generator

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See the class."""
        maps = self.backbone(images)
        features = [maps] if isinstance(maps, Tensor) else list(maps.values())
        found = self.head(features)
        sizes = [(images.shape[-2], images.shape[-1])] * 1
        anchors: Tensor = self.anchor_generator(ImageList(images[:1], sizes), features)[0]
        return found["cls_logits"], found["bbox_regression"], anchors


def write_torchscript(plain: nn.Module, file: Path) -> None:
    """The scripted network: called with a list of pictures it returns losses and torchvision's list of dicts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(plain).save(str(file))  # type: ignore[no-untyped-call]


def run_torchscript(file: Path) -> Callable[[Tensor], dict[str, Tensor]]:
    """What a file of ``write_torchscript`` finds in a picture (3, H, W)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = torch.jit.load(str(file))  # type: ignore[no-untyped-call]

    def run(picture: Tensor) -> dict[str, Tensor]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found: dict[str, Tensor] = loaded([picture])[1][0]
        return found

    return run


def write_onnx(plain: nn.Module, file: Path, sample: Tensor, exporter: str) -> None:
    """Post-processing and all: ``image`` (3, H, W) RGB in 0..1 of any size -> boxes, scores, labels.

    Args:
        plain: Of ``plain_network``.
        file: To write.
        sample: A picture to run through it.
        exporter: One of ``EXPORTERS``.
    """
    axes = {"image": {1: "height", 2: "width"}, **{name: {0: "found"} for name in WHOLE}}
    EXPORTERS[exporter](plain, ([sample],), file, ("image",), WHOLE, axes)


def write_raw_onnx(plain: nn.Module, file: Path, sample: Tensor, exporter: str) -> None:
    """The network alone: ``images`` (B, 3, H, W) resized, normalised and padded -> logits, deltas, anchors.

    Args:
        plain: Of ``plain_network``.
        file: To write.
        sample: A batch to run through it.
        exporter: One of ``EXPORTERS``.
    """
    axes = {"images": {0: "batch", 2: "height", 3: "width"}}
    axes |= {"logits": {0: "batch", 1: "anchors"}, "deltas": {0: "batch", 1: "anchors"}, "anchors": {0: "anchors"}}
    EXPORTERS[exporter](RawHeads(plain).eval(), (sample,), file, ("images",), RAW, axes)


def run_onnx(file: Path) -> Callable[[Tensor], dict[str, NDArray[Any]]]:
    """The outputs by name of an ONNX file for one input, computed by onnxruntime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    given, names = session.get_inputs()[0].name, [output.name for output in session.get_outputs()]

    def run(value: Tensor) -> dict[str, NDArray[Any]]:
        return dict(zip(names, session.run(names, {given: np.asarray(value)}), strict=True))

    return run


def loading_lines(architecture: Architecture, file: str, classes: int) -> list[str] | None:
    """Python that makes torchvision's detector with a state dict of ours; None where torchvision builds no such one."""
    if architecture.detector is None:
        return None
    names = ("min_size", "max_size", "score_thresh", "nms_thresh", "detections_per_img", "topk_candidates")
    settings = ", ".join(f"{name}={getattr(architecture, name)!r}" for name in names)
    lines = [
        "import torch, torchvision",
        f"model = torchvision.models.detection.{architecture.detector}(weights=None, weights_backbone=None, "
        f"num_classes={classes}, {settings})",
        f"model.load_state_dict(torch.load({file!r}, weights_only=True))",
        "model.eval()",
    ]
    if architecture.norm_eps is not None:
        lines += [
            "for module in model.backbone.modules():",
            "    if isinstance(module, torch.nn.BatchNorm2d):",
            f"        module.eps = {architecture.norm_eps!r}",
        ]
    return lines


def _traced(
    network: nn.Module, given: tuple[Any, ...], file: Path, inputs: tuple[str, ...], outputs: tuple[str, ...], axes: Any
) -> None:
    """The exporter that records what a run does; it takes the post-processing of detectors."""
    with _silently():
        torch.onnx.export(
            network,
            given,
            str(file),
            dynamo=False,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes=axes,
            opset_version=OPSET,
        )


def _captured(
    network: nn.Module, given: tuple[Any, ...], file: Path, inputs: tuple[str, ...], outputs: tuple[str, ...], axes: Any
) -> None:
    """The exporter that PyTorch goes on with; in PyTorch 2.14 it refuses the post-processing of detectors."""
    moving = {place: torch.export.Dim.DYNAMIC for place in axes[inputs[0]]}
    shapes: Any = ([moving],) if isinstance(given[0], list) else (moving,)
    with _silently():
        torch.onnx.export(
            network,
            given,
            str(file),
            dynamo=True,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes=shapes,
            external_data=False,
            verbose=False,
        )


EXPORTERS: Mapping[str, Callable[..., None]] = {"tracing": _traced, "torch.export": _captured}
"""PyTorch's exporters to ONNX, the one that can do more today first."""


class _silently(warnings.catch_warnings):  # noqa: N801  a context, named as one reads it
    """Keeps the exporters' warnings and reports off the screen."""

    def __enter__(self) -> Any:
        entered = super().__enter__()
        warnings.simplefilter("ignore")
        self._out = redirect_stdout(io.StringIO())
        self._out.__enter__()
        return entered

    def __exit__(self, *error: Any) -> None:
        self._out.__exit__(*error)
        super().__exit__(*error)
