"""Detectors side by side: the old one stays as it is, the classes of each later step have a network of their own.

What the old detector finds is found bit for bit as before, whatever is learned later: nothing that it computes with is
touched. A later network's detections are added to it. Where it was never told of earlier classes, each score is
multiplied by one minus the highest score that the earlier detectors give to a box over it, for where an old class is
seen no new one stands; a taught one knows for itself, anchor by anchor.

Shape letters: B images, A anchors over all levels, K seen classes, N detections of the earlier, M of the new detector.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

from incdet.config.architecture import EXTERNAL, Architecture
from incdet.errors import Finding, InputError
from incdet.network.backbones import body_stages, same_tensors
from incdet.network.heads import BoxHead, ClassHead, build_box_head, build_tower, norm_layer
from incdet.network.retinanet import HeadOutputs, ImageBatch, IncrementalRetinaNet
from incdet.vocab import Vocabulary

Trunk = Literal["own", "shared", "taught"]
"""``own``: a whole second network. ``shared``: class and box head of their own on the features of the first network.
``taught``: a whole network that was taught the earlier classes too and shows its new ones alone, each score times one
minus its highest earlier score at the anchor."""

OVERLAP = 0.5
"""An earlier detection with a higher IoU takes part of a new one's score."""


class Branch(nn.Module):
    """The heads of a step that read another network's features.

    Args:
        architecture: Of the network whose features they read.
        classes: Number of classes.
    """

    def __init__(self, architecture: Architecture, classes: int) -> None:
        super().__init__()
        width, anchors, depth = architecture.channels, architecture.anchors_per_cell, architecture.tower_depth
        norm = norm_layer(architecture.norm, width, architecture.norm_groups)
        self.class_head = ClassHead(build_tower(width, depth, norm), width, anchors, [classes])
        self.box_head: BoxHead = build_box_head(width, anchors, build_tower(width, depth, norm), architecture.box_loss)


