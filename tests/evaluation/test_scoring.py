from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from incdet.data.records import Record
from incdet.evaluation.coco import coco_scores
from incdet.evaluation.detections import Detections, detect
from incdet.evaluation.metrics import average_precision
from incdet.evaluation.scoring import _aligned, changes, match, score

NAMES = ("cat", "dog", "bird")
ALL = frozenset((*NAMES, "boat"))


def record(
    image_id: int,
    boxes: Any = (),
    names: Sequence[str] = (),
    ignore: Any = None,
    coverage: frozenset[str] = ALL,
) -> Record:
    flags = np.zeros(len(boxes), bool) if ignore is None else np.array(ignore, bool)
    corners = np.array(boxes, np.float32)
    return Record(Path(f"{image_id}.png"), image_id, 200, 200, corners, tuple(names), flags, coverage)


def found(*items: tuple[Sequence[float], float, int]) -> Detections:
    return Detections(
        np.array([item[0] for item in items], np.float32).reshape(-1, 4),
        np.array([item[1] for item in items], np.float32),
        np.array([item[2] for item in items], np.int64),
    )


def scene(seed: int, images: int = 25) -> tuple[list[Record], dict[int, Detections]]:
    """Noisy detections with tied scores; ``bird`` has no object, some images are empty, some objects are ignored."""
    rng = np.random.default_rng(seed)
    records, detections = [], {}
    for image_id in range(0, 7 * images, 7):
        count = int(rng.integers(0, 7))
        corner, size = rng.uniform(0, 100, (count, 2)), rng.uniform(5, 80, (count, 2))
        boxes = np.concatenate([corner, corner + size], axis=1).astype(np.float32)
        names = [("cat", "dog", "boat")[int(value)] for value in rng.integers(0, 3, count)]
        records.append(record(image_id, boxes, names, rng.random(count) < 0.2))
        copies = rng.integers(0, count, 2 * count) if count else np.zeros(0, int)
        noise = rng.normal(0, 4, (len(copies), 4)).astype(np.float32)
        labels = [NAMES.index(names[i]) if names[i] in NAMES and rng.random() < 0.9 else 2 for i in copies]
        guesses = boxes[copies] + noise if count else np.zeros((0, 4), np.float32)
        guesses[:, 2:] = np.maximum(guesses[:, 2:], guesses[:, :2] + 1)
        scores = np.round(rng.random(len(copies)), 1).astype(np.float32)
        detections[image_id] = Detections(guesses, scores, np.array(labels, np.int64))
    return records, detections


@pytest.mark.parametrize("backend", ["hotcoco", "pycocotools"])
@pytest.mark.parametrize("first", [0, 2**53, 2**63, 2**70])
def test_image_ids_of_any_size_keep_a_perfect_score(first: int, backend: str) -> None:
    records = [record(first + number, [[10, 10, 50, 50]], ["cat"]) for number in range(4)]
    perfect = [Detections(r.boxes.copy(), np.array([0.9], np.float32), np.zeros(1, np.int64)) for r in records]
    assert coco_scores(records, perfect, ["cat"], backend) == [(1.0, 1.0)]


@pytest.mark.parametrize("backend", ["hotcoco", "pycocotools"])
def test_the_order_of_the_records_does_not_move_the_score(backend: str) -> None:
    records, detections = scene(3)
    first = coco_scores(records, [detections[r.image_id] for r in records], NAMES, backend)
    assert coco_scores(records[::-1], [detections[r.image_id] for r in records[::-1]], NAMES, backend) == first


