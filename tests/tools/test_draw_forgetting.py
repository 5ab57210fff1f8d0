from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from saved_run import WILD, make_run

SVG = "{http://www.w3.org/2000/svg}"


def test_the_picture_of_the_readme_is_drawn_from_a_run(repository: Path, tmp_path: Path) -> None:
    words = [sys.executable, str(repository / "tools/draw_forgetting.py"), str(make_run(tmp_path))]
    subprocess.run([*words, "--output", str(tmp_path / "drawn.svg")], check=True, cwd=repository)
    root = ElementTree.parse(tmp_path / "drawn.svg").getroot()
    said = list(root.itertext())
    assert {"step 1: 2 classes", "step 3, fine-tuned", "step 3, incdet"} <= set(said)
    assert "incdet 43.7" in said and "finetune 7.5" in said and f"{WILD} 70" in " ".join(said)
    assert len(root.findall(f"{SVG}svg/{SVG}svg/{SVG}use")) == 3 and len(list(root.iter(f"{SVG}image"))) == 1


def test_the_picture_in_the_repository_is_small_and_whole(repository: Path) -> None:
    path = repository / "docs/images/forgetting.svg"
    assert path.stat().st_size < 60_000
    said = list(ElementTree.parse(path).getroot().itertext())
    assert "finetune 0.4" in said and "incdet 66.8" in said  # docs/results/shapes_demo.md, seed 0