class PairedRetinaNet(IncrementalRetinaNet):
    """The detector of step 1, and a branch for each step that came after; none of it learns any more.

    It is its own first network: the tensors of the old detector keep their names. Made by ``paired``, and by
    ``checkpoint.load`` from a checkpoint of one.

    Args:
        architecture: Of every network in it.
        vocab: All classes; the last steps have a branch each.
        trunks: Of the branches, in their order.
        backbone: The first network's, where the architecture cannot build it; copied for own trunks.
    """

    def __init__(
        self,
        architecture: Architecture,
        vocab: Vocabulary,
        trunks: Sequence[Trunk],
        *,
        backbone: nn.Module | None = None,
    ) -> None:
        first = len(vocab.steps) - len(trunks)
        super().__init__(architecture, Vocabulary(vocab.steps[:first]), backbone=backbone)
        # Nothing in it learns, but its stem ends where it did.
        self.architecture = self.architecture.changed(trainable_layers=architecture.trainable_layers)
        self.vocab, self.trunks = vocab, tuple(trunks)
        self.branches = nn.ModuleList()
        for trunk, names in zip(trunks, vocab.steps[first:], strict=True):
            if trunk == "shared":
                self.branches.append(Branch(architecture, len(names)))
            else:
                known = (*self.vocab.steps[: first + len(self.branches)], names) if trunk == "taught" else (names,)
                own = IncrementalRetinaNet(architecture, Vocabulary(known), backbone=copy.deepcopy(backbone))
                own.architecture = architecture.changed(precedence=1.0) if trunk == "taught" else architecture
                own.freeze_norm()  # as it was when it learned
                self.branches.append(own)
        self.requires_grad_(False).eval()
        self._shared_stems = (False,) * len(self.branches)
        self.register_load_state_dict_post_hook(_look_for_shared_stems)  # type: ignore[no-untyped-call]

    def train(self, _: bool = True) -> PairedRetinaNet:
        """Stays in evaluation mode: nothing in it learns, and live norms would move with what they see."""
        nn.Module.train(self, False)
        return self

    def dense(self, batch: ImageBatch) -> HeadOutputs:
        """The outputs of every network, as ``members``; and what one network would say in their place.

        That is the logits of all classes (K), and at each anchor the box of the network whose class speaks loudest; it
        serves whoever asks for logits or features (teachers, memory). Detections come from ``members``.
        """
        batch = self.with_stem(batch)
        outputs = [super().dense(batch)]
        for branch, shared in zip(self.branches, self._shared_stems, strict=True):
            if isinstance(branch, Branch):
                features, anchors = outputs[0].features, outputs[0].anchors
                outputs.append(HeadOutputs(branch.class_head(features), branch.box_head(features), features, anchors))
            else:
                own = cast(IncrementalRetinaNet, branch)
                outputs.append(newest(own, own.dense(batch if shared else batch._replace(stem=None))))
        deltas, loudest = outputs[0].deltas, outputs[0].logits.amax(dim=-1, keepdim=True)
        for one in outputs[1:]:
            strongest = one.logits.amax(dim=-1, keepdim=True)
            deltas = torch.where(strongest > loudest, one.deltas, deltas)
            loudest = torch.maximum(strongest, loudest)
        logits = torch.cat([one.logits for one in outputs], dim=-1)
        return HeadOutputs(logits, deltas, outputs[0].features, outputs[0].anchors, tuple(outputs))

    @torch.no_grad()
    def postprocess(
        self, dense: HeadOutputs, image_sizes: Sequence[tuple[int, int]], *, score_thresh: float | None = None
    ) -> list[dict[str, Tensor]]:
        """The detections of the first network as they are, and those of the branches; best first.

        Each network keeps its ``detections_per_img``. Outputs without members, such as a teacher keeps, are taken for
        those of one network.
        """
        if not dense.members:
            return super().postprocess(dense, image_sizes, score_thresh=score_thresh)
        least = self.architecture.score_thresh if score_thresh is None else score_thresh
        found: list[dict[str, Tensor]] = []
        column = 0
        for trunk, one in zip((None, *self.trunks), dense.members, strict=True):
            shown = one if column else one._replace(logits=self.believed(one.logits))
            own = self.select_detections(shown, image_sizes, score_thresh)
            if trunk is None:
                found = own
            else:
                apart = trunk == "taught"
                found = [merged(old, new, column, least, apart=apart) for old, new in zip(found, own, strict=True)]
            column += one.logits.shape[-1]
        return found

    def grow(self, *_: object, **__: object) -> None:
        """Refused: there is no one network that all classes could grow in.

        Raises:
            InputError: Always.
        """
        problem = "holds a network for each of its last steps, to which no other method can add classes"
        fix = "learn the step with the method pair, or begin from the checkpoint before"
        raise InputError(Finding("detector", "class vocabulary", problem, fix))


def _look_for_shared_stems(model: PairedRetinaNet, _: object) -> None:
    """Notes which branches begin with the first network's own stem, which then runs once for all of them.

    They were built alike; folded norms only round otherwise.
    """
    model._shared_stems = tuple(
        isinstance(branch, IncrementalRetinaNet) and branch.shares_stem(model, same_tensors)
        for branch in model.branches
    )


def newest(network: IncrementalRetinaNet, outputs: HeadOutputs) -> HeadOutputs:
    """The outputs of a branch with the logits of its last step's classes alone, as its others leave them room."""
    return outputs._replace(logits=network.believed(outputs.logits)[..., -len(network.vocab.steps[-1]) :])


def merged(
    old: dict[str, Tensor], new: dict[str, Tensor], first: int, least: float, *, apart: bool = False
) -> dict[str, Tensor]:
    """The detections of an image by two detectors as one list, the highest score first.

    Args:
        old: ``boxes`` (N, 4) xyxy, ``scores`` (N,), ``labels`` (N,) of the earlier detector: all kept as they are, in
            their order.
        new: The same (M,) of the new one; ``score * (1 - s)``, where s is the highest score of an old box with an IoU
            above ``OVERLAP``.
        first: Column of the new detector's first class.
        least: New detections that score no more are dropped.
        apart: The new detector tells its classes from the old ones: nothing is taken off its scores.
    """
    taken = new["scores"].new_zeros(len(new["scores"]))
    if not apart and len(old["scores"]) and len(new["scores"]):
        over = box_iou(new["boxes"], old["boxes"]) > OVERLAP
        taken = torch.where(over, old["scores"], 0.0).amax(dim=1)
    scores = new["scores"] * (1 - taken)
    kept = scores > least
    joined = {
        "boxes": torch.cat([old["boxes"], new["boxes"][kept]]),
        "scores": torch.cat([old["scores"], scores[kept]]),
        "labels": torch.cat([old["labels"], new["labels"][kept] + first]),
    }
    order = torch.sort(joined["scores"], descending=True, stable=True).indices
    return {key: value[order] for key, value in joined.items()}


