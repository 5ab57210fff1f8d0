from __future__ import annotations

import pytest
import torch

from incdet.ops.precedence import with_precedence


def test_a_score_is_that_of_before_times_what_earlier_classes_leave() -> None:
    logits = 3 * torch.randn(2, 50, 6, generator=torch.Generator().manual_seed(1))
    found = with_precedence(logits, [2, 3, 1], 1.5)
    score = logits.sigmoid()
    assert torch.equal(found[..., :2], logits[..., :2])
    second = score[..., 2:5] * (1 - score[..., :2].amax(-1, keepdim=True)) ** 1.5
    third = score[..., 5:] * (1 - score[..., :5].amax(-1, keepdim=True)) ** 1.5
    torch.testing.assert_close(found[..., 2:].sigmoid(), torch.cat([second, third], dim=-1), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sure_scores_stay_finite(dtype: torch.dtype) -> None:
    logits = torch.tensor([[[-200.0, 200.0], [200.0, 200.0], [200.0, -200.0], [-200.0, -200.0]]], dtype=dtype)
    found = with_precedence(logits, [1, 1], 1.0)
    assert found.dtype == dtype and bool(found.isfinite().all())
    scores = found[0, :, 1].float().sigmoid().tolist()
    assert scores[0] > 0.999 and max(scores[1:]) < 1e-6


def test_without_power_or_earlier_classes_only_rounding_moves() -> None:
    logits = torch.randn(1, 9, 4)
    torch.testing.assert_close(with_precedence(logits, [1, 3], 0.0), logits, rtol=1e-4, atol=1e-4)
    assert torch.equal(with_precedence(logits, [4], 1.0), logits)


def test_torchscript_compiles_it() -> None:
    logits = torch.randn(1, 9, 4)
    torch.testing.assert_close(
        torch.jit.script(with_precedence)(logits, [2, 2], 1.0), with_precedence(logits, [2, 2], 1.0)
    )
