"""What a step sees is a pure function of records, class order, step and rule; steps partition the classes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from incdet.data.protocols import (
    IMAGE_RULES,
    Protocol,
    check_protocol,
    class_order,
    joint_view,
    parse_steps,
    step_view,
    steps_of,
    subset,
)
from incdet.data.records import Record
from incdet.errors import InputError

NAMES = ("ant", "bee", "cow", "dog", "emu", "fox")
IDS = {"ant": 6, "bee": 5, "cow": 4, "dog": 3, "emu": 2, "fox": 1}


def record(number: int, *names: str, ignored: int = 0, coverage: tuple[str, ...] = NAMES) -> Record:
    boxes = [[i, i, i + 5, i + 6] for i in range(len(names))]
    ignore = [i < ignored for i in range(len(names))]
    return Record(
        Path(f"{number}.png"),
        number,
        50,
        50,
        np.array(boxes, np.float32).reshape(-1, 4),
        names,
        np.array(ignore, np.bool_),
        frozenset(coverage),
    )


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[Record], Protocol]:
    count = draw(st.integers(1, 8))
    records = []
    for number in range(count):
        names = draw(st.lists(st.sampled_from(NAMES), max_size=4))
        records.append(record(number, *names, ignored=draw(st.integers(0, len(names)))))
    order = draw(st.permutations(NAMES))
    cuts = draw(st.lists(st.integers(1, 5), unique=True, max_size=3))
    ends = [*sorted(cuts), 6]
    steps = tuple(tuple(order[a:b]) for a, b in zip([0, *ends[:-1]], ends, strict=True))
    return records, Protocol("p", "given", steps, draw(st.sampled_from(IMAGE_RULES)))


@given(cases())
def test_steps_show_their_own_classes_and_hide_the_rest(case: tuple[list[Record], Protocol]) -> None:
    records, protocol = case
    by_id = {r.image_id: r for r in records}
    assert sorted(protocol.names) == sorted(NAMES)
    seen_before: set[int] = set()
    for number, names in enumerate(protocol.steps, start=1):
        view = step_view(records, protocol, number)
        assert view.names == names
        ids = [r.image_id for r in view.records]
        assert ids == sorted(set(ids))
        for shown in view.records:
            assert shown == by_id[shown.image_id].restrict(names) and shown.coverage == set(names)
        assert view.boxes_visible == sum(len(r.names) for r in view.records)
        assert view.boxes_visible + view.boxes_hidden == sum(len(by_id[i].names) for i in ids)
        old = {name for step in protocol.steps[: number - 1] for name in step}
        assert view.boxes_hidden_old == sum(name in old for i in ids for name in by_id[i].names)
        assert view.shared_images == len(seen_before & set(ids))
        seen_before |= set(ids)


@given(cases())
def test_image_rules(case: tuple[list[Record], Protocol]) -> None:
    records, protocol = case
    for one in records:
        steps = steps_of(one, protocol)
        holders = [t for t, names in enumerate(protocol.steps, start=1) if one.counts(names)]
        if protocol.images == "all":
            assert list(steps) == list(range(1, len(protocol.steps) + 1))
        elif not one.names:
            assert len(steps) == (1 if protocol.images == "partition" else len(protocol.steps))
        elif protocol.images == "overlap":
            assert list(steps) == holders
        else:
            assert set(steps) <= set(holders) and len(steps) == bool(holders)


@given(cases())
def test_joint_shows_the_same_images_once_with_all_seen_boxes(case: tuple[list[Record], Protocol]) -> None:
    records, protocol = case
    for last in range(1, len(protocol.steps) + 1):
        ids = {r.image_id for t in range(1, last + 1) for r in step_view(records, protocol, t).records}
        view = joint_view(records, protocol, last)
        assert [r.image_id for r in view.records] == sorted(ids)
        seen = {name for names in protocol.steps[:last] for name in names}
        assert all(r.coverage == seen for r in view.records) and set(view.names) == seen
        assert view.boxes_hidden_old == 0


@given(st.permutations(NAMES), st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=3))
def test_written_steps_partition_the_order(order: list[str], parts: list[tuple[int, int]]) -> None:
    sizes = [size for size, times in parts for _ in range(times)]
    text = "+".join(f"{size}x{times}" for size, times in parts)
    longer = [*order, *(f"more{i}" for i in range(sum(sizes)))][: sum(sizes)]
    steps = parse_steps(text, longer)
    assert [len(step) for step in steps] == sizes
    assert [name for step in steps for name in step] == longer


@pytest.mark.parametrize(
    ("text", "count", "sizes"),
    [
        ("15+5", 20, [15, 5]),
        ("19+1", 20, [19, 1]),
        ("10+2x5", 20, [10, 2, 2, 2, 2, 2]),
        ("5x4", 20, [5, 5, 5, 5]),
        ("15+1x5", 20, [15, 1, 1, 1, 1, 1]),
        ("40+10x4", 80, [40, 10, 10, 10, 10]),
        ("40+20x2", 80, [40, 20, 20]),
        ("20", 20, [20]),
        (" 70 + 10 ", 80, [70, 10]),
    ],
)
def test_published_splits(text: str, count: int, sizes: list[int]) -> None:
    assert [len(step) for step in parse_steps(text, [str(i) for i in range(count)])] == sizes


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("15+4", "adds up to 19"),
        ("15+x", "cannot read 'x'"),
        ("", "cannot read ''"),
        ("0+20", "cannot read '0'"),
        ("10-10", "cannot read"),
        ([["0"], ["dgo"]], "dgo.*not in the data"),
        ([["0", "1"], ["1"]], "stands twice"),
        ([["0"], []], "has no class"),
    ],
)
def test_steps_that_cannot_be(spec: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        parse_steps(spec, [str(i) for i in range(20)])


def test_lists_of_names_may_leave_classes_out() -> None:
    assert parse_steps([["dog", "ant"], ["fox"]], NAMES) == (("dog", "ant"), ("fox",))


def test_orders(tmp_path: Path) -> None:
    shuffled = ("emu", "bee", "fox")
    assert class_order("alphabetical", ("fox", "bee"), IDS) == ("bee", "fox")
    assert class_order("id", NAMES, IDS) == ("fox", "emu", "dog", "cow", "bee", "ant")
    path = tmp_path / "order.txt"
    path.write_text("# mine\nemu\n\nbee  # second\nfox\n")
    assert class_order(str(path), NAMES, IDS) == shuffled == class_order(list(shuffled), NAMES, IDS)


def test_the_shuffle_is_numpys_legacy_permutation_of_the_id_order() -> None:
    by_id = ("fox", "emu", "dog", "cow", "bee", "ant")
    expected = tuple(by_id[i] for i in np.random.RandomState(123).permutation(6))
    assert class_order("shuffle:123", NAMES, IDS) == expected != by_id
    assert class_order("shuffle:123", NAMES[::-1], IDS) == expected


@pytest.mark.parametrize(("text", "words"), [("alphabet", "neither an order nor a file"), ("shuffle:x", "neither")])
def test_unknown_orders(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        class_order(text, NAMES, IDS)


def test_an_order_file_with_wrong_names(tmp_path: Path) -> None:
    path = tmp_path / "order.txt"
    path.write_text("ant\nbeee\nant\n")
    with pytest.raises(InputError) as caught:
        class_order(str(path), NAMES, IDS)
    assert [finding.problem for finding in caught.value.findings] == ["is not in the data", "stands twice"]
    assert caught.value.findings[0].fix == "did you mean 'bee'?" and caught.value.findings[0].file == str(path)


def two_steps(images: str = "overlap") -> Protocol:
    return Protocol("3+3", "alphabetical", (NAMES[:3], NAMES[3:]), images)


def test_the_hash_follows_what_the_step_sees_and_nothing_else() -> None:
    records = [record(1, "ant", "dog"), record(2, "dog")]
    view = step_view(records, two_steps(), 1)
    assert view.hash == step_view([record(1, "ant", "dog"), record(2, "dog")], two_steps(), 1).hash
    assert view.hash == step_view([record(1, "ant", "emu"), record(2, "dog")], two_steps(), 1).hash
    others = [
        [record(1, "bee", "dog"), record(2, "dog")],
        [record(3, "ant", "dog"), record(2, "dog")],
        [record(1, "ant", "ant"), record(2, "dog")],
        [record(1, "ant", "dog", ignored=1), record(2, "ant")],
        [record(1, "ant", "dog", coverage=("ant", "dog")), record(2, "dog")],
    ]
    assert len({view.hash, *(step_view(other, two_steps(), 1).hash for other in others)}) == 6


def test_the_protocol_hash_ignores_its_name_only() -> None:
    base = two_steps()
    assert Protocol("other", "id", base.steps, "overlap").hash == base.hash
    assert len({base.hash, two_steps("all").hash, Protocol("3+3", "", (NAMES[3:], NAMES[:3])).hash}) == 3


def test_partial_coverage_stays_partial() -> None:
    (shown,) = step_view([record(1, "ant", coverage=("ant", "dog"))], two_steps(), 1).records
    assert shown.coverage == {"ant"}


def test_an_image_with_ignored_objects_alone_belongs_to_no_step() -> None:
    assert steps_of(record(1, "ant", ignored=1), two_steps()) == ()
    assert steps_of(record(1, "ant", ignored=1), two_steps("all")) == (1, 2)


def test_partition_spreads_shared_images_over_the_steps() -> None:
    drawn = [steps_of(record(number, "ant", "dog"), two_steps("partition")) for number in range(200)]
    assert 60 < drawn.count((1,)) < 140 and drawn.count((1,)) + drawn.count((2,)) == 200


def test_json_round_trip_and_description() -> None:
    protocol = two_steps("partition")
    assert Protocol.from_json(protocol.to_json()) == protocol
    assert set(protocol.to_json()) == {"name", "order", "images", "old_labels", "hash", "steps"}
    view = step_view([record(1, "ant", "dog"), record(2, "dog", "emu", "ant")], two_steps(), 2)
    assert "2 images (2 seen before), 3 boxes visible, 2 hidden (2 of old classes)" in view.describe()
    assert view.hash in view.describe() and view.to_json()["boxes_hidden"] == 2 and view.images == 2


def test_the_vocabulary_of_a_protocol() -> None:
    vocab = two_steps().vocabulary(1, IDS)
    assert vocab.names == NAMES[:3] and vocab.source_id("cow") == 4
    assert two_steps().vocabulary().steps == two_steps().steps


def test_a_protocol_is_refused_early() -> None:
    with pytest.raises(InputError, match="did you mean 'overlap'"):
        two_steps("overlaps")
    with pytest.raises(InputError, match="already known"):
        Protocol("", "", (("ant",), ("ant",)))


def test_classes_that_the_data_lacks() -> None:
    protocol = Protocol("", "", (("ant", "bee"), ("gnu",), ("fox",)))
    findings = check_protocol(protocol, [record(1, "ant"), record(2, "fox", ignored=1)], NAMES)
    assert [(f.item, f.severity) for f in findings] == [
        ("class 'gnu'", "error"),
        ("class 'bee'", "warning"),
        ("step 2", "error"),
        ("step 3", "error"),
    ]


def test_a_subset_is_seeded_and_holds_wanted_objects() -> None:
    records = [record(i, "ant" if i % 2 else "fox") for i in range(40)]
    chosen = subset(records, ["ant"], 5, seed=3)
    assert chosen == subset(records, ["ant"], 5, seed=3) != subset(records, ["ant"], 5, seed=4)
    assert len(chosen) == 5 and all(r.counts(["ant"]) for r in chosen)
    assert [r.image_id for r in chosen] == sorted(r.image_id for r in chosen)
    assert len(subset(records, ["ant"], 99)) == 20 and subset(records, ["ant"], None) == tuple(records)


@pytest.mark.parametrize(("rule", "ids", "boxes"), [("hide", [2, 3], 3), ("use", [2, 3], 4), ("keep", [1, 2, 3], 5)])
def test_labels_of_earlier_classes_are_hidden_used_or_keep_their_images(rule: str, ids: list[int], boxes: int) -> None:
    records = [record(1, "ant"), record(2, "dog", "ant"), record(3, "emu", "dog")]
    protocol = replace(two_steps(), old_labels=rule)
    view = step_view(records, protocol, 2)
    assert [one.image_id for one in view.records] == ids and view.boxes_visible == boxes
    assert view.names == two_steps().steps[1] and view.refreshed == (("ant",) if rule != "hide" else ())
    assert all(("ant" in one.coverage) == (rule != "hide") for one in view.records)
    assert (protocol.hash == two_steps().hash) == (rule == "hide")
    assert Protocol.from_json(protocol.to_json()) == protocol


def test_an_unknown_rule_for_labels_is_refused() -> None:
    with pytest.raises(InputError, match="old_labels.*did you mean 'keep'"):
        replace(two_steps(), old_labels="kep")


def test_names_are_meant_however_they_are_composed() -> None:
    names, ids = ("caf\u00e9", "bus"), {"caf\u00e9": 1, "bus": 2}
    assert class_order(["cafe\u0301 ", "bus"], names, ids) == names
    assert parse_steps([["cafe\u0301"], [" bus"]], names) == (("caf\u00e9",), ("bus",))


def test_later_steps_alone_get_fewer_images_and_joint_training_has_those_of_all_steps() -> None:
    records = [record(n, "ant", "dog") for n in range(1, 5)] + [record(n, "dog") for n in range(5, 20)]
    whole, protocol = two_steps(), replace(two_steps(), images_per_class=6, hidden_share=0.5)
    assert step_view(records, protocol, 1) == step_view(records, whole, 1)
    view = step_view(records, protocol, 2)
    assert view.images == 6 and 0 < view.shared_images <= 4 and view.boxes_hidden_old == view.shared_images
    seen = {one.image_id for step in (1, 2) for one in step_view(records, protocol, step).records}
    assert {one.image_id for one in joint_view(records, protocol, 2).records} == seen
    assert len({one.hash for one in (whole, protocol, replace(whole, images_per_class=6))}) == 3
    assert Protocol.from_json(protocol.to_json()) == protocol
    apart = step_view(records, replace(whole, hidden_share=0.0), 2)
    assert (apart.images, apart.boxes_hidden_old) == (15, 0)


def test_images_of_earlier_classes_alone_are_kept_beside_the_fewer_of_new_ones() -> None:
    records = [record(1, "ant"), *(record(n, "dog") for n in range(2, 9))]
    view = step_view(records, replace(two_steps(), old_labels="keep", images_per_class=3), 2)
    assert view.images == 4 and view.records[0].image_id == 1


def test_a_share_that_leaves_a_step_no_image_is_refused() -> None:
    protocol = replace(two_steps(), hidden_share=1.0)
    (finding,) = [f for f in check_protocol(protocol, [record(1, *NAMES[:3]), record(2, *NAMES[3:])], NAMES)]
    assert finding.severity == "error" and "leaves step 2 no image" in finding.problem
    assert not check_protocol(protocol, [record(1, *NAMES)], NAMES)
