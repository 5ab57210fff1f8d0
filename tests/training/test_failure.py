from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import assert_equal_states, network, pictures, state_of, target
from torch import Tensor
from training_steps import BOX, Plain, lines, schedule, stream, sure_network, with_thresholds

from incdet.distillation.provider import OnlineProvider, Teaching
from incdet.distillation.teacher import Teacher
from incdet.errors import InputError, TrainingError
from incdet.methods.registry import get_method
from incdet.network.retinanet import IncrementalRetinaNet
from incdet.training.batches import Batch
from incdet.training.criterion import MethodCriterion
from incdet.training.digested import load_digested, save_digested
from incdet.training.engine import Engine
from incdet.training.failure import NonFiniteCheck, replay


def told(error: TrainingError) -> dict[str, float]:
    """The losses that an error names."""
    written = re.search(r"\{.*?\}", str(error))
    assert written is not None
    pairs = (pair.split(": ") for pair in written[0].strip("{}").split(", "))
    return {name.strip("'"): float(value) for name, value in pairs}


def weights(model: IncrementalRetinaNet) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


# --- noticing


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_training_and_saves_the_batch(
    make_engine: Callable[..., Engine], tmp_path: Path, value: float
) -> None:
    model = network()
    kept: dict[str, Tensor] = {}

    def spoil(call: int, losses: dict[str, Tensor]) -> None:
        if call == 3:
            kept.update(weights(model))
            losses["box"] = losses["box"] * value

    state = tmp_path / "states" / "train.pt"
    with pytest.raises(TrainingError, match="loss is not finite at iteration 3") as caught:
        make_engine().fit(model, Plain(model, spoil), stream(), schedule(), 6, phase="x", state=state)
    assert not math.isfinite(told(caught.value)["box"]) and "nonfinite.pt" in str(caught.value)
    assert_equal_states(weights(model), kept)  # nothing was learned from it
    saved = torch.load(state.with_name("nonfinite.pt"), weights_only=True)
    images, targets = next(stream()(2))
    assert saved["iteration"] == 2
    assert torch.equal(saved["batch"]["images"], model.prepare(images, targets).images)
    boxes = [one["boxes"] for one in saved["batch"]["targets"]]
    assert all(torch.equal(mine, theirs["boxes"]) for mine, theirs in zip(boxes, targets, strict=True))
    assert saved["rng"].dtype == torch.uint8 and saved["rng"].shape == torch.get_rng_state().shape


def test_a_gradient_that_is_not_finite_is_noticed_under_a_finite_loss(
    make_engine: Callable[..., Engine], tmp_path: Path
) -> None:
    model = network()
    kept: dict[str, Tensor] = {}

    def spoil(call: int, losses: dict[str, Tensor]) -> None:
        if call == 2:
            kept.update(weights(model))
            losses["box"] = losses["box"] + (losses["box"] * 0).sqrt()  # 0, with a slope of 0 times infinity

    with pytest.raises(TrainingError, match="gradient is not finite at iteration 2") as caught:
        make_engine().fit(model, Plain(model, spoil), stream(), schedule(), 6, phase="x", state=tmp_path / "train.pt")
    found = told(caught.value)
    assert [name for name, value in found.items() if not math.isfinite(value)] == ["gradient"]
    assert_equal_states(weights(model), kept)
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert (tmp_path / "nonfinite.pt").is_file()


def test_a_loss_scaler_outlives_a_gradient_that_is_not_finite(make_engine: Callable[..., Engine]) -> None:
    model = network()

    def spoil(call: int, losses: dict[str, Tensor]) -> None:
        if call == 1:
            losses["box"] = losses["box"] + (losses["box"] * 0).sqrt()

    criterion = Plain(model, spoil)
    make_engine(precision="fp16").fit(model, criterion, stream(), schedule(), 3, phase="x")
    assert criterion.calls == 3 and all(parameter.isfinite().all() for parameter in model.parameters())


def test_the_check_works_without_a_place_to_save(make_engine: Callable[..., Engine]) -> None:
    model = network()
    criterion = Plain(model, lambda _, losses: losses.update(focal=losses["focal"] / 0))
    with pytest.raises(TrainingError, match="nothing was saved"):
        make_engine().fit(model, criterion, stream(), schedule(), 1, phase="x")


