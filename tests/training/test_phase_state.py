from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from incdet.errors import InputError
from incdet.training.phase_state import PhaseState

CPU = torch.device("cpu")


class Training:
    """A small network that has learned for a step."""

    def __init__(self, path: Path, owner: str = "", seed: int = 0, scaler: bool = False) -> None:
        torch.manual_seed(seed)
        self.model = nn.Linear(4, 3)
        self.optimizer = torch.optim.AdamW(self.model.parameters())
        self.model(torch.ones(2, 4)).sum().backward()
        self.optimizer.step()
        self.scaler = torch.amp.GradScaler("cpu") if scaler else None
        self.state = PhaseState(self.model, self.optimizer, self.scaler, path, owner)

    def weights(self) -> list[float]:
        return [float(value) for one in self.model.parameters() for value in one.detach().flatten()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "states" / "train.pt"


def test_what_was_stored_is_taken_up(path: Path) -> None:
    first, second = Training(path, "run a"), Training(path, "run a", seed=1)
    random = torch.get_rng_state()
    first.state.store(7, random)
    assert second.state.restore(CPU) == 7 and second.weights() == first.weights()
    assert torch.equal(torch.get_rng_state(), random)
    assert second.optimizer.state_dict()["state"].keys() == first.optimizer.state_dict()["state"].keys()
    assert Training(path.with_name("none.pt")).state.restore(CPU) == 0


@pytest.mark.parametrize("share", [0.0, 0.01, 0.2, 0.5, 0.8, 0.99])
@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_a_damaged_state_is_refused_with_the_way_out(path: Path, share: float, damage: str) -> None:
    Training(path).state.store(7, torch.get_rng_state())
    content = bytearray(path.read_bytes())
    place = int(share * len(content))
    if damage == "flip":
        content[place] ^= 4
    path.write_bytes(content[:place] if damage == "cut" else content)
    try:
        assert Training(path).state.restore(CPU) == 7, "a byte that says nothing, such as padding"
    except InputError as error:
        assert "train.pt" in str(error) and "remove the file" in str(error)
        path.unlink()
        assert Training(path).state.restore(CPU) == 0


def test_a_state_that_was_edited_is_refused(path: Path) -> None:
    Training(path).state.store(7, torch.get_rng_state())
    values = torch.load(path, weights_only=True)
    values["model"]["bias"][0] += 1
    torch.save(values, path)
    with pytest.raises(InputError, match="changed or damaged"):
        Training(path).state.restore(CPU)
    values["model"]["bias"][0] -= 1
    values["optimizer"]["param_groups"][0]["lr"] = 9.0
    torch.save(values, path)
    with pytest.raises(InputError, match="changed or damaged"):
        Training(path).state.restore(CPU)


def test_the_state_of_another_training_is_refused(path: Path) -> None:
    Training(path, "run a step 2 train").state.store(7, torch.get_rng_state())
    with pytest.raises(InputError, match="of another training"):
        Training(path, "run b step 2 train").state.restore(CPU)
    assert Training(path, "run a step 2 train").state.restore(CPU) == 7


def test_a_state_of_before_the_digests_is_taken_up(path: Path) -> None:
    Training(path).state.store(7, torch.get_rng_state())
    values = torch.load(path, weights_only=True)
    torch.save({name: values[name] for name in ("model", "optimizer", "done", "rng")}, path)
    assert Training(path, "run a").state.restore(CPU) == 7


def test_the_precision_may_change_between_two_parts(path: Path) -> None:
    Training(path, scaler=True).state.store(7, torch.get_rng_state())
    assert Training(path).state.restore(CPU) == 7
    Training(path).state.store(8, torch.get_rng_state())
    assert Training(path, scaler=True).state.restore(CPU) == 8
