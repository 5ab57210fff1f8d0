"""Suite ``distill``: a whole distillation step, with the teacher online and cached, against two torchvision models.

Theirs is what one writes first: a student RetinaNet with K = 15 + 5 classes and a teacher RetinaNet with K = 15, each
of which transforms the batch itself, torchvision's ``compute_loss``, and distillation over all anchors (sigmoid BCE on
the old logits, L1 on the box offsets). Ours is the method ``incdet`` from the same weights, pseudo-labels included.

The last case has no torchvision in it: its ``theirs`` is our own step without a teacher, so that the ratio says what
distillation costs once the teacher's responses are cached.
"""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.harness import Equality, Options, Row, measure
from benchmarks.training import RATE, HostBatch, OurStep, Size, make_batch
from incdet.config.architecture import Architecture
from incdet.data.dataset import DetectionDataset, collate
from incdet.data.records import Record
from incdet.data.resize import Geometry
from incdet.distillation.cache import CachedProvider, fill
from incdet.distillation.provider import OnlineProvider, Provider, Teaching
from incdet.distillation.teacher import Teacher
from incdet.distillation.terms import PseudoLabels
from incdet.distillation.thresholds import Thresholds
from incdet.methods.registry import get_method
from incdet.network.retinanet import IncrementalRetinaNet
from incdet.network.torchvision import to_torchvision
from incdet.training.criterion import Criterion, MethodCriterion
from incdet.vocab import Vocabulary

OLD, NEW = 15, 5
SPREAD, LOUD = 4.0, 0.005
"""Standard deviation of the teacher's logits, and the share of anchors it gives a score above 0.05: as when trained."""


class LossInputs(NamedTuple):
    """What both sides start from, on the host.

    Attributes:
        dataset: B pictures without augmentation.
        batch: All of them.
        before: The detector of 15 classes.
        student: It, grown by 5 classes.
    """

    dataset: DetectionDataset
    batch: HostBatch
    before: IncrementalRetinaNet
    student: IncrementalRetinaNet


def rows(options: Options) -> Iterator[Row]:
    """ResNet-50 FPN-256 at 512 px on a GPU, ResNet-18 FPN-128 at 256 px on a CPU."""
    size, channels = Size("resnet18", 4, 256, OLD + NEW), 128
    if options.quick:
        size, channels = Size("resnet18", 2, 96, OLD + NEW), 32
    elif options.device == "cuda":
        size, channels = Size("resnet50", 8, 512, OLD + NEW), 256
    with tempfile.TemporaryDirectory() as folder:
        scene = make_scene(size, channels, Path(folder))
        criteria = make_criteria(scene, options.device)
        equality = _equality(scene, criteria, options.device)
        students = [copy.deepcopy(scene.student).to(options.device) for _ in criteria]
        online, cached, plain = (
            OurStep(student, scene.batch, options.device, make(student))
            for student, make in zip(students, criteria, strict=True)
        )
        theirs = naive_step(scene, options.device)
        rounds = options.rounds if options.device == "cuda" or options.quick else 7
        yield measure("distill", "online", online, theirs, equality, options, rounds)
        yield measure("distill", "cached", cached, theirs, equality, options, rounds)
        yield measure("distill", "cached vs plain", cached, plain, equality, options, rounds)


def make_scene(size: Size, channels: int, folder: Path) -> LossInputs:
    """Random pictures in ``folder`` with objects of the new classes, and a teacher that finds something in them."""
    torch.manual_seed(0)
    architecture = Architecture(
        backbone=size.backbone, channels=channels, norm_module="frozen", min_size=(size.pixels,), max_size=size.pixels
    )
    names = [f"class {number}" for number in range(OLD + NEW)]
    before = IncrementalRetinaNet(architecture, Vocabulary((tuple(names[:OLD]),)))
    before.freeze_stages(2)  # as with pretrained weights
    before.freeze_norm()
    given = make_batch(size._replace(classes=NEW))
    records = [_record(folder, number, *one, names[OLD:]) for number, one in enumerate(zip(*given, strict=True))]
    student = copy.deepcopy(before)
    student.grow(names[OLD:])
    dataset = DetectionDataset(records, student.vocab, geometry=Geometry(size.pixels, size.pixels))
    batch = HostBatch(*collate([dataset[(0, index)] for index in range(len(dataset))]))
    _sharpen(before, batch)
    student.class_head.predictors[0].load_state_dict(before.class_head.predictors[0].state_dict())
    return LossInputs(dataset, batch, before, student)


def _record(folder: Path, number: int, image: Tensor, target: dict[str, Tensor], names: Sequence[str]) -> Record:
    file = folder / f"{number}.png"
    cv2.imwrite(str(file), cv2.cvtColor(image.permute(1, 2, 0).numpy(), cv2.COLOR_RGB2BGR))
    height, width = image.shape[1:]
    own = tuple(names[label] for label in target["labels"].tolist())
    ignore = np.zeros(len(own), bool)
    return Record(file, number, width, height, target["boxes"].numpy(), own, ignore, frozenset(names))


