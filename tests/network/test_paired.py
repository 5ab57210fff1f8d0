from __future__ import annotations

import copy
import json
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from helpers import assert_equal_states, network, pictures, state_of
from torch import Tensor, nn

from incdet.errors import InputError
from incdet.network import checkpoint
from incdet.network.paired import PairedRetinaNet, Trunk, merged, newcomer, paired, pupil
from incdet.network.retinanet import IncrementalRetinaNet
from incdet.network.torchvision import to_torchvision

TRUNKS: list[Trunk] = ["own", "shared", "taught"]


def learned(before: IncrementalRetinaNet, names: tuple[str, ...], trunk: Trunk, seed: int = 3) -> IncrementalRetinaNet:
    """What a step with such a trunk trains, whose parameters have moved a little, and that sees things."""
    torch.manual_seed(seed)
    if trunk == "taught":
        model = copy.deepcopy(pupil(before))
        model.freeze_norm()
        model.grow(names)
    else:
        model = newcomer(before, names, trunk)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.add_(0.02 * torch.randn_like(parameter))
    for parameter in model.class_head.predictors.parameters():
        if parameter.dim() == 4:
            nn.init.normal_(parameter, std=0.3)
    return model


def old_network(**changes: Any) -> IncrementalRetinaNet:
    return network(("a", "b"), **{"detections_per_img": 20, "score_thresh": 0.005, **changes}).eval()


def of_columns(found: list[dict[str, Tensor]], below: int) -> list[dict[str, Tensor]]:
    return [{key: value[image["labels"] < below] for key, value in image.items()} for image in found]


def assert_equal_detections(first: list[dict[str, Tensor]], second: list[dict[str, Tensor]]) -> None:
    for one, other in zip(first, second, strict=True):
        assert all(torch.equal(one[key], other[key]) for key in ("boxes", "scores", "labels"))


@pytest.mark.parametrize("trunk", TRUNKS)
@pytest.mark.parametrize("norm", ["group", "batch"])
def test_old_detections_stay_bit_for_bit_over_any_number_of_steps(trunk: Trunk, norm: str, tmp_path: Path) -> None:
    images = pictures(3)
    before = old_network(norm=norm)
    with torch.no_grad():
        expected, at_first, known = before(images), before(images), 2
        assert all(len(image["boxes"]) > 3 for image in expected)
        for names in (("c",), ("d", "e"), ("f",)):
            start = state_of(before)
            after = paired(before, learned(before, names, trunk), trunk)
            assert_equal_states(start, state_of(before))
            found = after(images)
            assert_equal_detections(of_columns(found, known), expected)
            assert_equal_detections(of_columns(found, 2), at_first)
            assert sum(len(image["boxes"]) for image in found) > sum(len(image["boxes"]) for image in expected)
            assert all(torch.equal(image["scores"], image["scores"].sort(descending=True)[0]) for image in found)
            # A later step begins from what was saved, and finds the same.
            checkpoint.save(tmp_path / str(known), after)
            before = checkpoint.load(tmp_path / str(known)).model
            assert isinstance(before, PairedRetinaNet) and before.vocab.steps[-1] == names
            expected, known = found, known + len(names)
            assert_equal_detections(before(images), expected)
    assert before.trunks == (trunk,) * 3 and not before.trainable_names()


@pytest.mark.parametrize("trunk", TRUNKS)
def test_a_network_in_which_earlier_classes_go_first_stays_one(trunk: Trunk) -> None:
    before = network(("a", "b"), ("c",), precedence=1.0, detections_per_img=20, score_thresh=0.005).eval()
    with torch.no_grad():
        expected = before(pictures(2))
        found = paired(before, learned(before, ("d", "e", "f"), trunk), trunk)(pictures(2))
    assert_equal_detections(of_columns(found, 3), expected)
    assert any((image["labels"] >= 3).any() for image in found)


def test_a_new_score_is_discounted_by_the_highest_old_one_over_it() -> None:
    old = {
        "boxes": torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 60, 60]]),
        "scores": torch.tensor([0.8, 0.6, 0.25]),
        "labels": torch.tensor([1, 0, 0]),
    }
    new = {
        # On the first two; clear of all; IoU of exactly 0.5 with the third, which is no overlap; hidden.
        "boxes": torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30], [50, 50, 60, 55], [0, 0, 10, 9]]),
        "scores": torch.tensor([0.9, 0.7, 0.5, 0.2]),
        "labels": torch.tensor([0, 1, 0, 1]),
    }
    found = merged(old, new, 2, 0.05)
    torch.testing.assert_close(found["scores"], torch.tensor([0.8, 0.7, 0.6, 0.5, 0.25, 0.18]))
    assert found["labels"].tolist() == [1, 3, 0, 2, 0, 2]
    untouched = merged(old, new, 2, 0.05, apart=True)["scores"]
    torch.testing.assert_close(untouched, torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5, 0.25, 0.2]))
    none = {key: value[:0] for key, value in old.items()}
    assert merged(none, new, 2, 0.3)["scores"].tolist() == pytest.approx([0.9, 0.7, 0.5])
    assert_equal_detections([merged(old, none, 2, 0.05)], [old])


