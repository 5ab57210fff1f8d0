from __future__ import annotations

from helpers import record

from incdet.data.records import LabelledSet
from incdet.data.review import count_lines, repeated, review, without_repeated


def labelled(*records: object, names: tuple[str, ...] = ("cat", "dog")) -> LabelledSet:
    ids = {name: number for number, name in enumerate(names, start=1)}
    return LabelledSet(records, names, ids, origin="here")  # type: ignore[arg-type]


BOTH = ("cat", "dog")


def test_counts_say_what_a_set_holds() -> None:
    data = labelled(
        record("a.png", ("cat", "cat"), coverage=BOTH, ignore=[True, False], boxes=[[1, 1, 9, 9], [20, 1, 40, 9]]),
        record("b.png", (), number=2, coverage=BOTH),
        record("c.png", ("cat",), number=3, coverage=("cat",)),
    )
    assert data.describe() == "here: 3 images, 3 boxes, 2 classes"
    assert [line.split() for line in count_lines(data)[:3]] == [
        ["class", "boxes", "images"],
        ["cat", "3", "2"],
        ["dog", "0", "0"],
    ]
    assert count_lines(data)[3] == "  1 objects ignored, 1 images without any object, 1 images annotated in part"


def test_many_classes_are_summed_up() -> None:
    names = tuple(f"c{number:04}" for number in range(1203))
    lines = count_lines(labelled(record("a.png", names[:3], coverage=names), names=names))
    assert len(lines) == 43 and lines[-2] == "  ... and 1163 more classes with 0 boxes"


def test_an_object_that_stands_twice_is_told_and_can_be_taken_out() -> None:
    box = [4.0, 5.0, 24.0, 25.0]
    moved = [4.4, 5.0, 24.0, 24.2]
    one = record("a.png", ("cat", "dog", "cat", "cat"), boxes=[box, box, moved, [4, 5, 24, 28]], coverage=BOTH)
    assert repeated(one) == [2]
    cleaned = without_repeated(one)
    assert cleaned.names == ("cat", "dog", "cat") and cleaned.boxes[2].tolist() == [4, 5, 24, 28]
    assert without_repeated(cleaned) is cleaned
    (warning,) = review(labelled(one))
    assert warning.severity == "warning" and "1 box(es): the first, cat (4.4, 5, 24, 24.2), stand(s) twice" in str(
        warning
    )


def test_tiny_objects_empty_classes_and_look_alikes_are_told() -> None:
    data = labelled(
        record("a.png", ("cat", "Cat"), boxes=[[1, 1, 2.5, 30], [8, 8, 20, 20]], coverage=("cat", "Cat", "cow")),
        names=("cat", "cow", "Cat"),
    )
    said = [(finding.item, finding.problem.split(":")[0]) for finding in review(data)]
    assert said[0] == ("image 1", "1 box(es)")
    assert said[1] == ("class 'cow'", "has no object")
    assert said[2][0] == "class 'Cat'" and "looks like 'cat'" in said[2][1]
    assert review(labelled(record("a.png", BOTH, boxes=[[1, 1, 9, 9], [20, 20, 40, 40]]))) == []
