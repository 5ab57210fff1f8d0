from __future__ import annotations

import json
import shutil
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from helpers import record

from incdet.data.dataset import read_image
from incdet.errors import InputError, OutputError
from incdet.memory.exemplars import Budget, Memory
from incdet.memory.manifest import load_memory, save_memory

NAMES = ("ant", "bee", "cow", "dog")


@pytest.fixture
def on_disk(tmp_path: Path) -> Memory:
    import cv2

    data = tmp_path / "data"
    data.mkdir()
    rows = []
    for number, names in enumerate(permutations(NAMES[:2])):
        path = data / f"{number}.png"
        cv2.imwrite(str(path), np.full((48, 48, 3), 60 * number + 20, np.uint8))
        rows.append(record(path, names, number=number + 5, coverage=NAMES[:3], ignore=[False, number == 1]))
    return Memory(Budget(total=6), {"ant": (rows[1],), "bee": (rows[0],), "cow": ()})


def test_a_manifest_reproduces_the_memory(on_disk: Memory, tmp_path: Path) -> None:
    path = tmp_path / "run" / "memory" / "step_1.json"
    assert save_memory(on_disk, path) is on_disk
    assert load_memory(path) == on_disk
    value = json.loads(path.read_text())
    assert value["images"] == 2 and value["bytes"] == on_disk.bytes > 0
    assert sorted(one.name for one in path.parent.iterdir()) == ["step_1.json"]


def test_ids_of_the_source_and_the_cameras_turn_are_kept(on_disk: Memory, tmp_path: Path) -> None:
    (one,) = on_disk.exemplars["ant"]
    kept = replace(on_disk, exemplars={"ant": (replace(one, source_id="img-7", exif="ignore"),)})
    save_memory(kept, tmp_path / "step_1.json")
    (again,) = load_memory(tmp_path / "step_1.json").exemplars["ant"]
    assert (again.source_id, again.exif, again.image_id) == ("img-7", "ignore", one.image_id)


def test_the_manifest_continues_as_the_memory_would(on_disk: Memory, tmp_path: Path) -> None:
    save_memory(on_disk, tmp_path / "step_1.json")
    more = [record(f"n{i}.png", ["dog"]) for i in range(4)]
    here, there = (
        one.update(more, ["dog"], selection="random") for one in (on_disk, load_memory(tmp_path / "step_1.json"))
    )
    assert here == there


@pytest.mark.parametrize("moved", [False, True])
def test_with_copied_pixels_the_old_data_may_go(on_disk: Memory, tmp_path: Path, moved: bool) -> None:
    path = tmp_path / "run" / "step_1.json"
    before = {name: [read_image(one) for one in ranked] for name, ranked in on_disk.exemplars.items()}
    saved = save_memory(on_disk, path, copy_images=True)
    shutil.rmtree(tmp_path / "data")
    if moved:
        path = path.parent.rename(tmp_path / "elsewhere") / path.name
    loaded = load_memory(path)
    assert moved or loaded == saved
    for name, ranked in loaded.exemplars.items():
        assert [one.names for one in ranked] == [one.names for one in on_disk.exemplars[name]]
        assert all(one.image.is_relative_to(path.parent) for one in ranked)
        for one, pixels in zip(ranked, before[name], strict=True):
            assert np.array_equal(read_image(one), pixels)


def test_copies_of_equal_names_do_not_collide_and_are_copied_once(tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "1.jpg").write_bytes(bytes([number]))
    memory = Memory(Budget(per_class=2), {"ant": tuple(record(tmp_path / str(n) / "1.jpg", ["ant"]) for n in range(2))})
    saved = save_memory(memory, tmp_path / "run" / "step_1.json", copy_images=True)
    assert [one.image.read_bytes() for one in saved] == [b"\0", b"\1"]
    assert save_memory(saved, tmp_path / "run" / "step_2.json", copy_images=True) == saved
    assert len(list((tmp_path / "run" / "images").iterdir())) == 2


def test_a_missing_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="step_9.json.*does not exist"):
        load_memory(tmp_path / "step_9.json")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_manifest_that_is_cut_off_is_refused(on_disk: Memory, tmp_path: Path, share: float) -> None:
    path = tmp_path / "step_1.json"
    save_memory(on_disk, path)
    text = path.read_text()
    path.write_text(text[: int(share * len(text))])
    with pytest.raises(InputError, match="step_1.json.*cut off"):
        load_memory(path)


@pytest.mark.parametrize("text", ["[]", "{}", '{"exemplars": {"ant": [{}]}, "budget": {"total": 1}}'])
def test_json_that_is_no_manifest_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "step_1.json"
    path.write_text(text)
    with pytest.raises(InputError, match="step_1.json"):
        load_memory(path)


def test_a_manifest_whose_images_are_gone_is_refused(on_disk: Memory, tmp_path: Path) -> None:
    save_memory(on_disk, tmp_path / "step_1.json")
    (tmp_path / "data" / "0.png").unlink()
    with pytest.raises(InputError, match="1 images are missing.*0.png"):
        load_memory(tmp_path / "step_1.json")


def test_a_picture_that_was_exchanged_is_refused(on_disk: Memory, tmp_path: Path) -> None:
    save_memory(on_disk, tmp_path / "step_1.json")
    shutil.copy(tmp_path / "data" / "1.png", tmp_path / "data" / "0.png")
    with pytest.raises(InputError, match="1 images are not those that were stored.*0.png.*--old-data.*memory.total=0"):
        load_memory(tmp_path / "step_1.json")


def test_a_manifest_that_was_edited_is_refused(on_disk: Memory, tmp_path: Path) -> None:
    path = tmp_path / "step_1.json"
    save_memory(on_disk, path)
    content = json.loads(path.read_text())
    content["exemplars"]["ant"][0]["boxes"][0][0] += 1
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="step_1.json.*was changed"):
        load_memory(path)


def test_a_manifest_of_before_the_digests_is_read(on_disk: Memory, tmp_path: Path) -> None:
    path = tmp_path / "step_1.json"
    save_memory(on_disk, path)
    content = json.loads(path.read_text())
    del content["sha256"]
    for ranked in content["exemplars"].values():
        for entry in ranked:
            del entry["sha256"]
    path.write_text(json.dumps(content))
    assert load_memory(path) == on_disk


def test_pictures_below_the_root_move_with_it(on_disk: Memory, tmp_path: Path) -> None:
    """As the shapes set does, that is drawn into the run folder."""
    save_memory(on_disk, tmp_path / "memory" / "step_1.json", root=tmp_path)
    moved = shutil.copytree(tmp_path, tmp_path.with_name("moved"))
    shutil.rmtree(tmp_path / "data")
    images = [one.image for one in load_memory(moved / "memory" / "step_1.json")]
    assert images == [moved / "data" / one.image.name for one in on_disk]


def test_half_a_copy_is_not_used(on_disk: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    path, before = tmp_path / "run" / "step_1.json", resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30, before[1]))
    try:
        with pytest.raises(OutputError, match="images.*cannot be written"):
            save_memory(on_disk, path, copy_images=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list((tmp_path / "run" / "images").iterdir()) and not path.exists()
    first = save_memory(on_disk, path, copy_images=True)
    for one in first:  # as versions without whole copies left them
        one.image.write_bytes(one.image.read_bytes()[:30])
    assert save_memory(on_disk, path, copy_images=True) == first
    assert load_memory(path) == first
