from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import network

import incdet.app.export as exporting
from incdet.app.load import Detector
from incdet.app.proof_pictures import proof_pictures
from incdet.app.verbs import export as verb
from incdet.config.architecture import Architecture
from incdet.errors import InputError
from incdet.network import checkpoint
from incdet.network import exporting as ways
from incdet.network.calibration import Calibration
from incdet.network.retinanet import IncrementalRetinaNet
from incdet.vocab import Vocabulary

NEEDED = {"onnx": ("onnx", "onnxruntime"), "onnx-raw": ("onnx", "onnxruntime")}


def speaking(precedence: float = 0.0) -> IncrementalRetinaNet:
    """A network that finds something in any picture."""
    model = network(("a", "b"), ("c",), score_thresh=0.4, detections_per_img=40, precedence=precedence)
    for predictor in model.class_head.predictors:
        torch.nn.init.zeros_(predictor.bias)  # type: ignore[arg-type]
    model.calibration = Calibration({"a": 0.4}, 1.5, 3, "a test")
    return model.eval()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return checkpoint.save(tmp_path / "step_1", speaking())


@pytest.mark.parametrize("kind", verb.FORMATS)
def test_every_format_finds_what_the_detector_finds(
    saved: Path, tmp_path: Path, incdet_command: Callable[..., Any], kind: str
) -> None:
    for package in NEEDED.get(kind, ()):
        pytest.importorskip(package)
    output = tmp_path / "out" / "model.bin"
    done = incdet_command("export", saved, "--as", kind, "--output", output, "--pictures", "3", "--classes", "c,a")
    assert done.code == 0, done.err
    assert "verified: " in done.out and output.is_file()
    told = json.loads((tmp_path / "out" / "model.bin.json").read_text("utf-8"))
    assert told["classes"] == ["a", "c"] and told["calibration"]["thresholds"] == {"a": 0.4}
    assert told["format"] == kind and "3 drawn pictures" in told["verified"]
    if kind != "onnx-raw":
        assert int(told["verified"].split()[0]) > 10
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["model.bin", "model.bin.json"]


@pytest.mark.parametrize("kind", verb.FORMATS)
def test_earlier_classes_go_first_in_every_file_that_can_say_so(tmp_path: Path, kind: exporting.Format) -> None:
    for package in NEEDED.get(kind, ()):
        pytest.importorskip(package)
    model, pictures = speaking(0.2), proof_pictures(None, 2)
    assert len(model([torch.zeros(3, 48, 64)])[0]["scores"]) > 0
    done = exporting.export(Detector(model, "x"), tmp_path / "model", kind, pictures)
    assert ("cannot hold that earlier classes go first" in done.proof) == (kind == "state")
    assert model.architecture.precedence == 0.2


@pytest.mark.parametrize("kind", verb.FORMATS)
def test_a_file_that_disagrees_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: exporting.Format
) -> None:
    for package in NEEDED.get(kind, ()):
        pytest.importorskip(package)
    monkeypatch.setattr(ways, "EXPORTERS", {"tracing": ways.EXPORTERS["tracing"]})
    monkeypatch.setattr(exporting, "EXPORTERS", {"tracing": None})
    model, other = speaking(), speaking()
    with torch.no_grad():
        for predictor in other.class_head.predictors:
            predictor.bias.fill_(0.3)  # type: ignore[operator]
    monkeypatch.setattr(exporting, "plain_network", lambda _: ways.plain_network(other))
    with pytest.raises(InputError, match="disagrees with the detector"):
        exporting.export(Detector(model, "x"), tmp_path / "model", kind, proof_pictures(None, 2))
    assert list(tmp_path.iterdir()) == []


def test_the_next_exporter_takes_over_where_one_fails_or_disagrees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")

    def fail(*_: Any) -> None:
        raise RuntimeError("this exporter was taken away")

    monkeypatch.setattr(ways, "EXPORTERS", {"old": fail, "tracing": ways.EXPORTERS["tracing"]})
    monkeypatch.setattr(exporting, "EXPORTERS", {"old": None, "tracing": None})
    detector, pictures = Detector(speaking(), "x"), proof_pictures(None, 1)
    assert exporting.export(detector, tmp_path / "a.onnx", "onnx-raw", pictures).exporter == "tracing"
    monkeypatch.setattr(ways, "EXPORTERS", {"old": fail})
    monkeypatch.setattr(exporting, "EXPORTERS", {"old": None})
    with pytest.raises(InputError, match="old: RuntimeError: this exporter was taken away"):
        exporting.export(detector, tmp_path / "b.onnx", "onnx-raw", pictures)
    assert not (tmp_path / "b.onnx").exists()


def test_torchvision_alone_loads_the_state_dict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    architecture = Architecture(detector="retinanet_resnet50_fpn", norm_eps=0.0, min_size=(64,), max_size=96)
    model = IncrementalRetinaNet(architecture, Vocabulary((("a", "b"),))).eval()
    torch.nn.init.constant_(model.class_head.predictors[0].bias, -1.0)  # type: ignore[arg-type]
    done = exporting.export(Detector(model, "x"), tmp_path / "model.pth", "state", proof_pictures(None, 1))
    lines = json.loads(done.description.read_text("utf-8"))["load"]
    assert "incdet" not in lines.replace(str(tmp_path), "")
    names: dict[str, Any] = {}
    exec(lines, names)
    picture = torch.rand(3, 70, 60)
    (mine,), (other,) = model([picture]), names["model"]([picture])
    assert len(mine["scores"]) > 0
    assert all(torch.equal(mine[key], other[key]) for key in ("boxes", "scores", "labels"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--classes", "d"], "did you mean|is not in the vocabulary"),
        (["--images", "gone.png"], "does not exist"),
        (["--as", "tflite"], "invalid choice"),
    ],
)
def test_bad_input_is_refused(
    saved: Path, tmp_path: Path, incdet_command: Callable[..., Any], words: list[str], said: str
) -> None:
    done = incdet_command("export", saved, "--as", "state", "--output", tmp_path / "model.pth", *words)
    assert done.code == 2 and any(one in done.err for one in said.split("|")) and "Traceback" not in done.err
    assert not (tmp_path / "model.pth").exists()


def test_a_missing_package_is_named(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs onnx and onnxruntime -> pip install 'incdet\[onnx\]'"):
        exporting.export(Detector(speaking(), "x"), tmp_path / "m.onnx", "onnx", proof_pictures(None, 1))
