from __future__ import annotations

import torch
from helpers import answer, batch_targets, draw, grid, responses, slope, target
from torch import Tensor

from incdet.distillation.teacher_targets import BatchTargets, Entries
from incdet.distillation.terms import FutureObjects, KdResponse
from incdet.methods.method import Method

NEW = [False, False, True]
SCORES = torch.tensor([[0.05, 0.2, 0.9, 0.2], [0.2, 0.3, 0.05, 0.05]])
"""Of the old network at four anchors of two images; an annotated object takes the last of the first image."""


def batch() -> BatchTargets:
    return batch_targets([target([grid(4)[3].tolist()], [2], NEW), target(coverage=NEW)], (2, 1))


def old_logits(scores: Tensor = SCORES) -> Tensor:
    return torch.stack([scores, torch.full_like(scores, 0.01)], dim=-1).logit()


def left_out(term: FutureObjects, interim: Tensor | None = None) -> set[tuple[int, int, int]]:
    answers = {"old": answer(old_logits())}
    if interim is not None:
        answers["interim"] = answer(interim[..., None].logit(), first=2)
    rows = term.targets(answers, batch())["left_out"]
    assert isinstance(rows, Entries)
    return set(zip(rows.image.tolist(), rows.anchor.tolist(), rows["column"].tolist(), strict=True))


def test_doubtful_anchors_off_objects_are_ignored_for_the_annotated_channels() -> None:
    assert left_out(FutureObjects(low=0.1, high=0.25)) == {(0, 1, 2), (1, 0, 2)}
    assert left_out(FutureObjects(low=0.1, high=0.35)) == {(0, 1, 2), (1, 0, 2), (1, 1, 2)}


def test_what_the_interim_network_knows_is_no_future_object() -> None:
    interim = torch.full((2, 4), 0.01)
    interim[0, 1] = 0.9
    interim[1, 2] = 0.2
    assert left_out(FutureObjects(low=0.1, high=0.25), interim) == {(1, 0, 2), (1, 2, 2)}


def test_the_annotations_loss_leaves_them_out_and_nothing_else() -> None:
    student = draw(1, 2, 4, 3).requires_grad_()
    slopes = {}
    for name, terms in (("without", ()), ("alone", (FutureObjects(),)), ("beside", (FutureObjects(), KdResponse()))):
        method = Method("test", "here", terms=terms)
        kept = {term.name: term.targets({"old": answer(old_logits())}, batch()) for term in terms}
        targets = method.targets(batch(), kept)
        losses = method.losses(responses(student), targets, targets.counts)
        assert set(losses) == {"focal", "box", *(["kd_response"] if name == "beside" else [])}
        slopes[name] = slope(losses["focal"], student)
    gone = torch.zeros(2, 4, 3, dtype=torch.bool)
    gone[0, 1, 2] = gone[1, 0, 2] = gone[1, 1, 2] = True
    assert slopes["without"][gone].all()
    for name in ("alone", "beside"):
        assert not slopes[name][gone].any()
        torch.testing.assert_close(slopes[name][~gone], slopes["without"][~gone])
