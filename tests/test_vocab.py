from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from incdet.errors import InputError
from incdet.vocab import Vocabulary, clean_name, look_alikes, name_problem

VOCAB = Vocabulary((("cat", "dog"), ("cow",), ("bus", "car")))
STEPS = st.lists(st.text("abcdef", min_size=1, max_size=3), min_size=1, max_size=9, unique=True).flatmap(
    lambda names: st.lists(st.integers(1, len(names)), max_size=3).map(lambda cuts: split(names, cuts))
)


def split(names: list[str], cuts: list[int]) -> tuple[tuple[str, ...], ...]:
    edges = sorted({0, len(names), *cuts})
    return tuple(tuple(names[a:b]) for a, b in zip(edges, edges[1:], strict=False))


def test_names_columns_and_steps() -> None:
    assert VOCAB.names == ("cat", "dog", "cow", "bus", "car") and len(VOCAB) == 5
    assert VOCAB.column("cow") == 2 and VOCAB.columns(["car", "cat"]) == [4, 0]
    assert [VOCAB.step_of(name) for name in VOCAB.names] == [1, 1, 2, 3, 3]
    assert VOCAB.seen(2) == ("cat", "dog", "cow") and VOCAB.old(2) == ("cat", "dog") and VOCAB.new(2) == ("cow",)
    assert VOCAB.old(1) == ()
    assert "cow" in VOCAB and "cows" not in VOCAB and 3 not in VOCAB


@given(STEPS)
def test_every_name_has_one_column_and_one_step(steps: tuple[tuple[str, ...], ...]) -> None:
    vocab = Vocabulary(steps)
    assert [vocab.column(name) for name in vocab.names] == list(range(len(vocab)))
    for number, step in enumerate(steps, start=1):
        assert {vocab.step_of(name) for name in step} == {number}
        assert vocab.seen(number) == vocab.old(number) + vocab.new(number)
    assert Vocabulary.from_json(json.loads(json.dumps(vocab.to_json()))) == vocab


def test_growth_moves_no_column() -> None:
    grown = VOCAB.grow(["van", "ant"])
    assert grown.names[:5] == VOCAB.names and grown.columns(["van", "ant"]) == [5, 6]
    assert grown.step_of("ant") == 4 and len(VOCAB) == 5


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ((("cat", "cat"),), "'cat'"),
        ((("cat",), ("dog", "cat")), "again in step 2"),
        ((("cat",), ()), "step 2"),
        (((" ",),), "' '"),
        (((3,),), "3"),
    ],
)
def test_invalid_steps_are_refused(steps: tuple[tuple[str, ...], ...], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Vocabulary(steps)


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(InputError) as caught:
        Vocabulary((("cat", "cat"), (), ("",)))
    assert len(caught.value.findings) == 3


def test_growing_by_a_known_class_is_refused() -> None:
    with pytest.raises(InputError, match="'dog'.*already known"):
        VOCAB.grow(["ant", "dog"])


def test_an_unknown_name_brings_the_near_one() -> None:
    with pytest.raises(InputError, match="'cat'"):
        VOCAB.column("cats")
    with pytest.raises(InputError):
        VOCAB.step_of("zebra")


def test_source_ids_are_kept_through_growth_and_json() -> None:
    vocab = Vocabulary((("cat",),), {"cat": 17}).grow(["dog"], {"dog": 3}).grow(["ant"])
    assert [vocab.source_id(name) for name in vocab.names] == [17, 3, 3]  # without one: column + 1
    assert Vocabulary.from_json(vocab.to_json()).source_ids == {"cat": 17, "dog": 3}
    assert VOCAB.source_id("bus") == 4 and VOCAB.grow(["ant"]).source_ids is None


# --- names


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("star ", "star"),
        ("traffic\u00a0light", "traffic light"),
        ("cafe\u0301", "caf\u00e9"),
        ("\ufeffcat\n", "cat"),
        ("\uff23\uff29\uff32\uff23\uff2c\uff25", "\uff23\uff29\uff32\uff23\uff2c\uff25"),
    ],
)
def test_names_are_composed_and_stripped(written: str, name: str) -> None:
    assert clean_name(written) == name
    assert Vocabulary(((written,),)).names == (name,)


def test_look_alikes_of_known_names_are_told() -> None:
    known = ("circle", "traffic light", "c++", "c#", "straße")
    names = ["Circle", "circle", "traffic_light", "\uff23ircle", "Traffic-Light", "c", "STRASSE", "star"]
    assert look_alikes(names, known) == {
        "Circle": "circle",
        "traffic_light": "traffic light",
        "\uff23ircle": "circle",
        "Traffic-Light": "traffic light",
        "STRASSE": "straße",
    }


@pytest.mark.parametrize("name", ["", " \n", "a\x1b[31m", "\ud800", "x" * 201, 7, None])
def test_what_cannot_be_a_name_is_said(name: object) -> None:
    assert name_problem(name)
    with pytest.raises(InputError):
        Vocabulary(((name,),))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name", ["R&D cart", "[/b]", "$x_{$", "<script>", "\u96fb\u8eca", "\U0001f468\u200d\U0001f469"]
)
def test_any_other_text_can(name: str) -> None:
    assert name_problem(name) == ""


def test_a_string_is_no_list_of_names() -> None:
    words: Any = "tram"
    for build in (Vocabulary((("cat",),)).grow, Vocabulary, lambda step: Vocabulary((step,))):
        with pytest.raises(InputError, match=r"'tram', which is no list -> give a list: \['tram'\]"):
            build(words)