def late_by(monkeypatch: pytest.MonkeyPatch, lag: int) -> None:
    def made(save: Any, _: int, **more: Any) -> NonFiniteCheck:
        return NonFiniteCheck(save, lag, **more)

    monkeypatch.setattr("incdet.training.engine.NonFiniteCheck", made)


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check as it works on a GPU: a step is read when the next one has been launched."""
    late_by(monkeypatch, 1)


def test_a_late_check_names_the_step_and_saves_the_weights_that_failed(
    make_engine: Callable[..., Engine], tmp_path: Path, late: None
) -> None:
    model, kept = network(), dict[str, Tensor]()

    def spoil(call: int, losses: dict[str, Tensor]) -> None:
        if call == 5:
            kept.update(weights(model))
        if call == 6:  # the second piece of the third batch
            losses["focal"] = losses["focal"] * math.nan

    state, criterion = tmp_path / "train.pt", Plain(model, spoil)
    with pytest.raises(TrainingError, match="iteration 3.*focal"):
        make_engine(accumulation=2).fit(model, criterion, stream(), schedule(), 6, phase="x", state=state)
    assert criterion.calls == 8  # one step more was launched
    saved = torch.load(state.with_name("nonfinite.pt"), weights_only=True)
    assert saved["iteration"] == 2 and len(saved["terms"]) == 2
    assert torch.equal(saved["batch"]["images"], model.prepare(*next(stream()(2))).images)
    assert_equal_states({name: saved["model"][name] for name in kept}, kept)


def test_a_late_check_stops_at_the_last_step_too_and_before_a_state_is_stored(
    make_engine: Callable[..., Engine], tmp_path: Path, late: None
) -> None:
    model = network()
    criterion = Plain(model, lambda call, losses: losses.update(box=losses["box"] / (3 - call)))
    state = tmp_path / "train.pt"
    with pytest.raises(TrainingError, match="iteration 3"):
        make_engine().fit(model, criterion, stream(), schedule(), 3, phase="x", state=state)
    assert not state.exists()


def test_a_late_check_changes_neither_weights_nor_log(
    make_engine: Callable[..., Engine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for lag in (0, 1):
        late_by(monkeypatch, lag)
        model = network()
        make_engine(log_every=6).fit(model, Plain(model), stream(), schedule(), 6, phase="x")
        found.append((state_of(model), lines(tmp_path)[-1]["loss"]))
    assert_equal_states(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]


def test_the_saved_random_state_prepares_the_saved_batch_as_it_was(
    make_engine: Callable[..., Engine], tmp_path: Path
) -> None:
    """Several sizes: the size is drawn in prepare, so the state has to be that before it."""
    model = network(min_size=tuple(range(32, 64, 4)))
    criterion = Plain(model, lambda call, losses: losses.update(box=losses["box"] * (math.nan if call == 3 else 1)))
    state = tmp_path / "train.pt"
    with pytest.raises(TrainingError):
        make_engine().fit(model, criterion, stream(), schedule(), 6, phase="x", state=state)
    saved = torch.load(state.with_name("nonfinite.pt"), weights_only=True)
    torch.set_rng_state(saved["rng"])
    again = model.prepare(*next(stream()(2)))
    assert again.image_sizes == saved["batch"]["image_sizes"]
    assert torch.equal(again.images, saved["batch"]["images"])


# --- doing it again


def failed(make_engine: Callable[..., Engine], folder: Path, name: str, accumulation: int) -> dict[str, float]:
    """The losses of a step of a method with a spoilt box branch; its file lies in ``folder``."""
    student = sure_network()
    plain, *without = name.split("-")
    method = with_thresholds(get_method(plain, without).speaking())
    teachers = {"old": Teacher(student)} if method.teachers else {}
    student.grow(("c",))
    with torch.no_grad():
        student.box_head.bbox_reg.bias.fill_(math.inf)

    def batches(_: int) -> Any:
        targets = [target([BOX], [2], [False, False, True]), target([BOX], [0], [True, True, False])]
        batch: Batch = (pictures(4), [*targets, *targets])
        while True:
            yield batch

    provider = OnlineProvider(Teaching(teachers, method.terms), student) if teachers else None
    criterion = MethodCriterion(method, student, provider)
    engine, state = make_engine(accumulation=accumulation), folder / "train.pt"
    with pytest.raises(TrainingError) as caught:
        engine.fit(student, criterion, batches, schedule(batch_size=4), 2, phase="x", state=state)
    return told(caught.value)


@pytest.mark.parametrize(
    ("name", "accumulation"),
    [("masked", 1), ("eeil", 1), ("pseudo", 2), ("incdet", 2), ("incdet-kd_box", 1), ("bpf", 2)],
)
def test_a_saved_step_gives_the_same_losses_again(
    make_engine: Callable[..., Engine], tmp_path: Path, name: str, accumulation: int
) -> None:
    losses = failed(make_engine, tmp_path, name, accumulation)
    again = replay(tmp_path / "nonfinite.pt")
    assert list(again) == list(losses) and not math.isfinite(losses["box"]) and math.isfinite(losses["focal"])
    assert again == pytest.approx(losses, nan_ok=True, rel=1e-6)


def test_a_failed_step_of_step_1_is_done_again_too(make_engine: Callable[..., Engine], tmp_path: Path) -> None:
    losses = failed(make_engine, tmp_path, "masked", 1)
    saved = load_digested(tmp_path / "nonfinite.pt", "cpu")
    save_digested(tmp_path / "base.pt", {**saved, "method": ["base", []]})  # as a run calls what trains step 1
    assert replay(tmp_path / "base.pt") == pytest.approx(losses, nan_ok=True, rel=1e-6)


def test_numbers_of_the_method_are_saved_with_the_step(make_engine: Callable[..., Engine], tmp_path: Path) -> None:
    failed(make_engine, tmp_path, "incdet", 1)
    saved = load_digested(tmp_path / "nonfinite.pt", "cpu")
    plain = replay(tmp_path / "nonfinite.pt")
    saved["settings"]["kd_quality"]["weight"] *= 3
    save_digested(tmp_path / "other.pt", saved)
    assert replay(tmp_path / "other.pt")["kd_quality"] == pytest.approx(3 * plain["kd_quality"])


def test_a_flipped_bit_of_a_saved_step_is_named(make_engine: Callable[..., Engine], tmp_path: Path) -> None:
    failed(make_engine, tmp_path, "masked", 1)
    saved = torch.load(tmp_path / "nonfinite.pt", weights_only=True)
    saved["rate"] *= 2
    torch.save(saved, tmp_path / "other.pt")
    with pytest.raises(InputError, match=r"other\.pt.*its content was changed or damaged"):
        replay(tmp_path / "other.pt")


def test_a_step_in_low_precision_is_done_again_in_the_one_that_is_asked_for(
    make_engine: Callable[..., Engine], tmp_path: Path
) -> None:
    failed(make_engine, tmp_path, "masked", 1)
    full, low = (replay(tmp_path / "nonfinite.pt", dtype)["focal"] for dtype in (None, torch.bfloat16))
    assert low == pytest.approx(full, rel=0.05) and low != full


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "does not exist"), (b"PK\x03\x04 torn", "cannot be read"), ({"format": "x"}, "no failed step")],
)
def test_a_file_that_is_no_failed_step_is_named(tmp_path: Path, content: object, said: str) -> None:
    path = tmp_path / "nonfinite.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(InputError, match=rf"nonfinite\.pt.*{said}"):
        replay(path)


def test_a_step_of_a_backbone_that_lies_elsewhere_is_refused(
    make_engine: Callable[..., Engine], tmp_path: Path
) -> None:
    failed(make_engine, tmp_path, "masked", 1)
    saved = load_digested(tmp_path / "nonfinite.pt", "cpu")
    saved["architecture"]["backbone"] = "external"
    torch.save(saved, tmp_path / "nonfinite.pt")
    with pytest.raises(InputError, match="external backbone"):
        replay(tmp_path / "nonfinite.pt")
