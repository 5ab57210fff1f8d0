from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from incdet.config import Config, JointSchedule, Schedule, Train, describe_keys, load_config, parse_config
from incdet.config.architecture import Architecture
from incdet.config.yamlfile import parse_yaml, write_yaml
from incdet.errors import InputError

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*/*.yaml"))


@pytest.fixture
def write(tmp_path: Path) -> Path:
    return tmp_path / "some.yaml"


def refused(path: Path, text: str, *overrides: str) -> str:
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        load_config(path, overrides)
    return str(caught.value)


def test_an_empty_file_is_the_defaults(write: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write.write_text("", encoding="utf-8")
    config = load_config(write)
    assert config == load_config()
    assert config.train == Config().train and config.method == {}
    assert config.train.base.epochs == 12
    assert config.train.increment == config.train.base.model_copy(update={"epochs": None})
    assert config.train.joint == JointSchedule(**config.train.increment.model_dump())
    assert (config.train.finetune.epochs, config.train.finetune.iterations) == (None, None)
    assert config.data.root == config.output / "data/96px_600+200_seed0"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_the_frozen_file_reproduces_every_shipped_configuration(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INCDET_DATA", str(tmp_path / "data"))
    config = load_config(path)
    config.dump(tmp_path / "frozen.yaml")
    monkeypatch.delenv("INCDET_DATA")
    monkeypatch.chdir(tmp_path)
    assert load_config(tmp_path / "frozen.yaml") == config


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_shipped_configuration_opens_with_its_facts_and_names_no_place_on_one_machine(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    relative = path.relative_to(path.parents[2])
    assert text.startswith(f"# python tools/train_incremental.py --config {relative}")
    header = text.split("\n\n")[0].split("seed:")[0]
    assert all(fact in header for fact in ("Hardware:", "Time:", "Score:"))
    assert not re.search(r"(^|[\s\"'=:\[])(/|~|[A-Z]:\\)", text.split("seed:", 1)[1], re.MULTILINE)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_shipped_configuration_builds(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from incdet.app.detector import build_model
    from incdet.data.protocols import parse_steps
    from incdet.methods.registry import get_method
    from incdet.vocab import Vocabulary

    monkeypatch.setenv("INCDET_DATA", str(tmp_path))
    weights = load_config(path).model.weights
    assert weights is None or weights.endswith(".safetensors") or weights.startswith("ResNet50_Weights.")
    config = load_config(path, ["model.weights=null"])  # a test downloads nothing
    steps = config.protocol.steps
    classes = {"coco": 80, "coco80": 80, "voc": 20, "voc20": 20, "shapes": 6}[path.parent.name]
    order = [f"class {number}" for number in range(classes)]
    if not isinstance(steps, str):
        order = [name for step in steps for name in step]
    parsed = parse_steps(steps, order)
    with torch.device("meta"):
        model = build_model(config, Vocabulary(parsed[:1]))
    assert len(model.vocab) == len(parsed[0])
    assert [get_method(name, settings=config.method).name for name in config.methods] == list(config.methods)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sed: 1", "key sed: is unknown -> did you mean 'seed'"),
        ("train: {base: {learning_rate: 1}}", "key train.base.learning_rate: is unknown -> known: batch_size"),
        ("lr: 1", "'lr' belongs to train.base.lr"),
        ("seed: one", "key seed: is 'one': input should be a valid integer"),
        ("seed: true", "key seed: is True"),
        ("seed: 1.5", "key seed: is 1.5"),
        ("seed: -1", "key seed: is -1"),
        ("output: 7", "key output: is 7"),
        ("engine: 4", "key engine: is 4"),
        ("engine: {precision: half}", "key engine.precision: is 'half'"),
        ("engine: {device: gpu}", "key engine.device: is 'gpu'"),
        ("engine: {tensorboard: maybe}", "key engine.tensorboard: is unknown"),
        ("engine: {trackers: [tensorbord]}", "key engine.trackers: is 'tensorbord'"),
        ("train: {base: {lr: .nan}}", "key train.base.lr: is nan"),
        ("train: {base: {lr: 0}}", "key train.base.lr: is 0"),
        ("train: {base: {iterations: 5, epochs: 5}}", "`iterations` and `epochs` exclude each other"),
        ("train: {joint: {iterations: 5, epochs: 5}}", "`iterations` and `epochs` exclude each other"),
        ("method: {incdet: 4}", "key method: is 4"),
        ("memory: {total: 5, per_class: 5}", "`total` and `per_class` exclude each other"),
        ("methods: []", "key methods"),
        ("methods: [lwf, lwf]", "each once"),
        ("protocol: {order: alphabetcal}", "did you mean 'alphabetical'"),
        ("protocol: {steps: 5}", "key protocol.steps: is 5"),
        ("model: {min_size: [a]}", "key model.min_size: is 'a'"),
        ("model: {backbone: resnet51}", "key model.backbone: is 'resnet51': input should be"),
        ("model: {backbone: resnet51}", "did you mean 'resnet50'"),
        ("model: {backbone: external}", "can be handed in by code only"),
        ("model: {detector: retinanet_resnet50_fpn, channels: 64}", "key model.channels: is 64: but"),
        ("model: {tower_depth: 9223372036854775808}", "key model.tower_depth: is 9223372036854775808"),
        ("model: {fg_iou: 0.3}", "key model.bg_iou: is 0.4: is more than fg_iou, 0.3"),
        ("model: {image_std: [1, 1, 0]}", "key model.image_std: is 0"),
        ("model: {detections: 5, detections_per_img: 5}", "key model.detections: is the older name of"),
        ("data: {format: coco, root: x}", "format coco needs data.train"),
        ("data: {format: coco, root: x, train: {images: a}}", "key data.train.annotations: is missing"),
        ("data: {format: voc}", "INCDET_DATA is not set"),
        ("base: ${NOWHERE_SET}/x", "key base: uses ${NOWHERE_SET}, which is not set -> export NOWHERE_SET"),
        ("output: ${data.rot}/x\ndata: {root: y}", "uses ${data.rot}"),
        ("seed: 1\nseed: 2", "line 2, column 1: is not valid YAML: the key 'seed' stands twice"),
        ("train: {base: {lr: 1", "is not valid YAML"),
        ("? [seed]\n: 1", "line 1, column 3: is not valid YAML: a key is a list or a mapping"),
        ("- 1\n- 2", "holds a list"),
    ],
)
def test_a_fault_is_named_with_file_key_and_fix(write: Path, text: str, said: str) -> None:
    message = refused(write, text)
    assert said in message
    assert str(write) in message
    assert message.count("\n") == 0, "one fault, one finding"


def test_all_faults_come_at_once_and_inherited_ones_once(write: Path) -> None:
    message = refused(write, "sed: 1\ntrain: {base: {lr: fast}}", "memory.totl=3")
    assert [line.split(": ")[1] for line in sorted(message.splitlines())] == [
        "key sed",
        "key train.base.lr",
        "key memory.totl",
    ]
    assert "command line: key memory.totl" in message


def aliases(levels: int) -> str:
    """Lists of nine, each holding the one before nine times: 9 ** ``levels`` words when written out."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "\n".join([*lines, f"methods: *a{levels - 1}"])


@pytest.mark.parametrize("text", [aliases(9), aliases(60), "seed: &a [*a]", "seed: &a {b: [1, *a]}"])
def test_aliases_that_stand_for_billions_or_for_themselves_are_refused_at_once(write: Path, text: str) -> None:
    write.write_text(text)
    with pytest.raises(InputError, match="stands for more than 100,000 values when its aliases are written out"):
        load_config(write, [])


def test_aliases_of_a_person_are_read() -> None:
    assert parse_yaml(aliases(2) + "\nb: {<<: {c: 1}, d: 2}", "text")["b"] == {"c": 1, "d": 2}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such pipes")
def test_a_pipe_or_a_device_is_no_configuration(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    for place in (tmp_path / "pipe.yaml", Path("/dev/zero")):
        with pytest.raises(InputError, match="is a pipe, a socket or a device"):
            load_config(place, [])
    with pytest.raises(InputError, match="is a folder"):
        load_config(tmp_path, [])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.yaml: file: does not exist"):
        load_config(tmp_path / "none.yaml")


@pytest.mark.parametrize("text", ["seed", "=3", "a b=3", "a..b=3", "seed=[1"])
def test_an_override_that_is_no_key_and_value_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="command line"):
        load_config(None, [text])


def test_overrides_are_yaml_and_replace_the_rival_key(write: Path) -> None:
    write.write_text("train: {base: {epochs: 3}, increment: {epochs: 2}}\nmemory: {per_class: 4}", encoding="utf-8")
    config = load_config(
        write,
        ["train.base.iterations=7", "memory.total=9", "train.base.lr=1e-4", "methods=lwf, eeil", "model.min_size=96"],
    )
    assert (config.train.base.iterations, config.train.base.epochs) == (7, None)
    assert (config.train.increment.iterations, config.train.increment.epochs) == (None, 2)
    assert (config.memory.total, config.memory.per_class) == (9, None)
    assert config.train.increment.lr == config.train.base.lr == 1e-4
    assert config.methods == ("lwf", "eeil")
    assert config.model.min_size == (96,)


def test_later_schedules_take_what_they_leave_out_from_base(write: Path) -> None:
    write.write_text("train: {base: {iterations: 100, lr: 0.2, warmup: 30}, joint: {lr: 0.3}}", encoding="utf-8")
    train = load_config(write).train
    assert train.increment == train.base.model_copy(update={"iterations": None})
    assert (train.joint.lr, train.joint.warmup) == (0.3, 30)
    assert train.finetune.warmup == 3 and train.finetune.lr == pytest.approx(0.02)


def test_a_length_is_never_taken_from_base(write: Path) -> None:
    """Ten passes over the many images of step 1 are thousands over the few of a later one."""
    write.write_text("train: {base: {iterations: 100}, joint: {epochs: 3}}", encoding="utf-8")
    train = load_config(write, ["train.finetune.iterations=7"]).train
    lengths = {name: (part.iterations, part.epochs) for name, part in train}
    assert lengths == {"base": (100, None), "increment": (None, None), "finetune": (7, None), "joint": (None, 3)}


@pytest.mark.parametrize("text", ["train: {base: {epochs: null}}", "train: {base: {lr: 0.1}}"])
def test_step_one_without_a_length_has_that_of_the_defaults(write: Path, text: str) -> None:
    write.write_text(text, encoding="utf-8")
    assert load_config(write).train.base.epochs == Config().train.base.epochs == 12


def test_step_one_built_without_a_length_is_refused() -> None:
    with pytest.raises(ValueError, match="`base` needs a length"):
        Train(base=Schedule())


def test_numbers_of_methods_are_kept_as_they_are_given_and_survive_freezing(write: Path) -> None:
    write.write_text("method: {incdet: {kd_response: {weight: 0.3}}}", encoding="utf-8")
    words = ["method.incdet.kd_response.selection.kind=topk", "method.incdet.replay.share=null"]
    config = load_config(write, words)
    parts = {"kd_response": {"weight": 0.3, "selection": {"kind": "topk"}}, "replay": {"share": None}}
    assert config.method == {"incdet": parts}
    config.dump(write)
    assert load_config(write) == config


def test_words_mean_what_yaml_1_2_says(write: Path) -> None:
    write.write_text(
        "engine: {precision: off}\nmemory: {copy_images: no}\naugment: {crop: yes}\n"
        "protocol: {steps: [[no, off], [1e-4x, 12:30]]}",
        encoding="utf-8",
    )
    config = load_config(write)
    assert config.engine.precision == "off"
    assert (config.memory.copy_images, config.augment.crop) == (False, True)
    assert config.protocol.steps == (("no", "off"), ("1e-4x", "12:30"))
    assert parse_config(parse_yaml(config.to_yaml(), "again")) == config


def test_paths_are_absolute_and_know_environment_and_root(
    write: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INCDET_DATA", "elsewhere")
    write.write_text(
        "output: runs/a\nbase: ${INCDET_DATA}/step_1\nmodel: {weights: '${data.root}/w.safetensors'}\n"
        "data: {format: coco, train: {annotations: a, images: b}, test: {annotations: c, images: d}}",
        encoding="utf-8",
    )
    config = load_config(write)
    assert config.output == tmp_path / "runs/a"
    assert config.data.root == tmp_path / "elsewhere"
    assert config.base == tmp_path / "elsewhere/step_1"
    assert config.model.weights == str(tmp_path / "elsewhere/w.safetensors")
    assert load_config(write, ["data.root=here"]).model.weights == str(tmp_path / "here/w.safetensors")
    assert load_config(write, ["model.weights=ResNet50_Weights.DEFAULT"]).model.weights == "ResNet50_Weights.DEFAULT"


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Config().seed = 3  # type: ignore[misc]


def test_every_setting_is_described() -> None:
    keys = {key: (default, description) for key, default, description in describe_keys()}
    assert all(description for _, description in keys.values())
    assert keys["train.finetune.lr"][0] == "0.001"
    assert {"seed", "data.limit.train", "train.joint.clip", "evaluation.samples"} <= set(keys)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["no", "off", "1e-4", "1.5", "010", "~", "null", "", "12:30", "<<", "0x10", "true", "=", ".nan"])
    | st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc_", min_size=1), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text("abcxyz_", min_size=1), VALUES, max_size=4))
def test_reading_what_was_written_is_the_identity(value: dict[str, object]) -> None:
    assert parse_yaml(write_yaml(value), "text") == value


def test_the_model_section_is_the_whole_architecture_and_its_weights() -> None:
    keys = {key.removeprefix("model."): words for key, _, words in describe_keys() if key.startswith("model.")}
    assert list(keys) == [*Architecture.model_fields, "weights"] and all(keys.values())
    config = load_config(None, ["model.backbone=tiny", "model.fg_iou=0.7", "model.frozen_norm=no", "model.norm_eps=0"])
    assert config.model.architecture == Architecture(backbone="tiny", fg_iou=0.7, frozen_norm=False, norm_eps=0.0)


def test_keys_of_the_first_version_work_in_files_and_on_the_command_line(tmp_path: Path) -> None:
    """``goldens/model.yaml`` is a section that it froze; never write it anew."""
    stored = (Path(__file__).parents[1] / "goldens" / "model.yaml").read_text()
    (tmp_path / "old.yaml").write_text(stored)
    assert load_config(tmp_path / "old.yaml").model.detections_per_img == 50
    for name in ("detections", "detections_per_img"):
        config = load_config(tmp_path / "old.yaml", [f"model.{name}=7"])
        assert config.model.detections_per_img == 7
        config.dump(tmp_path / "new.yaml")
        assert load_config(tmp_path / "new.yaml") == config
    with pytest.raises(InputError, match="command line: key model.detections_per_img: is 0"):
        load_config(tmp_path / "new.yaml", ["model.detections=0"])
