from __future__ import annotations

import torch
from helpers import network
from torch import Tensor

from incdet.network.footprint import COPIES, LOSSES, Footprint, footprint


def kept_by_autograd(images: int) -> int:
    """Bytes that a real forward keeps for its backward, parameters aside."""
    model = network().train()
    batch = model.prepare([torch.rand(3, 48, 48) for _ in range(images)])
    kept: dict[int, Tensor] = {}

    def keep(value: Tensor) -> Tensor:
        kept[value.untyped_storage().data_ptr()] = value
        return value

    own = {value.untyped_storage().data_ptr() for value in (*model.parameters(), *model.buffers())}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        outputs = model.dense(batch)  # held, or what it made would be freed and its place used again
    del outputs
    return sum(value.untyped_storage().nbytes() for place, value in kept.items() if place not in own)


def test_the_estimate_is_what_a_real_forward_keeps_times_a_factor() -> None:
    model = network()
    found = footprint(model, (64, 64))
    real = kept_by_autograd(4) / 4
    assert 0.9 * LOSSES * real < found.image < 1.3 * LOSSES * real
    assert found.fixed == COPIES * sum(4 * value.numel() for value in model.parameters())
    assert all(value.device.type == "cpu" for value in model.parameters()), "the network itself is left alone"


def test_larger_images_take_more_and_memory_holds_fewer() -> None:
    small, large = (footprint(network(), (side, side)) for side in (64, 128))
    assert 3.5 < large.image / small.image < 4.5
    assert Footprint(10, 100).images(155) == 5 and Footprint(10, 100).images(50) == 0
