from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from finished_run import Finished
from helpers import pictures

import incdet
from incdet.app.load import locate
from incdet.errors import InputError
from incdet.network import checkpoint


def test_a_run_folder_means_its_last_step(finished: Finished, tmp_path: Path) -> None:
    assert locate(finished.root / "incdet") == str(finished.root / "incdet" / "step_3")
    assert locate(finished.root / "base") == str(finished.root / "base" / "step_1")
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(finished.root / "config.yaml", run)
    with pytest.raises(InputError, match="has no step yet"):
        locate(run)
    shutil.copytree(finished.root / "base", run / "base")
    assert locate(run) == str(run / "base" / "step_1")
    shutil.copytree(finished.root / "lwf", run / "lwf")
    assert locate(run) == str(run / "lwf" / "step_3")


def test_a_run_of_several_methods_asks_for_one(finished: Finished) -> None:
    with pytest.raises(InputError, match=r"is of \d+ methods: .*lwf.* -> name one, such as"):
        locate(finished.root)


@pytest.mark.parametrize("word", ["retinanet_resnet50_fpn_v2:COCO_V1", "model.pth", "n" * 5000])
def test_anything_else_stays_what_it_is(word: str) -> None:
    assert locate(word) == word


def test_a_loaded_detector_detects_and_can_be_saved(finished: Finished, tmp_path: Path) -> None:
    detector = incdet.load(finished.root / "incdet" / "step_3")
    plain = checkpoint.load(finished.root / "incdet" / "step_3").model.eval()
    assert detector.names == plain.vocab.names and detector.vocab == plain.vocab
    with torch.inference_mode():
        for mine, theirs in zip(detector(pictures()), plain(pictures()), strict=True):
            assert all(torch.equal(mine[key], theirs[key]) for key in ("boxes", "labels", "scores"))
    assert incdet.load(detector.save(tmp_path / "again")).names == detector.names
    assert "6 classes" in repr(detector)
