from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from incdet.data.formats.reader import open_annotations
from incdet.errors import InputError

HEAD = "image_path,xmin,ymin,xmax,ymax,label\n"


def table(folder: Path, text: str, pictures: tuple[str, ...] = ("a.jpg", "b.jpg"), name: str = "boxes.csv") -> Path:
    for picture in pictures:
        (folder / picture).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / picture), np.zeros((50, 100, 3), np.uint8))
    (folder / name).write_text(text)
    return folder / name


@pytest.mark.parametrize(
    "text",
    [
        HEAD + "a.jpg,10,5,30,25,cat\na.jpg,1,2,9.5,8,dog\nb.jpg,,,,,\n",
        "\ufeffimage_path;xmin;ymin;xmax;ymax;label\na.jpg;10;5;30;25;cat\na.jpg;1;2;9.5;8;dog\nb.jpg;0;0;0;0;cat\n",
        "filename,width,height,class,xmin,ymin,xmax,ymax\na.jpg,100,50,cat,10,5,30,25\na.jpg,100,50,dog,1,2,9.5,8\n"
        "b.jpg,100,50,,,,,\n",
        "label_name,bbox_x,bbox_y,bbox_width,bbox_height,image_name,image_width,image_height\n"
        "cat,10,5,20,20,a.jpg,100,50\ndog,1,2,8.5,6,a.jpg,100,50\n,,,,,b.jpg,100,50\n",
        "image,x,y,w,h,name\na.jpg,10,5,20,20,cat\na.jpg,1,2,8.5,6,dog\nb.jpg,,,,,\n",
        "image,x,y,width,height,name\na.jpg,10,5,20,20,cat\na.jpg,1,2,8.5,6,dog\nb.jpg,,,,,\n",
        "Path\tX1\tY1\tX2\tY2\tClass\tScore\na.jpg\t10\t5\t30\t25\tcat\t\na.jpg\t1\t2\t9.5\t8\tdog\t1\nb.jpg\t\t\t\t\t\t\n",
        "a.jpg,10,5,30,25,cat\na.jpg,1,2,9.5,8,dog\nb.jpg,,,,,\n",
    ],
    ids=["DeepForest", "semicolons", "TensorFlow", "makesense", "sizes", "width", "tabs", "no header"],
)
def test_the_columns_of_many_tools_are_understood(tmp_path: Path, text: str) -> None:
    found = open_annotations(table(tmp_path, text))
    assert [record.image.name for record in found.records] == ["a.jpg", "b.jpg"]
    assert found.records[0].boxes.tolist() == [[10, 5, 30, 25], [1, 2, 9.5, 8]]
    assert found.records[0].names == ("cat", "dog") == found.names and found.records[1].names == ()


def test_pictures_lie_beside_or_in_a_folder_or_where_they_are_said_to(tmp_path: Path) -> None:
    text = HEAD + "a.jpg,10,5,30,25,cat\n"
    assert len(open_annotations(table(tmp_path / "x", text, ("images/a.jpg",)))) == 1
    file = table(tmp_path / "y", text, ("far/a.jpg",))
    with pytest.raises(InputError, match="row 2: names the missing picture a.jpg -> there is far/a.jpg"):
        open_annotations(file)
    assert len(open_annotations(file, tmp_path / "y" / "far")) == 1


def test_tables_of_a_folder_are_its_splits(tmp_path: Path) -> None:
    table(tmp_path, HEAD + "a.jpg,10,5,30,25,cat\n", name="train.csv")
    table(tmp_path, HEAD + "b.jpg,10,5,30,25,dog\n", name="test.csv")
    (tmp_path / "notes.csv").write_text("who,when\nme,now\n")
    found = open_annotations(tmp_path, purpose="test")
    assert found.origin == f"{tmp_path}: CSV, split test (of test, train)" and found.names == ("cat", "dog")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no row"),
        (HEAD, "has no row"),
        ("who,when\nme,now\n", "no column for image_path, xmin, ymin, bbox_width, bbox_height, label"),
        (HEAD + "a.jpg,10,5,x,25,cat\n", "row 2: has the box 10, 5, x, 25 -> write four numbers"),
        (HEAD + "a.jpg,10,5\n", "row 2: has the box"),
        (HEAD + "a.jpg,10,5,30,25,\n", "row 2: has the name"),
        (HEAD + ",10,5,30,25,cat\n", "row 2: names no picture"),
        (HEAD + "c.jpg,10,5,30,25,cat\n", "row 2: names the missing picture c.jpg"),
        (HEAD + "../a.jpg,10,5,30,25,cat\n", "row 2: names a picture outside"),
        (HEAD + "a.jpg,10,5,10,25,cat\n", "is empty"),
        (HEAD + "a.jpg,10,5,1e999,25,cat\n", "is not a number"),
        (HEAD + "a.jpg,10,5,130,25,cat\n", "30 px outside"),
        (HEAD.replace("label", "label,difficult") + "a.jpg,10,5,30,25,cat,maybe\n", "has the flag maybe"),
        ('"' * 200_001, "is no table|has no row|no column"),
        ("a" * 200_000 + ",1,2,3,4,cat\n", "is no table|missing picture"),
    ],
    ids=range(15),
)
def test_a_fault_names_the_row(tmp_path: Path, text: str, said: str) -> None:
    file = table(tmp_path, text)
    with pytest.raises(InputError, match=said) as caught:
        open_annotations(file)
    assert caught.value.findings[0].file == str(file) and len(str(caught.value)) < 1000
