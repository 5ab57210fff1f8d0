from __future__ import annotations

from pathlib import Path

import pytest

from incdet.data.formats.splits import Purpose, apart, choose_split, purpose_of
from incdet.errors import InputError

HERE = Path("data")


@pytest.mark.parametrize(
    ("splits", "purpose", "chosen"),
    [
        (["test", "train"], "train", "train"),
        (["test", "train"], "test", "test"),
        (["train", "valid"], "test", "valid"),
        (["train", "valid", "test"], "test", "test"),
        (["test", "train", "trainval", "val"], "train", "trainval"),
        (["train", "trainval", "val"], "train", "train"),  # so that val may be tested on
        (["train", "trainval", "val"], "test", "val"),
        (["test", "trainval"], "train", "trainval"),
        (["2007_test", "2007_trainval"], "test", "2007_test"),
        (["train2017", "val2017"], "train", "train2017"),
        (["default"], "train", "default"),
        (["default"], "test", "default"),
        ([""], "test", ""),
        (["", "train"], "test", ""),
    ],
)
def test_the_split_fits_the_purpose(splits: list[str], purpose: Purpose, chosen: str) -> None:
    assert choose_split(splits, None, purpose, HERE) == chosen


@pytest.mark.parametrize(
    ("splits", "purpose", "said"),
    [
        (["train"], "test", "no split to test on, only train -> name one: --split train"),
        (["trainval"], "test", "no split to test on"),
        (["test", "val"], "train", "no split to train on, only test, val"),
        (["2007_trainval", "2012_trainval"], "train", "several.*2007_trainval, 2012_trainval"),
        (["left", "right"], "train", "only left, right"),
    ],
)
def test_a_split_for_something_else_is_never_taken(splits: list[str], purpose: Purpose, said: str) -> None:
    with pytest.raises(InputError, match=said):
        choose_split(splits, None, purpose, HERE)


@pytest.mark.parametrize(
    ("splits", "wanted", "chosen"),
    [
        (["test", "train"], "train", "train"),
        (["2007_trainval", "2007_test"], "trainval", "2007_trainval"),
        (["trainval"], "2007_trainval", "trainval"),
    ],
)
def test_a_split_that_is_named_is_taken_whatever_the_purpose(splits: list[str], wanted: str, chosen: str) -> None:
    assert choose_split(splits, wanted, "test", HERE) == chosen


@pytest.mark.parametrize(
    ("splits", "wanted", "said"),
    [
        (["test", "train"], "trian", "did you mean 'train'"),
        (["2012_trainval"], "2007_trainval", "there is no '2007_trainval'"),
        (["2007_train", "2012_train"], "train", "--split 2007_train"),
        ([""], "train", "not split -> leave --split out"),
    ],
)
def test_a_split_that_is_not_there_is_refused(splits: list[str], wanted: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        choose_split(splits, wanted, "train", HERE)


def test_the_words_of_a_name_tell_what_a_split_is_for() -> None:
    assert [purpose_of(name) for name in ("instances_val2017", "Trainval", "restrained", "default")] == [
        "test",
        "train",
        None,
        None,
    ]


def test_a_check_goes_through_every_image_once() -> None:
    assert apart(["test", "train", "trainval", "val"]) == ["test", "train", "val"]
    assert apart(["test", "trainval"]) == ["test", "trainval"]