@torch.no_grad()
def _sharpen(model: IncrementalRetinaNet, batch: HostBatch) -> None:
    """Gives the logits the spread and the level of a trained detector's."""
    predictor = model.class_head.predictors[0]
    assert isinstance(predictor, nn.Conv2d) and predictor.bias is not None
    logits = model.eval().dense(model.prepare(batch.images)).logits
    predictor.weight.mul_(SPREAD / logits.std())
    strongest = model.dense(model.prepare(batch.images)).logits.amax(dim=-1).flatten()
    loudest = strongest.kthvalue(round((1 - LOUD) * len(strongest))).values
    predictor.bias.add_(math.log(0.05 / 0.95) - loudest)


def make_criteria(scene: LossInputs, device: str) -> list[Callable[[IncrementalRetinaNet], Criterion]]:
    """For a student: the criterion with the teacher online, with its answers cached, and without a teacher."""
    method, thresholds = get_method("incdet").speaking(), Thresholds((0.3,) * OLD, (0.15,) * OLD)
    terms = [
        term.model_copy(update={"fitted": thresholds}) if isinstance(term, PseudoLabels) else term
        for term in method.terms
    ]
    method = replace(method, terms=tuple(terms))
    teaching = Teaching({"old": Teacher(scene.before)}, method.terms).to(device)
    step = OurStep(copy.deepcopy(scene.student), scene.batch, device)
    with step.precision.autocast():
        held = fill(teaching, step.model, scene.dataset, (False,), budget=1 << 34)
    assert held is not None

    def taught(answering: Callable[[IncrementalRetinaNet], Provider]) -> Callable[[IncrementalRetinaNet], Criterion]:
        return lambda student: MethodCriterion(method, student, answering(student))

    return [
        taught(lambda student: OnlineProvider(teaching, student)),
        taught(lambda student: CachedProvider(held, student)),
        lambda student: MethodCriterion(get_method("finetune"), student),
    ]


def naive_step(scene: LossInputs, device: str) -> Callable[[], float]:
    """A call is one iteration with two torchvision RetinaNets; returns the loss."""
    student: Any
    teacher: Any
    student, teacher = (to_torchvision(model).to(device) for model in (scene.student, scene.before))
    student.train()
    teacher.eval().requires_grad_(False)
    parameters = [parameter for parameter in student.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=RATE, momentum=0.9, weight_decay=1e-4)
    floats = [image if image.is_floating_point() else image.float().div(255) for image in scene.batch.images]
    boxed = [{key: target[key] for key in ("boxes", "labels")} for target in scene.batch.targets]

    def step() -> float:
        images = [image.to(device) for image in floats]
        targets = [{key: value.to(device) for key, value in target.items()} for target in boxed]
        batch, resized = student.transform(images, targets)
        features = list(student.backbone(batch.tensors).values())
        outputs = student.head(features)
        losses = student.compute_loss(resized, outputs, student.anchor_generator(batch, features))
        with torch.no_grad():
            again, _ = teacher.transform(images)
            known = teacher.head(list(teacher.backbone(again.tensors).values()))
        old, wanted = outputs["cls_logits"][..., :OLD], known["cls_logits"].sigmoid()
        losses["kd_class"] = F.binary_cross_entropy_with_logits(old, wanted)
        losses["kd_box"] = F.l1_loss(outputs["bbox_regression"], known["bbox_regression"])
        total = sum(losses.values())
        value = total.item()
        if not math.isfinite(value):
            raise ArithmeticError(f"loss is {losses}")
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        return float(value)

    return step


def _equality(
    scene: LossInputs, criteria: Sequence[Callable[[IncrementalRetinaNet], Criterion]], device: str
) -> Equality:
    """All losses of one forward, online and cached: within 1e-5 of their size or of 1; 2e-2 in a GPU's bfloat16."""
    step = OurStep(copy.deepcopy(scene.student), scene.batch, device)
    with torch.no_grad(), step.precision.autocast():
        batch = step.model.with_stem(step.prepare())
        outputs, found = step.model(batch), []
        for make in criteria[:2]:
            criterion = make(step.model)
            targets = criterion.targets(batch)
            found.append(criterion(outputs, targets, targets.counts))
    online, cached = found
    gap = max(float((value - cached[name]).abs() / value.abs().clamp(min=1)) for name, value in online.items())
    holds = online.keys() == cached.keys() and gap <= (1e-5 if device == "cpu" else 2e-2)
    return Equality(holds, f"{len(online)} losses of online and cached within {gap:.1e}")
