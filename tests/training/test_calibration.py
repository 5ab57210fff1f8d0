from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import state_of
from scenery import Scenery, learn

from incdet.methods.registry import get_method
from incdet.training.calibration import calibrate, fit_shift


def test_a_shift_makes_scores_as_high_as_their_share_of_right_ones() -> None:
    scores = np.full(4000, 0.5)
    found = fit_shift(scores, np.arange(4000) % 5 == 0)
    assert 1 / (1 + np.exp(-found)) == pytest.approx(0.2, abs=0.005)
    assert fit_shift(scores, np.arange(4000) % 2 == 0) == pytest.approx(0.0, abs=1e-6)
    few = fit_shift(scores[:3], np.zeros(3, bool))
    assert -1 < few < 0  # three detections move a class little
    assert fit_shift(np.zeros(0), np.zeros(0, bool)) == 0.0


def test_faint_detections_do_not_decide() -> None:
    """A thousand at 0.01, none of them right, and forty at 0.5, half of them right."""
    scores, hits = np.r_[np.full(1000, 0.01), np.full(40, 0.5)], np.r_[np.zeros(1000), np.arange(40) % 2].astype(bool)
    assert abs(fit_shift(scores, hits)) < 0.05


def test_it_shifts_the_new_logits_of_a_detector_and_nothing_else(scenery: Scenery) -> None:
    model = learn(scenery, "incdet").model.cpu()
    with torch.no_grad():
        model.class_head.class_biases()[-1].add_(2.0)  # so that it finds something of every new class
    before, records = state_of(model), tuple(scenery.memory) + tuple(scenery.view.records)
    names = scenery.view.names
    shifts = calibrate(model, records, names, 1.0)
    assert set(shifts) == set(names) and all(shift != 0 for shift in shifts.values())
    after = state_of(model)
    moved = [name for name in after if not torch.equal(after[name], before[name])]
    assert moved == ["class_head.predictors.1.bias"]
    bias = (after[moved[0]] - before[moved[0]]).reshape(-1, len(names))
    assert torch.allclose(bias, torch.tensor([shifts[name] for name in names]).expand_as(bias), atol=1e-6)


def test_a_new_class_that_fires_on_old_objects_is_turned_down(scenery: Scenery) -> None:
    """On an exemplar that nobody annotated for it, a detection on an annotated object is wrong, others say nothing."""
    model = learn(scenery, "finetune").model.cpu()
    with torch.no_grad():
        model.class_head.class_biases()[-1].add_(3.0)
    exemplars = tuple(scenery.memory)
    assert not any(set(scenery.view.names) & one.coverage for one in exemplars)
    shifts = calibrate(model, exemplars, scenery.view.names, 0.5)
    assert all(shift <= 0 for shift in shifts.values()) and min(shifts.values()) < 0
    bare = [one.restrict([]) for one in exemplars]
    assert set(calibrate(model, bare, scenery.view.names, 1.0).values()) == {0.0}


def test_a_step_ends_with_it_where_it_has_a_strength(scenery: Scenery) -> None:
    plain = state_of(learn(scenery, "incdet").model)
    assert not any("calibration" in line for line in scenery.said())
    scenery.folder = scenery.folder / "calibrated"
    settings = {"incdet": {"calibration": {"strength": 1.0}}}
    shifted = state_of(learn(scenery, get_method("incdet", settings=settings)).model)
    assert [name for name in plain if not torch.equal(plain[name], shifted[name])] == ["class_head.predictors.1.bias"]
    assert any(line.startswith("calibration: ") for line in scenery.said())
    assert get_method("incdet", ["replay"]).calibration is None


def test_terms_of_weight_0_are_not_computed() -> None:
    method = get_method("incdet")
    assert [term.name for term in method.terms] == ["kd_quality", "kd_box", "old_claims", "kd_crosshead"]
    assert [term.name for term in method.speaking().terms] == ["kd_quality", "kd_box"]
    assert not method.needs_features
    louder = get_method("incdet", settings={"incdet": {"kd_crosshead": {"weight": 0.5}}})
    assert louder.needs_features and [term.name for term in louder.speaking().terms][-1] == "kd_crosshead"
    plain = get_method("lwf")
    assert plain.speaking() is plain
