from __future__ import annotations

import os
from pathlib import Path

import pytest
from helpers import record

from incdet.data.formats.draft import Draft, finish
from incdet.data.records import FaultyData


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    (tmp_path / "a.jpg").touch()
    return tmp_path / "a.jpg"


def test_what_remains_of_faulty_drafts_are_their_sound_objects(picture: Path) -> None:
    good, bad, lost = (Draft(Path(f"{name}.txt"), picture, size=(60, 40)) for name in "abc")
    lost.image = picture.with_name("gone.jpg")
    for draft in (good, bad, lost):
        draft.add("line 1", (1, 2, 30, 20), "cat")
    bad.add("line 2", (5, 5, 5, 9), "cat")
    bad.add("line 3", (5, 5, 50, 9), "dgo")
    assert not lost.require_picture()
    with pytest.raises(FaultyData) as caught:
        finish([good, bad, lost], ["cat", "dog"])
    assert [Path(f.file).name for f in caught.value.findings] == ["b.txt", "c.txt", "b.txt"]
    assert "did you mean 'dog'" in caught.value.findings[2].fix
    rest = caught.value.rest()
    assert [one.names for one in rest.records] == [("cat",), ("cat",)] and rest.names == ("cat", "dog")


def test_a_picture_whose_name_is_no_text_is_refused() -> None:
    draft = Draft(Path("a.txt"), Path(os.fsdecode(b"\xff.jpg")), size=(60, 40))
    with pytest.raises(FaultyData, match="has a name that is no text -> rename it") as caught:
        finish([draft], ["cat"])
    str(caught.value).encode("utf-8")


def test_a_sound_draft_is_its_record(picture: Path) -> None:
    draft = Draft(Path("a.txt"), picture, "img-1", (48, 48), covered=frozenset({"cat"}))
    draft.add("line 1", (4, 5, 24, 25), "cat")
    (one,) = finish([draft], ["cat", "dog"]).records
    assert (one.source_id, one.image_id) == ("img-1", 1)
    assert one.boxes.tolist() == record(picture, ["cat"]).boxes.tolist() and one.coverage == {"cat"}