def plain_coco(records: Sequence[Record], detections: dict[int, Detections], name: str) -> tuple[float, float]:
    """AP and AP50 of one class as a user of pycocotools gets them, with loadRes, default settings and summarize."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth = COCO()
    truth.dataset = {
        "images": [{"id": r.image_id} for r in records],
        "categories": [{"id": number, "name": other} for number, other in enumerate(NAMES, start=1)],
        "annotations": [],
    }
    results: list[dict[str, Any]] = []
    for r in records:
        for box, other, ignored in zip(r.boxes.astype(float), r.names, r.ignore, strict=True):
            if other in NAMES:
                sides = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
                truth.dataset["annotations"].append(
                    {
                        "id": len(truth.dataset["annotations"]) + 1,
                        "image_id": r.image_id,
                        "bbox": sides,
                        "category_id": NAMES.index(other) + 1,
                        "area": sides[2] * sides[3],
                        "iscrowd": int(ignored),
                    }
                )
        item = detections[r.image_id]
        for box, value, label in zip(item.boxes.astype(float), item.scores, item.labels, strict=True):
            sides = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            results.append(
                {"image_id": r.image_id, "category_id": int(label) + 1, "bbox": sides, "score": float(value)}
            )
    truth.createIndex()
    evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
    evaluation.params.catIds = [NAMES.index(name) + 1]
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return float(evaluation.stats[0]), float(evaluation.stats[1])


def devkit(records: Sequence[Record], detections: dict[int, Detections], name: str, form: str) -> float:
    """VOC AP written out from the rules of the development kit, one detection after the other."""
    queue: list[tuple[float, int, int, Any]] = []
    for place, r in enumerate(records):
        item = detections[r.image_id]
        for box, value, label in zip(item.boxes, item.scores, item.labels, strict=True):
            if label == NAMES.index(name):
                queue.append((-float(value), place, len(queue), box.astype(float)))
    objects = [
        [
            [box.astype(float), bool(ignored), False]
            for box, n, ignored in zip(r.boxes, r.names, r.ignore, strict=True)
            if n == name
        ]
        for r in records
    ]
    total = sum(not thing[1] for things in objects for thing in things)
    right = wrong = 0
    curve = []
    for _, place, _, box in sorted(queue, key=lambda entry: entry[:3]):
        best, chosen = -1.0, None
        for thing in objects[place]:
            other = thing[0]
            width = min(box[2], other[2]) - max(box[0], other[0])
            height = min(box[3], other[3]) - max(box[1], other[1])
            if width > 0 and height > 0:
                union = (box[2] - box[0]) * (box[3] - box[1]) + (other[2] - other[0]) * (other[3] - other[1])
                overlap = width * height / (union - width * height)
                if overlap > best:
                    best, chosen = overlap, thing
        if chosen is not None and best >= 0.5:
            if chosen[1]:
                continue
            right, wrong = (right, wrong + 1) if chosen[2] else (right + 1, wrong)
            chosen[2] = True
        else:
            wrong += 1
        curve.append((right / total, right / (right + wrong)))
    if form == "voc07":
        levels = [max([p for r, p in curve if r >= level / 10], default=0.0) for level in range(11)]
        return sum(levels) / 11
    area = last = 0.0
    for place, (recall, _) in enumerate(curve):
        area += (recall - last) * max(p for _, p in curve[place:])
        last = recall
    return area


@pytest.mark.parametrize("seed", range(4))
def test_ap_is_pycocotools_to_the_last_bit(seed: int) -> None:
    records, detections = scene(seed)
    scores = score(records, detections, NAMES)
    for name in ("cat", "dog"):
        ours = scores[name]
        assert ours is not None
        assert 0.02 < ours.AP < ours.AP50 < 0.98
        assert ours[:2] == plain_coco(records, detections, name)


@pytest.mark.parametrize("seed", range(10))
def test_hotcoco_equals_pycocotools_to_the_last_bit(seed: int) -> None:
    records, detections = scene(seed)
    aligned = _aligned(records, detections, NAMES)
    assert coco_scores(records, aligned, NAMES, "hotcoco") == coco_scores(records, aligned, NAMES, "pycocotools")


def test_pycocotools_serves_where_hotcoco_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    records, detections = scene(1)
    expected = score(records, detections, NAMES)
    monkeypatch.setitem(sys.modules, "hotcoco", None)
    assert score(records, detections, NAMES) == expected
    with pytest.raises(ImportError):
        coco_scores(records, [detections[r.image_id] for r in records], NAMES, "hotcoco")


@pytest.mark.parametrize("form", ["voc07", "voc12"])
@pytest.mark.parametrize("seed", range(4))
def test_voc_ap_follows_the_devkit(seed: int, form: str) -> None:
    records, detections = scene(seed)
    for name in ("cat", "dog"):
        value = average_precision(match(records, detections, NAMES, name), form)
        assert value == pytest.approx(devkit(records, detections, name, form), abs=1e-12)


BOX, FAR = (10.0, 10.0, 50.0, 50.0), (100.0, 100.0, 150.0, 150.0)


@pytest.mark.parametrize("backend", ["pycocotools", "hotcoco"])
def test_an_ignored_object_neither_counts_nor_punishes(backend: str) -> None:
    records = [record(0, [BOX, FAR], ["cat", "cat"], [False, True])]
    both = {0: found((FAR, 0.9, 0), (FAR, 0.8, 0), (BOX, 0.7, 0))}
    assert coco_scores(records, _aligned(records, both, NAMES), NAMES, backend)[0] == pytest.approx((1.0, 1.0))
    full = score(records, both, NAMES)["cat"]
    assert full is not None
    assert (full.voc07, full.voc12, full.precision, full.recall) == (1.0, 1.0, 1.0, 1.0)


def test_a_second_detection_of_an_object_is_wrong_in_voc() -> None:
    records = [record(0, [BOX], ["cat"]), record(1, [BOX], ["cat"])]
    matches = match(records, {0: found((BOX, 0.9, 0), (BOX, 0.8, 0)), 1: found((BOX, 0.7, 0))}, NAMES, "cat")
    assert matches.hits.tolist() == [True, False, True]
    assert average_precision(matches) == pytest.approx(0.5 + 0.5 * 2 / 3)
    assert average_precision(matches, "voc07") == pytest.approx((6 + 5 * 2 / 3) / 11)


@pytest.mark.parametrize("backend", ["pycocotools", "hotcoco"])
def test_nothing_found_scores_zero_and_no_truth_scores_none(backend: str) -> None:
    records = [record(0, [BOX], ["cat"]), record(1)]
    empty = [Detections.empty()] * 2
    assert coco_scores(records, empty, NAMES, backend) == [(0.0, 0.0), None, None]
    assert coco_scores([], [], NAMES, backend) == [None, None, None]
    scores = score(records, {}, NAMES)
    assert scores["cat"] is not None and scores["dog"] is None
    assert (scores["cat"].voc12, scores["cat"].precision, scores["cat"].recall) == (0.0, None, 0.0)
    assert score([], {}, NAMES) == dict.fromkeys(NAMES)
    assert score(records, {}, ()) == {}


def test_a_false_alarm_in_an_image_without_seen_classes_costs() -> None:
    records = [record(0, [BOX], ["cat"]), record(1, [FAR], ["boat"])]
    detections = {0: found((BOX, 0.5, 0)), 1: found((FAR, 0.9, 0))}
    scores = score(records, detections, NAMES)["cat"]
    alone = score(records[:1], {0: detections[0]}, NAMES)["cat"]
    assert scores is not None and alone is not None
    assert alone[:4] == pytest.approx((1.0,) * 4)
    assert scores[:4] == pytest.approx((0.5,) * 4)


def test_a_detection_of_an_unlabelled_class_is_no_mistake() -> None:
    records = [record(0, [BOX], ["cat"]), record(1, [FAR], ["dog"], coverage=frozenset({"dog"}))]
    detections = {0: found((BOX, 0.5, 0)), 1: found((FAR, 0.9, 0))}
    scores = score(records, detections, NAMES)["cat"]
    assert scores is not None and scores[:4] == pytest.approx((1.0,) * 4)


def test_only_a_hundred_detections_of_a_class_count_in_an_image() -> None:
    records = [record(0, [BOX], ["cat"])]
    crowd = [(FAR, 0.9, 1)] * 150 + [(FAR, 0.8, 0)] * 99
    inside = score(records, {0: found(*crowd, (BOX, 0.5, 0))}, NAMES)["cat"]
    beyond = score(records, {0: found(*crowd, (FAR, 0.8, 0), (BOX, 0.5, 0))}, NAMES)["cat"]
    assert inside is not None and inside[:2] == pytest.approx((0.01, 0.01))
    assert beyond is not None and beyond[:2] == (0.0, 0.0)


@pytest.mark.parametrize(
    ("records", "detections", "problem"),
    [
        ([record(0), record(0)], {}, "same image_id"),
        ([record(0)], {3: Detections.empty()}, "not among the records"),
        ([record(0)], {0: found((BOX, 0.5, 3))}, "label outside"),
        ([record(0)], {0: found((BOX, 0.5, -1))}, "label outside"),
        ([record(0)], {0: found((BOX, float("nan"), 0))}, "not finite"),
        ([record(0)], {0: found((BOX, 0.5, 0))._replace(scores=np.zeros(2, np.float32))}, "differ in number"),
    ],
)
def test_detections_that_make_no_sense_are_refused(
    records: list[Record], detections: dict[int, Detections], problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        score(records, detections, NAMES)


@given(st.integers(0, 10_000))
def test_perfect_detections_score_one_and_every_figure_is_a_share(seed: int) -> None:
    records, noisy = scene(seed, images=4)
    perfect = {
        r.image_id: found(
            *((box, 0.9, NAMES.index(name)) for box, name in zip(r.boxes, r.names, strict=True) if name in NAMES)
        )
        for r in records
    }
    for name, values in score(records, perfect, NAMES).items():
        wanted = any(n == name and not i for r in records for n, i in zip(r.names, r.ignore, strict=True))
        assert (values is not None) == wanted
        assert values is None or values[:4] == pytest.approx((1.0,) * 4)
    for values in score(records, noisy, NAMES).values():
        assert values is None or all(value is None or 0.0 <= value <= 1.0 for value in values)


def test_scoring_prints_nothing(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    records, detections = scene(0, images=5)
    score(records, detections, NAMES)
    monkeypatch.setitem(sys.modules, "hotcoco", None)
    score(records, detections, NAMES)
    assert capfd.readouterr() == ("", "")


def test_changes_pair_the_images_and_leave_out_later_classes() -> None:
    records, before = scene(2)
    later = {key: item._replace(labels=item.labels.copy()) for key, item in before.items()}
    for item in later.values():
        item.labels[item.labels == 0] = 3  # the later model calls every cat by a class it has learned since
    intervals = changes(records, before, later, NAMES, draws=100)
    assert intervals["dog"] == (0.0, 0.0, 0.0) and intervals["bird"] == (None, None, None)
    cat = intervals["cat"]
    assert cat.change is not None and cat.low is not None and cat.high is not None
    assert cat.low < cat.change < cat.high < 0
    assert changes(records, before, later, NAMES, draws=100) == intervals


class Echo(torch.nn.Module):
    """Finds in every image one box as wide as the image's mean colour is bright."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.BatchNorm2d(3)
        self.batches: list[int] = []

    def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        assert not self.training and not self.norm.training and not torch.is_grad_enabled()
        self.batches.append(len(images))
        return [
            {
                "boxes": torch.tensor([[0.0, 0.0, 100 * float(image.mean()), 5.0]]),
                "scores": torch.tensor([0.5]),
                "labels": torch.tensor([1]),
            }
            for image in images
        ]