def newcomer(before: IncrementalRetinaNet, names: Sequence[str], trunk: Trunk) -> IncrementalRetinaNet:
    """A network that is to learn ``names`` beside ``before``: a copy of its first network with a new predictor.

    With an own trunk the stages learn that ``before.architecture.trainable_layers`` says, with a shared one the heads
    alone, for the features have to stay those of ``before``.
    """
    backbone = copy.deepcopy(before.backbone)
    model = IncrementalRetinaNet(before.architecture, Vocabulary((tuple(names),)), backbone=backbone)
    model.to(before.device).requires_grad_(True)
    model.class_head.tower.load_state_dict(before.class_head.tower.state_dict())
    model.box_head.load_state_dict(before.box_head.state_dict())
    if trunk == "shared":
        model.freeze_stages(len(body_stages(model.backbone)))
        model.backbone.requires_grad_(False)
    elif before.architecture.backbone == EXTERNAL and not isinstance(before, PairedRetinaNet):
        for own, given in zip(model.backbone.parameters(), before.backbone.parameters(), strict=True):
            own.requires_grad_(given.requires_grad)
    else:
        _freeze_as(before.architecture, model)
    model.freeze_norm()
    return model


def pupil(before: IncrementalRetinaNet) -> IncrementalRetinaNet:
    """The one network that knows all classes of ``before`` and can grow: itself, or a copy of its last, taught branch.

    Raises:
        InputError: Its last branch knows its own classes alone.
    """
    if not isinstance(before, PairedRetinaNet):
        return before
    if before.trunks[-1] != "taught":
        problem = f"has no one network of all its classes: the last branch is of the kind {before.trunks[-1]!r}"
        fix = "learn with method.pair.branch.trunk=own or shared, or begin from the checkpoint before"
        raise InputError(Finding("detector", "branch", problem, fix))
    model = copy.deepcopy(cast(IncrementalRetinaNet, before.branches[-1]))
    model.architecture = before.architecture
    model.requires_grad_(True)
    _freeze_as(before.architecture, model)
    model.freeze_norm()
    return model


def _freeze_as(architecture: Architecture, model: IncrementalRetinaNet) -> None:
    model.freeze_stages(max(len(body_stages(model.backbone)) - architecture.trainable_layers, 0))


def paired(before: IncrementalRetinaNet, after: IncrementalRetinaNet, trunk: Trunk) -> PairedRetinaNet:
    """``before`` with the classes of ``after`` beside it, both copied; in evaluation mode, on the device of ``before``.

    Args:
        before: The old detector, of one network or several.
        after: A trained ``newcomer`` to it; for a ``taught`` trunk a network that all earlier classes have grown into.
        trunk: What it was made with.

    Raises:
        InputError: A class of ``after`` is known already.
    """
    trunks = (*(before.trunks if isinstance(before, PairedRetinaNet) else ()), trunk)
    names = after.vocab.steps[-1] if trunk == "taught" else after.vocab.names
    ids = {name: number for name, number in (after.vocab.source_ids or {}).items() if name in names}
    vocab = before.vocab.grow(names, ids or None)
    external = copy.deepcopy(before.backbone) if before.architecture.backbone == EXTERNAL else None
    with torch.device("meta"):
        model = PairedRetinaNet(before.architecture, vocab, trunks, backbone=external)
    place = f"branches.{len(trunks) - 1}."
    new = {f"{place}{name}": value for name, value in after.state_dict().items()}
    if trunk == "shared":
        new = {name: value for name, value in new.items() if not name.startswith(f"{place}backbone.")}
    state = {**before.state_dict(), **new}
    model.load_state_dict(
        {name: value.detach().clone().to(before.device) for name, value in state.items()}, assign=True
    )
    model.architecture = before.architecture
    model.calibration = before.calibration
    return model
