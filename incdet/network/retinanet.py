"""The detector: torchvision's RetinaNet with one class predictor per increment; ``dense`` is where the network runs.

Shape letters: B images, A anchors over all levels, K seen classes, L levels, M boxes, C channels.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, overload

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator

from incdet.config.architecture import EXTERNAL, Architecture
from incdet.errors import Finding, InputError
from incdet.network.backbones import (
    BATCH_NORMS,
    body_stages,
    build_backbone,
    freeze_first_stages,
    level_sizes,
    run_after_stem,
    run_stem,
    same_modules,
    stem_names,
    trainable_stages,
)
from incdet.network.bn_folding import fold_norms
from incdet.network.calibration import Calibration
from incdet.network.heads import ClassHead, build_box_head, build_tower, norm_layer
from incdet.network.settings import TorchvisionSettings
from incdet.network.targets import Target, check_targets, resized_targets, scale_boxes
from incdet.network.transform import Shape, batch_images, shapes_after_resizing
from incdet.network.weights import State, load_weights, read_weights
from incdet.ops.assign import Assignment, assign
from incdet.ops.losses import box_loss, focal_loss
from incdet.ops.postprocess import select_detections
from incdet.ops.precedence import with_precedence
from incdet.vocab import Vocabulary

__all__ = ["HeadOutputs", "IncrementalRetinaNet", "ImageBatch", "Target", "coverage_mask"]

# Photographs of all formats pad to some hundred shapes, whose anchors together would fill a gigabyte.
CACHED_SHAPES = 32


class ImageBatch(NamedTuple):
    """A batch after resizing, normalising and padding: once, shared by teacher and student.

    Attributes:
        images: (B, 3, H, W) float32.
        image_sizes: (height, width) of each image after resizing, without padding.
        original_sizes: (height, width) as given.
        targets: One dict per image with ``boxes`` in resized pixels, other keys as given; None where none were.
        static: The padded shape is the same for every batch, and so may be every shape that is made of it.
        stem: (B, C', H', W'), what the frozen leading children of a body make of ``images``; None where they have not
            run yet. Networks that share the stem need not compute it twice.
    """

    images: Tensor
    image_sizes: list[tuple[int, int]]
    original_sizes: list[tuple[int, int]]
    targets: list[Target] | None
    static: bool = False
    stem: Tensor | None = None

    @property
    def padded(self) -> tuple[int, int]:
        """(H, W)."""
        return int(self.images.shape[-2]), int(self.images.shape[-1])

    def pieces(self, number: int) -> list[ImageBatch]:
        """The batch as ``number`` micro-batches of one canvas, as even as can be; fewer where images are."""
        images = len(self.images)
        ends = [images * part // number for part in range(number + 1)]
        return [self.part(start, end) for start, end in itertools.pairwise(ends) if end > start]

    def part(self, start: int, end: int | None = None) -> ImageBatch:
        """The images from ``start`` up to ``end``, in the canvas of all."""
        return self._replace(
            images=self.images[start:end],
            image_sizes=self.image_sizes[start:end],
            original_sizes=self.original_sizes[start:end],
            targets=None if self.targets is None else self.targets[start:end],
            stem=None if self.stem is None else self.stem[start:end],
        )


class HeadOutputs(NamedTuple):
    """One forward of the network.

    Attributes:
        logits: (B, A, K).
        deltas: (B, A, 4), class-agnostic box offsets.
        features: L x (B, C, H_l, W_l).
        anchors: (A, 4) float32 xyxy in pixels of the padded batch.
        members: Where several networks answer together (``incdet.network.paired``), the outputs of each.
    """

    logits: Tensor
    deltas: Tensor
    features: list[Tensor]
    anchors: Tensor
    members: tuple[HeadOutputs, ...] = ()


class IncrementalRetinaNet(TorchvisionSettings, nn.Module):
    """A RetinaNet whose classes come in increments; ``model(images, targets)`` behaves as torchvision's does.

    Torchvision's attributes (``score_thresh``, ``transform.min_size``, ...) can be read and set as there.

    Args:
        architecture: What to build.
        vocab: The classes, one predictor for each of its steps.
        weights: None, a torchvision name (may download), a local file, or tensors; predictors always start fresh.
        backbone: A module to use instead of building one: (B, 3, H, W) -> a map or an ordered dict of L maps with
            ``architecture.channels`` channels. It is used as it is; ``architecture.backbone`` is ``"external"`` unless
            the caller knows that the architecture builds the same module.

    Attributes:
        calibration: What its scores were found to be worth, kept wherever the detector goes; None if nobody measured.

    Raises:
        InputError: The weights do not fit.
    """

    def __init__(
        self,
        architecture: Architecture,
        vocab: Vocabulary,
        weights: str | Path | State | None = None,
        *,
        backbone: nn.Module | None = None,
    ) -> None:
        super().__init__()
        state, eps = read_weights(weights, architecture) if weights is not None else (None, None)
        architecture = _resolved(architecture, weights is not None, eps)
        self.vocab = vocab
        self.backbone = backbone if backbone is not None else build_backbone(architecture)
        norm = norm_layer(architecture.norm, architecture.channels, architecture.norm_groups)
        width, anchors = architecture.channels, architecture.anchors_per_cell
        self.class_head = ClassHead(
            build_tower(width, architecture.tower_depth, norm), width, anchors, [len(step) for step in vocab.steps]
        )
        self.box_head = build_box_head(
            width, anchors, build_tower(width, architecture.tower_depth, norm), architecture.box_loss
        )
        self.calibration: Calibration | None = None
        self._anchors: dict[tuple[Any, ...], Tensor] = {}
        self._external_grids: dict[tuple[int, int], list[tuple[int, int]]] = {}
        if state is not None:
            source = "state dict" if isinstance(weights, Mapping) else str(weights)
            load_weights(source, state, self.backbone, self.class_head.tower, self.box_head)
            # Without weights nothing is held back, as in torchvision: nobody has trained that body yet.
            freeze_first_stages(self.backbone, len(body_stages(self.backbone)) - architecture.trainable_layers)
        self.architecture = architecture.changed(trainable_layers=trainable_stages(self.backbone))
        if architecture.frozen_norm:
            self.freeze_norm()
        elif architecture.norm_module == "frozen":
            fold_norms(self)

    @property
    def recipe(self) -> Architecture:
        """The name of ``architecture`` in earlier versions."""
        return self.architecture

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    def train(self, mode: bool = True) -> IncrementalRetinaNet:
        """As ``nn.Module.train``, but frozen BatchNorm stays in evaluation mode."""
        super().train(mode)
        if self.architecture.frozen_norm:
            for module in self.modules():
                if isinstance(module, BATCH_NORMS):
                    module.eval()
        return self

    def prepare(
        self,
        images: Sequence[Tensor] | Tensor,
        targets: Sequence[Mapping[str, Any]] | None = None,
        *,
        canvas: Shape | None = None,
    ) -> ImageBatch:
        """Validates, moves to the model's device, resizes, normalises and pads a batch.

        With several ``min_size`` values a training model draws one per image and call, so call it once per batch.
        Where images and targets come from the host, the host waits for no device.

        Args:
            images: (3, H, W) float in [0, 1] or uint8 in 0..255, any sizes; or one (B, 3, H, W) tensor. A uint8 image
                that already has the size of ``incdet.ops.sizes.resized_shape`` is not resized again.
            targets: ``boxes`` (M, 4) xyxy pixels and ``labels`` (M,) int64 columns per image; other keys are kept.
            canvas: (H, W) to pad every batch to, so that its shape is always the same.

        Raises:
            InputError: A box is degenerate or not finite, a label is not a column of the vocabulary, an image has
                another form, or is larger than the canvas.
        """
        if targets is not None:
            check_targets(images, targets, self.vocab)
        shapes = shapes_after_resizing(images, self.architecture, training=self.training)
        original = [(int(image.shape[-2]), int(image.shape[-1])) for image in images]
        batch = batch_images(images, shapes, self.architecture, self.device, canvas)
        resized = None if targets is None else resized_targets(targets, original, shapes, self.device)
        return ImageBatch(batch, shapes, original, resized, canvas is not None)

    @property
    def has_stem(self) -> bool:
        """Whether leading children of the body are frozen as a whole, so that ``dense`` gives their output."""
        return bool(self._stem_names())

    def shares_stem(self, other: IncrementalRetinaNet, same: Callable[..., bool] = same_modules) -> bool:
        """Whether both have a stem and its modules and tensors are the same, bit for bit, or as ``same`` says."""
        names = self._stem_names()
        if not names or names != other._stem_names():
            return False
        mine, theirs = (network.backbone.get_submodule("body") for network in (self, other))
        return all(same(mine.get_submodule(name), theirs.get_submodule(name)) for name in names)

    def with_stem(self, batch: ImageBatch) -> ImageBatch:
        """The batch with its stem run, without a graph, where this network has one."""
        names = [] if batch.stem is not None or batch.images.requires_grad else self._stem_names()
        return batch._replace(stem=run_stem(self.backbone, names, batch.images)) if names else batch

    def dense(self, batch: ImageBatch) -> HeadOutputs:
        """The network's one forward pass, from the batch's stem where that has run.

        Raises:
            ValueError: The batch has a stem, but this network has none.
        """
        batch = self.with_stem(batch)
        if batch.stem is None:
            maps = self.backbone(batch.images)
        elif names := self._stem_names():
            maps = run_after_stem(self.backbone, names, batch.stem)
        else:
            raise ValueError("a stem is given, but no leading child of this body is frozen as a whole")
        features = [maps] if isinstance(maps, Tensor) else list(maps.values())
        grids = [(int(feature.shape[-2]), int(feature.shape[-1])) for feature in features]
        return HeadOutputs(
            self.class_head(features), self.box_head(features), features, self.anchors(batch.padded, grids)
        )

    def grids(self, batch: ImageBatch) -> list[tuple[int, int]]:
        """(H_l, W_l) of every level for a batch of its shape, before any forward."""
        if self.architecture.backbone != EXTERNAL:
            return level_sizes(batch.padded, self.architecture.levels)
        if batch.padded not in self._external_grids:
            with torch.no_grad():
                maps = copy.deepcopy(self.backbone).eval()(torch.zeros_like(batch.images[:1]))
            features = [maps] if isinstance(maps, Tensor) else list(maps.values())
            self._external_grids[batch.padded] = [(int(one.shape[-2]), int(one.shape[-1])) for one in features]
        return self._external_grids[batch.padded]

    def batch_anchors(self, batch: ImageBatch) -> Tensor:
        """``HeadOutputs.anchors`` of a batch, before any forward."""
        return self.anchors(batch.padded, self.grids(batch))

    def _stem_names(self) -> list[str]:
        external = self.architecture.backbone == EXTERNAL
        return [] if external else stem_names(self.backbone, self.architecture.trainable_layers)

    def anchors(self, padded: tuple[int, int], grids: Sequence[tuple[int, int]]) -> Tensor:
        """The anchors (A, 4) of a padded batch and its levels, float32 whatever the network computes in.

        torchvision computes them in the features' dtype; in bfloat16 that moves two in five by up to 2 px at 512 px.
        """
        device = self.device
        key = (padded, tuple(grids), device, self.architecture.anchor_sizes, self.architecture.ratios)
        known = self._anchors.get(key)
        if known is None:
            # A tensor made in inference mode could never enter a loss later.
            with torch.inference_mode(False), torch.no_grad():
                strides = [
                    [torch.tensor(padded[axis] // grid[axis], device=device) for axis in (0, 1)] for grid in grids
                ]
                generator = AnchorGenerator(self.architecture.anchor_sizes, self.architecture.ratios)
                generator.set_cell_anchors(torch.float32, device)
                known = torch.cat(generator.grid_anchors(grids, strides))
            # Nobody changes a dict that another thread may be reading: a new one takes its place.
            latest = list(self._anchors.items())[1 - CACHED_SHAPES :]
            self._anchors = {**dict(latest), key: known}
        return known

    # A NamedTuple is a sequence to the type checker, but no batch of images is an ImageBatch.
    @overload
    def forward(self, images: ImageBatch) -> HeadOutputs: ...  # type: ignore[overload-overlap]
    @overload
    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Mapping[str, Any]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]: ...

    def forward(
        self, images: ImageBatch | Sequence[Tensor], targets: Sequence[Mapping[str, Any]] | None = None
    ) -> HeadOutputs | dict[str, Tensor] | list[dict[str, Tensor]]:
        """A prepared batch -> ``HeadOutputs``; images -> losses while training, detections otherwise, as torchvision.

        Raises:
            InputError: The targets are missing while training, or invalid.
        """
        if isinstance(images, ImageBatch):
            return self.dense(images)
        if self.training and targets is None:
            raise InputError(
                Finding("targets", "batch", "is missing while training", "pass targets, or call eval() for detections")
            )
        prepared = self.prepare(images, targets)
        dense = self.dense(prepared)
        if self.training:
            return self.compute_losses(dense, prepared.targets or [])
        return self.detections(dense, prepared)

    def match(
        self, anchors: Tensor | HeadOutputs, targets: Sequence[Mapping[str, Any]], *, static: bool = False
    ) -> Assignment:
        """Which box every anchor answers for, by this detector's own thresholds: whoever trains it asks here.

        Args:
            anchors: (A, 4) float32 xyxy in pixels of the padded batch, or the outputs that hold them.
            targets: One mapping per image in the same pixels, as ``incdet.ops.assign.assign`` takes them.
            static: No output shape depends on the data, and the host waits for no device.
        """
        anchors = anchors.anchors if isinstance(anchors, HeadOutputs) else anchors
        return assign(targets, anchors, high=self.architecture.fg_iou, low=self.architecture.bg_iou, static=static)

    def compute_losses(self, dense: HeadOutputs, targets: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """The losses of torchvision, float32 scalars; a target with ``coverage`` speaks for those columns only."""
        assignment = self.match(dense, targets)
        coverage = coverage_mask(targets, dense.logits.shape[-1], dense.logits.device)
        return {
            "classification": focal_loss(dense.logits, assignment, coverage=coverage),
            "bbox_regression": box_loss(dense.deltas, dense.anchors, assignment, kind=self.architecture.box_loss),
        }

    def believed(self, logits: Tensor) -> Tensor:
        """Logits (B, A, K) as detections are made of them: earlier classes go first; see ``Architecture.precedence``.

        Fewer than K columns are those of the first steps.
        """
        sizes, columns = [], 0
        for names in self.vocab.steps:
            if columns < logits.shape[-1]:
                sizes.append(len(names))
                columns += len(names)
        power = self.architecture.precedence
        return with_precedence(logits, sizes, power) if power and len(sizes) > 1 else logits

    @torch.no_grad()
    def postprocess(
        self, dense: HeadOutputs, image_sizes: Sequence[tuple[int, int]], *, score_thresh: float | None = None
    ) -> list[dict[str, Tensor]]:
        """Detections in prepared pixels: per image ``boxes`` (N, 4), ``scores`` (N,), ``labels`` (N,) columns."""
        return self.select_detections(dense._replace(logits=self.believed(dense.logits)), image_sizes, score_thresh)

    def select_detections(
        self, dense: HeadOutputs, image_sizes: Sequence[tuple[int, int]], score_thresh: float | None = None
    ) -> list[dict[str, Tensor]]:
        """``postprocess`` with the logits as they are."""
        architecture = self.architecture
        level_sizes = [
            feature.shape[-2] * feature.shape[-1] * architecture.anchors_per_cell for feature in dense.features
        ]
        return select_detections(
            dense.logits,
            dense.deltas,
            dense.anchors,
            level_sizes,
            image_sizes,
            score_thresh=architecture.score_thresh if score_thresh is None else score_thresh,
            nms_thresh=architecture.nms_thresh,
            topk=architecture.topk_candidates,
            limit=architecture.detections_per_img,
        )

    def detections(
        self, dense: HeadOutputs, prepared: ImageBatch, *, score_thresh: float | None = None
    ) -> list[dict[str, Tensor]]:
        """``postprocess`` in the pixels of the original images."""
        found = self.postprocess(dense, prepared.image_sizes, score_thresh=score_thresh)
        boxes = scale_boxes([image["boxes"] for image in found], prepared.image_sizes, prepared.original_sizes)
        return [{**image, "boxes": scaled} for image, scaled in zip(found, boxes, strict=True)]

    def grow(self, names: Sequence[str], init: str = "prior", source_ids: Mapping[str, int] | None = None) -> None:
        """Adds an increment; no earlier parameter moves, and earlier logits stay but for rounding.

        Args:
            names: The new classes.
            init: See ``ClassHead.grow``.
            source_ids: Their category ids in the annotation file, where known.

        Raises:
            InputError: A name is already known; the network is left as it was.
        """
        vocab = self.vocab.grow(names, source_ids)
        self.class_head.grow(len(names), init)
        self.vocab = vocab

    def freeze_norm(self) -> None:
        """Fixes statistics and affine parameters of every BatchNorm for good; ``train()`` does not wake them."""
        self.architecture = self.architecture.changed(frozen_norm=True)
        for module in self.modules():
            if isinstance(module, BATCH_NORMS):
                module.eval().requires_grad_(False)
        fold_norms(self)

    def freeze_stages(self, number: int) -> None:
        """Stops the first ``number`` stages of the body from learning; the stem is the first.

        Raises:
            ValueError: The body has fewer stages, or ``number`` is negative.
        """
        stages = len(body_stages(self.backbone))
        if not 0 <= number <= stages:
            raise ValueError(f"the body has {stages} stages; cannot freeze {number}")
        freeze_first_stages(self.backbone, number)
        self.architecture = self.architecture.changed(trainable_layers=trainable_stages(self.backbone))

    def trainable_names(self) -> list[str]:
        """Names of the parameters that learn, in their order."""
        return [name for name, parameter in self.named_parameters() if parameter.requires_grad]


def coverage_mask(targets: Sequence[Mapping[str, Any]], classes: int, device: torch.device) -> Tensor | None:
    """(B, K) bool of the annotated columns, or None where no target restricts them."""
    masks = [target.get("coverage") for target in targets]
    if all(mask is None for mask in masks):
        return None
    full = torch.ones(classes, dtype=torch.bool, device=device)
    return torch.stack([full if mask is None else mask.to(device) for mask in masks])


def _resolved(architecture: Architecture, pretrained: bool, eps: float | None) -> Architecture:
    """The architecture with torchvision's habits written down, so that a rebuilt network behaves the same."""
    changes: dict[str, Any] = {}
    if architecture.frozen_norm is None:
        changes["frozen_norm"] = pretrained and architecture.detector != "retinanet_resnet50_fpn_v2"
    if eps is not None and architecture.norm_eps is None:
        changes["norm_eps"] = eps
    return architecture.changed(**changes)