def test_detect_returns_every_image_and_leaves_the_mode(tmp_path: Path) -> None:
    import cv2

    records = []
    for number in range(5):
        path = tmp_path / f"{number}.png"
        cv2.imwrite(str(path), np.full((20, 30, 3), 51 * number, np.uint8))
        records.append(
            Record(path, 10 - number, 30, 20, np.zeros((0, 4), np.float32), (), np.zeros(0, bool), frozenset(NAMES))
        )
    model = Echo().train()
    model.norm.eval()
    seen: list[tuple[int, int]] = []
    detections = detect(model, records, batch_size=2, progress=lambda done, total: seen.append((done, total)))
    assert model.batches == [2, 2, 1] and seen == [(2, 5), (4, 5), (5, 5)]
    assert model.training and not model.norm.training
    assert list(detections) == [10, 9, 8, 7, 6]
    for number, item in enumerate(detections.values()):
        assert item.boxes.dtype == np.float32 and item.labels.tolist() == [1]
        assert item.boxes[0].tolist() == pytest.approx([0, 0, 20 * number, 5], abs=1e-3)
    assert detect(model, [], batch_size=2) == {}


class Counting(torch.nn.Module):
    """Finds n boxes in the n-th image it sees, counting from 0."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0
        self.weight = torch.nn.Parameter(torch.ones(()))

    def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        assert all(image.dtype == torch.float32 and image.min() >= 0 and image.max() <= 1 for image in images)
        outputs = []
        for number in range(self.seen, self.seen + len(images)):
            scores = (torch.arange(number) + number).double() / 100
            outputs.append({"boxes": torch.rand(number, 4), "scores": scores, "labels": torch.arange(number) % 2})
        self.seen += len(images)
        return outputs


def pictures(folder: Path, count: int) -> list[Record]:
    import cv2

    records = []
    for number in range(count):
        cv2.imwrite(str(folder / f"{number}.png"), np.full((20, 30, 3), number, np.uint8))
        blank = Record(
            folder / f"{number}.png",
            number,
            30,
            20,
            np.zeros((0, 4), np.float32),
            (),
            np.zeros(0, bool),
            frozenset(NAMES),
        )
        records.append(blank)
    return records


@pytest.mark.parametrize("batch_size", [1, 2, 5, 8])
def test_every_image_gets_its_own_detections_back(tmp_path: Path, batch_size: int) -> None:
    for number, item in detect(Counting(), pictures(tmp_path, 5), batch_size=batch_size).items():
        assert item.boxes.shape == (number, 4) and item.labels.dtype == np.int64 and item.scores.dtype == np.float32
        assert item.scores.tolist() == pytest.approx([(number + i) / 100 for i in range(number)])


def test_a_cpu_computes_in_float32_whatever_the_precision(tmp_path: Path) -> None:
    class Product(Counting):
        def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
            return super().forward(images)

    records = pictures(tmp_path, 2)
    for precision in ("auto", "off", "bf16", "fp16"):
        assert len(detect(Product(), records, precision=precision)) == 2
    with pytest.raises(ValueError, match="'half'"):
        detect(Product(), records, precision="half")


def test_a_model_that_loses_an_image_is_refused(tmp_path: Path) -> None:
    class Losing(Counting):
        def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
            return super().forward(images)[1:]

    with pytest.raises(ValueError, match="1 results for 2 images"):
        detect(Losing(), pictures(tmp_path, 2))


def test_detect_restores_the_mode_after_a_failure(tmp_path: Path) -> None:
    gone = Record(tmp_path / "gone.png", 0, 9, 9, np.zeros((0, 4), np.float32), (), np.zeros(0, bool), frozenset(NAMES))
    model = Echo().train()
    with pytest.raises(Exception, match=r"gone\.png"):
        detect(model, [gone])
    assert model.training and model.norm.training
