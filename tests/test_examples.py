"""What the documentation shows is run: the notebook's cells, and the example of a detector with one class."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from helpers import network
from PIL import Image

import incdet

QUICK = "IMAGES, TESTED, ITERATIONS = 16, 4, 2"


def run(repository: Path, folder: Path, words: list[str]) -> str:
    """What Python prints; the test fails with all of it if it does."""
    path = os.pathsep.join([str(repository), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_notebook_runs_from_its_first_cell_to_its_last(repository: Path, tmp_path: Path) -> None:
    cells = json.loads((repository / "docs/notebooks/quickstart.ipynb").read_text("utf-8"))["cells"]
    assert len({cell["id"] for cell in cells}) == len(cells)
    written = [cell for cell in cells if cell["cell_type"] == "code"]
    (shortened,) = [cell for cell in written if "parameters" in cell["metadata"].get("tags", ())]
    shortened["source"] = [QUICK]
    script = "\n".join("".join(cell["source"]) for cell in written)
    said = run(repository, tmp_path, ["-c", script + "\nprint(extended.names, type(plain).__name__)"])
    assert "('circle', 'cross', 'star') RetinaNet" in said and "8 exemplars of the run" in said
    assert (tmp_path / "quickstart/with_star/report.html").is_file()


def test_a_class_is_added_to_a_detector_of_one(repository: Path, tmp_path: Path) -> None:
    sizes = ((32, 40, 50), (64, 80, 101), (128, 161, 203), (256, 322, 406), (512, 645, 812))
    one = network(("Tree",), anchor_sizes=sizes)
    torch.save(incdet.to_torchvision(one).state_dict(), tmp_path / "tree.pth")
    rows = ["image_path,xmin,ymin,xmax,ymax,label"]
    for number in range(3):
        Image.fromarray(np.full((60, 60, 3), 80 * number, np.uint8)).save(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,10,10,40,50,Bird")
    (tmp_path / "birds.csv").write_text("\n".join(rows), encoding="utf-8")
    words = [str(repository / "docs/examples/one_class.py"), "tree.pth", "--arch", "tiny", "--known", "Tree"]
    words += ["--data", "birds.csv", "--output", "out", "train.increment.iterations=1", "train.increment.batch_size=2"]
    said = run(repository, tmp_path, [*words, "engine.device=cpu", "engine.workers=0", "memory.total=2"])
    assert "Tree -> Tree, Bird" in said
    state = torch.load(tmp_path / "out/torchvision.pth", weights_only=True)
    plain = incdet.to_torchvision(incdet.load(tmp_path / "out").model)
    assert state.keys() == plain.state_dict().keys()
    assert state["head.classification_head.cls_logits.bias"].numel() == 2 * 9