@pytest.mark.parametrize("trunk", TRUNKS)
def test_the_outputs_of_all_networks_stand_in_one_row_of_logits(trunk: Trunk) -> None:
    before = old_network()
    after = learned(before, ("c",), trunk)
    if trunk == "taught":
        earlier, newest = (cast(nn.Conv2d, module) for module in after.class_head.predictors)
        assert earlier.bias is not None and newest.bias is not None
        earlier.bias.data.fill_(-1.5)  # it sees its old classes everywhere, and is louder for it
        newest.bias.data.add_(0.2)
    both = paired(before, after, trunk)
    with torch.no_grad():
        batch = before.prepare(pictures())
        old, new, dense = before.dense(batch), after.eval().dense(batch), both.dense(batch)
    assert torch.equal(dense.logits[..., :2], old.logits)
    shown = new.logits
    if trunk == "taught":  # it knows the old classes too, and believes its new ones as they leave it room
        room = 1 - new.logits[..., :2].sigmoid().amax(-1, keepdim=True)
        shown = (new.logits[..., 2:].sigmoid() * room).logit()
        assert (room < 0.9).any()
    # The newcomer trained with folded norms, whose rounding is another.
    torch.testing.assert_close(dense.logits[..., 2:], shown, rtol=1e-4, atol=1e-4)
    louder = dense.logits[..., 2:].amax(-1, keepdim=True) > old.logits.amax(-1, keepdim=True)
    assert 0 < louder.sum() < louder.numel()
    torch.testing.assert_close(dense.deltas, torch.where(louder, new.deltas, old.deltas))
    if trunk == "shared":
        torch.testing.assert_close(old.features, new.features)
        assert not any("branches.0.backbone" in name for name in both.state_dict())


def note(passes: list[int], number: int, *_: object) -> None:
    passes.append(number)


@pytest.mark.parametrize("trunk", ["own", "taught"])
@pytest.mark.parametrize("moved", [False, True])
def test_a_stem_that_all_share_runs_once(trunk: Trunk, moved: bool, tmp_path: Path) -> None:
    before = old_network(frozen_norm=True)
    before.freeze_stages(1)
    first = learned(before, ("c",), trunk)
    if moved:  # as between detectors of strangers
        next(first.backbone.parameters()).data.mul_(1.5)
    both = paired(before, first, trunk)
    checkpoint.save(tmp_path, both)
    for model in (both, checkpoint.load(tmp_path).model, copy.deepcopy(both)):
        assert isinstance(model, PairedRetinaNet)
        branch, passes = cast(IncrementalRetinaNet, model.branches[0]), list[int]()
        for number, one in enumerate((model, branch)):
            stem = next(iter(cast(nn.Module, one.backbone.body).children()))
            stem.register_forward_hook(partial(note, passes, number))
        with torch.no_grad():
            batch = model.prepare(pictures())
            dense = model.dense(batch)
            assert passes == ([0, 1] if moved else [0])
            alone = branch.dense(batch)
        torch.testing.assert_close(dense.members[1].deltas, alone.deltas, rtol=0, atol=0)


def test_a_newcomer_learns_what_its_trunk_says_and_starts_where_step_1_stood() -> None:
    before = old_network()
    own, shared = newcomer(before, ("c",), "own"), newcomer(before, ("c",), "shared")
    assert {name.split(".")[0] for name in shared.trainable_names()} == {"class_head", "box_head"}
    assert "backbone" in {name.split(".")[0] for name in own.trainable_names()}
    first = paired(before, learned(before, ("c",), "own"), "own")
    for model in (own, shared, newcomer(first, ("d",), "own")):
        theirs, mine = before.state_dict(), model.state_dict()
        same = [name for name in mine if "predictors" not in name]
        assert same and all(torch.equal(mine[name], theirs[name]) for name in same)
        assert len(model.vocab) == 1


def test_a_taught_branch_goes_on_learning_where_it_stood() -> None:
    before = old_network()
    assert pupil(before) is before
    student = learned(before, ("c",), "taught")
    both = paired(before, student, "taught")
    later = pupil(both)
    assert later.vocab.steps == (("a", "b"), ("c",)) and later.architecture == student.architecture
    # Norms are frozen, and have no parameters, from the first step on.
    assert_equal_states(state_of(student), state_of(later))
    assert later.trainable_names() == student.trainable_names() and later.trainable_names()
    assert not both.trainable_names()


def test_a_branch_of_its_own_classes_alone_is_not_taught_further() -> None:
    before = old_network()
    with pytest.raises(InputError, match="no one network of all its classes.*trunk=own"):
        pupil(paired(before, learned(before, ("c",), "own"), "own"))


def test_it_neither_trains_nor_grows_nor_becomes_a_plain_model() -> None:
    before = old_network(norm="batch")
    both = paired(before, learned(before, ("c",), "own"), "own")
    start = state_of(copy.deepcopy(both))
    assert not both.train().training and not any(module.training for module in both.modules())
    both(pictures())
    assert_equal_states(start, state_of(both))
    with pytest.raises(InputError, match="a network for each of its last steps"):
        both.grow(["d"])
    with pytest.raises(InputError, match="several networks"):
        to_torchvision(both)
    with pytest.raises(InputError, match="already known"):
        paired(before, learned(before, ("b",), "own"), "own")


@pytest.mark.parametrize("trunks", [["rented"], "own", ["own", "own", "own"], [3]])
def test_edited_branches_are_refused(trunks: Any, tmp_path: Path) -> None:
    before = old_network()
    checkpoint.save(tmp_path, paired(before, learned(before, ("c",), "own"), "own"))
    file = tmp_path / "checkpoint.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "branches": trunks}))
    with pytest.raises(InputError, match="branches"):
        checkpoint.load(tmp_path)
