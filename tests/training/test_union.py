from __future__ import annotations

from functools import partial

import pytest
import torch
from helpers import network, pictures

from incdet.network.columns import with_columns
from incdet.training import union
from incdet.training.union import fit_union
from incdet.vocab import Vocabulary


def test_a_merged_class_says_what_the_loudest_of_its_parts_says_and_nothing_else_moves() -> None:
    model = network(("a", "b", "c"), tower_depth=2).eval()
    merged = with_columns(model, Vocabulary((("ab", "c"),)), [0, 2])
    before = {name: value.clone() for name, value in merged.state_dict().items()}
    asked: list[int] = []

    def give(number: int) -> torch.Tensor:
        asked.append(number)
        return pictures(4)[number]

    seen = [partial(give, number) for number in range(4)]
    told: list[tuple[int, int]] = []
    history = fit_union(
        merged, 0, model, [0, 1], seen, rounds=40, progress=lambda done, total, _: told.append((done, total))
    )
    assert history[-1] < 0.5 * history[0] and told[-1] == (40, 40)
    with torch.no_grad():
        fresh = merged.prepare(pictures(2, seed=9))
        old, new = model.dense(fresh).logits, merged.dense(fresh).logits
        wanted = old[..., :2].amax(dim=-1).sigmoid()
        start = (old[..., 0].sigmoid() - wanted).abs().mean()
        assert (new[..., 0].sigmoid() - wanted).abs().mean() < 0.7 * start, "on pictures it has not seen too"
        assert torch.equal(new[..., 1], old[..., 2])
    moved = [name for name, value in merged.state_dict().items() if not torch.equal(value, before[name])]
    assert sorted(asked) == [0, 1, 2, 3]
    assert moved == ["class_head.predictors.0.weight", "class_head.predictors.0.bias"]


def test_what_is_not_kept_is_made_anew_and_comes_to_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network(("a", "b")).eval()
    histories = []
    for room in (1 << 30, 0):
        monkeypatch.setattr(union, "KEPT", room)
        merged = with_columns(model, Vocabulary((("ab",),)), [0])
        seen = [partial(pictures(2).__getitem__, number) for number in range(2)]
        histories.append(fit_union(merged, 0, model, [0, 1], seen, rounds=3))
    assert histories[0] == histories[1]
