"""Protocols: which classes, images and boxes every step may see; pure functions, hashed, printed before training."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from incdet.data.records import Record
from incdet.data.scarce import few_of_each, with_share
from incdet.errors import Finding, InputError, suggest
from incdet.vocab import Vocabulary, clean_name

IMAGE_RULES = ("overlap", "partition", "all")
LABEL_RULES = ("hide", "use", "keep")


@dataclass(frozen=True)
class Protocol:
    """Class order, steps and image rule of an experiment.

    Attributes:
        name: For people and tables, for example ``15+5``.
        order: How the classes were ordered, for example ``alphabetical``.
        steps: Class names of every step; no class stands twice. The last may be empty: it refreshes the earlier ones.
        images: ``overlap`` (an image belongs to every step that has one of its classes), ``partition`` (to exactly
            one of those, drawn by its id) or ``all`` (every image in every step). Labels of later steps are hidden.
        old_labels: What a step makes of labels of earlier steps in its images: ``hide`` them, the protocol of papers;
            ``use`` them, so that such an image refreshes old classes while it teaches new ones; or ``keep`` those
            images too that show old classes alone. Coverage says image by image which classes are annotated.
        images_per_class: Most images for each class of a step after the first; None takes all there are.
        hidden_share: Share of such a step's images that show classes of earlier steps, whose labels are hidden: images
            are left out until it holds; None takes them as they are.
    """

    name: str
    order: str
    steps: tuple[tuple[str, ...], ...]
    images: str = "overlap"
    old_labels: str = "hide"
    images_per_class: int | None = None
    hidden_share: float | None = None

    def __post_init__(self) -> None:
        refreshes = len(self.steps) > 1 and not self.steps[-1]
        taught = Vocabulary(self.steps[:-1] if refreshes else self.steps).steps
        object.__setattr__(self, "steps", (*taught, ()) if refreshes else taught)
        if self.images not in IMAGE_RULES:
            raise InputError(
                Finding("protocol", "key images", f"is {self.images!r}", suggest(self.images, IMAGE_RULES))
            )
        if self.old_labels not in LABEL_RULES:
            raise InputError(
                Finding("protocol", "key old_labels", f"is {self.old_labels!r}", suggest(self.old_labels, LABEL_RULES))
            )

    @cached_property
    def names(self) -> tuple[str, ...]:
        """All classes, step after step."""
        return tuple(name for step in self.steps for name in step)

    @cached_property
    def hash(self) -> str:
        """16 hex digits over steps and image rule (not over the name, nor how the order was written)."""
        rules = [self.images] if self.old_labels == "hide" else [self.images, self.old_labels]
        return _digest([json.dumps([self.steps, *rules, *self.scarcity.items()])])

    @property
    def scarcity(self) -> dict[str, float]:
        """What leaves images out of the steps after the first, by the names of the fields."""
        given = {"images_per_class": self.images_per_class, "hidden_share": self.hidden_share}
        return {key: value for key, value in given.items() if value is not None}

    def vocabulary(self, step: int | None = None, source_ids: Mapping[str, int] | None = None) -> Vocabulary:
        """The classes seen up to ``step`` (default: all)."""
        ids = None if source_ids is None else {name: source_ids[name] for name in self.names if name in source_ids}
        return Vocabulary(tuple(names for names in self.steps[:step] if names), ids)

    def to_json(self) -> dict[str, Any]:
        """The ``protocol`` entry of results.json."""
        return {
            "name": self.name,
            "order": self.order,
            "images": self.images,
            "old_labels": self.old_labels,
            **self.scarcity,
            "hash": self.hash,
            "steps": [list(step) for step in self.steps],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Protocol:
        """The inverse of ``to_json``."""
        steps = tuple(tuple(step) for step in value["steps"])
        scarcity = (value.get("images_per_class"), value.get("hidden_share"))
        return cls(value["name"], value["order"], steps, value["images"], value.get("old_labels", "hide"), *scarcity)


@dataclass(frozen=True)
class StepView:
    """What a step sees: restricted records and the figures to print.

    Attributes:
        step: t, from 1.
        names: The classes it learns.
        refreshed: Earlier classes whose labels it uses too, where its images have some.
        records: Boxes and coverage restricted to ``names`` and ``refreshed``.
        boxes_visible: Visible boxes.
        boxes_hidden: Boxes of other classes in the same images, which the step may not see.
        boxes_hidden_old: Those of them that belong to earlier steps.
        shared_images: Images that an earlier step has seen too.
        hash: 16 hex digits over image ids, visible boxes, names and coverage.
    """

    step: int
    names: tuple[str, ...]
    records: tuple[Record, ...]
    boxes_visible: int
    boxes_hidden: int
    boxes_hidden_old: int
    shared_images: int
    hash: str
    refreshed: tuple[str, ...] = ()

    @property
    def images(self) -> int:
        """How many images the step has."""
        return len(self.records)

    def describe(self) -> str:
        """The line that is printed before training."""
        again = f"refreshes {', '.join(self.refreshed)}" if self.refreshed else ""
        new = f"{len(self.names)} classes ({', '.join(self.names)})" if self.names else ""
        return (
            f"step {self.step}: {', '.join(filter(None, (new, again)))}, {self.images} images "
            f"({self.shared_images} seen before), {self.boxes_visible} boxes visible, {self.boxes_hidden} hidden "
            f"({self.boxes_hidden_old} of old classes), hash {self.hash}"
        )

    def to_json(self) -> dict[str, Any]:
        """The figures without the records."""
        return {
            "step": self.step,
            "names": list(self.names),
            "images": self.images,
            "boxes_visible": self.boxes_visible,
            "boxes_hidden": self.boxes_hidden,
            "boxes_hidden_old": self.boxes_hidden_old,
            "shared_images": self.shared_images,
            "hash": self.hash,
        }


def class_order(spec: str | Sequence[str], names: Sequence[str], source_ids: Mapping[str, int]) -> tuple[str, ...]:
    """The classes in the order that ``spec`` asks for.

    Args:
        spec: ``alphabetical``; ``id`` (ascending source id); ``shuffle:<seed>`` (the id order permuted by
            ``numpy.random.RandomState(seed).permutation``, numpy's legacy generator); a text file with one name a
            line (``#`` starts a comment); or the names themselves. The last two may name a part of the classes.
        names: All classes of the data.
        source_ids: Their category ids.

    Raises:
        InputError: The order is unknown, names a class the data lacks, or names one twice.
    """
    by_id = sorted(names, key=lambda name: source_ids[name])
    if not isinstance(spec, str):
        return _known(spec, names, "class order")
    if spec == "alphabetical":
        return tuple(sorted(names))
    if spec == "id":
        return tuple(by_id)
    if match := re.fullmatch(r"shuffle:(\d+)", spec):
        return tuple(by_id[i] for i in np.random.RandomState(int(match[1])).permutation(len(by_id)))
    path = Path(spec)
    if path.is_file():
        lines = (line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
        return _known([line for line in lines if line], names, str(path))
    raise InputError(
        Finding(
            "protocol",
            "key order",
            f"{spec!r} is neither an order nor a file of names",
            "use alphabetical, id, shuffle:<seed>, or a text file with one name a line",
        )
    )


def parse_steps(spec: str | Sequence[Sequence[str]], order: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """The class names of every step.

    Args:
        spec: Sizes as in ``15+5``, ``10+2x5`` (10, then five steps of 2), ``5x4`` (four steps of 5); their sum must
            be ``len(order)``. Or the names, step by step, which may leave classes of ``order`` out.
        order: The class order.

    Raises:
        InputError: The text cannot be read, the sizes do not add up, or a name is unknown or stands twice.
    """
    if not isinstance(spec, str):
        _known([name for step in spec for name in step], order, "protocol")
        return Vocabulary(tuple(tuple(step) for step in spec)).steps
    sizes: list[int] = []
    for part in spec.replace(" ", "").split("+"):
        match = re.fullmatch(r"([1-9]\d*)(?:x([1-9]\d*))?", part)
        if not match:
            raise InputError(
                Finding(
                    "protocol",
                    f"steps {spec!r}",
                    f"cannot read {part!r}",
                    "write sizes such as 15+5, 10+2x5 (five steps of 2) or lists of names",
                )
            )
        sizes += [int(match[1])] * int(match[2] or 1)
    if sum(sizes) != len(order):
        raise InputError(
            Finding(
                "protocol",
                f"steps {spec!r}",
                f"adds up to {sum(sizes)} classes, the order has {len(order)}",
                "make the sizes add up, or name the classes in the order (or the steps) yourself",
            )
        )
    ends = np.cumsum(sizes)
    return tuple(tuple(order[end - size : end]) for size, end in zip(sizes, ends.tolist(), strict=True))


def check_protocol(protocol: Protocol, records: Sequence[Record], names: Sequence[str]) -> list[Finding]:
    """Errors for classes and steps that the data cannot serve, warnings for classes without a counted box."""
    findings = _unknown(protocol.names, names, "protocol")
    present = {name for record in records for name, skip in zip(record.names, record.ignore, strict=True) if not skip}
    for number, step in enumerate(protocol.steps, start=1):
        if not present.intersection(step):
            findings.append(
                Finding(
                    "protocol",
                    f"step {number}",
                    f"the data holds no box of {', '.join(step)}",
                    "choose classes that the training images show",
                )
            )
            continue
        findings += [
            Finding(
                "protocol",
                f"class {name!r}",
                "has no box in the training data",
                "add images of it or leave it out",
                "warning",
            )
            for name in step
            if name in names and name not in present
        ]
        scarce = number > 1 and protocol.hidden_share is not None
        if scarce and not any(record.counts(step) for record in _members(records, protocol, number)):
            findings.append(
                Finding(
                    "protocol",
                    "key hidden_share",
                    f"{protocol.hidden_share} leaves step {number} no image: none shows an earlier class",
                    "give a smaller share, or leave it out",
                )
            )
    return findings


def step_view(records: Sequence[Record], protocol: Protocol, step: int) -> StepView:
    """What ``step`` (from 1) sees: its images, with the boxes and coverage of its own classes.

    Under ``old_labels`` ``use`` and ``keep`` those of earlier classes are visible too, and ``keep`` adds the images
    that show earlier classes alone.
    """
    members = _members(records, protocol, step)
    shared = sum(min(steps_of(record, protocol)) < step for record in members)
    old = () if protocol.old_labels == "hide" else protocol.vocabulary(step).old(step)
    return _view(members, protocol, step, protocol.steps[step - 1], shared, old)


def joint_view(records: Sequence[Record], protocol: Protocol, step: int) -> StepView:
    """All images of the steps up to ``step``, once each, with the boxes of all classes seen: the upper bound's data."""
    members = [record for record in records if any(t <= step for t in steps_of(record, protocol))]
    if protocol.scarcity:
        seen = {record.source_id for t in range(1, step + 1) for record in _members(records, protocol, t)}
        members = [record for record in members if record.source_id in seen]
    names = tuple(name for names in protocol.steps[:step] for name in names)
    return _view(members, protocol, step, names, 0)


def _members(records: Sequence[Record], protocol: Protocol, step: int) -> list[Record]:
    """The images of ``step``, with all their labels, in source order."""
    reached = {step} if protocol.old_labels != "keep" else {*range(1, step + 1)}
    homes = [(record, steps_of(record, protocol)) for record in records]
    members = [record for record, steps in homes if reached.intersection(steps)]
    if step == 1 or not protocol.scarcity:
        return members
    own = [record for record in members if step in steps_of(record, protocol)]
    if protocol.hidden_share is not None:
        earlier = [name for names in protocol.steps[: step - 1] for name in names]
        own = with_share(own, earlier, protocol.hidden_share)
    if protocol.images_per_class is not None:
        own = few_of_each(own, protocol.steps[step - 1], protocol.images_per_class)
    kept = {record.source_id for record in own}
    return [record for record in members if record.source_id in kept or step not in steps_of(record, protocol)]


def steps_of(record: Record, protocol: Protocol) -> tuple[int, ...]:
    """The steps (ascending) that an image belongs to.

    An image without any box is evidence for every class, so every step may have it; one that holds only ignored
    objects or classes outside the protocol belongs to no step (but under ``all`` to each).
    """
    every = tuple(range(1, len(protocol.steps) + 1))
    if protocol.images == "all":
        return every
    holders = every if not record.names else tuple(t for t in every if record.counts(protocol.steps[t - 1]))
    if protocol.images == "overlap" or not holders:
        return holders
    digest = hashlib.sha256(f"incdet partition {record.source_id}".encode()).digest()
    return (holders[int.from_bytes(digest[:8], "big") % len(holders)],)


def subset(records: Sequence[Record], names: Iterable[str], count: int | None, seed: int = 0) -> tuple[Record, ...]:
    """At most ``count`` of the images that hold a counted object of ``names``, drawn by ``seed``, in source order."""
    if count is None:
        return tuple(records)
    wanted = frozenset(names)
    holders = [row for row, record in enumerate(records) if record.counts(wanted)]
    drawn = np.random.default_rng(seed).permutation(len(holders))[:count]
    return tuple(records[holders[i]] for i in sorted(drawn.tolist()))


def _view(
    members: list[Record],
    protocol: Protocol,
    step: int,
    names: tuple[str, ...],
    shared: int,
    refreshed: tuple[str, ...] = (),
) -> StepView:
    visible = tuple(record.restrict((*names, *refreshed)) for record in members)
    seen = frozenset(names) | frozenset(refreshed)
    old = frozenset(name for earlier in protocol.steps[: step - 1] for name in earlier) - seen
    total = sum(len(record.names) for record in members)
    shown = sum(len(record.names) for record in visible)
    hidden_old = sum(name in old for record in members for name in record.names)
    parts = (
        json.dumps([r.source_id, r.names, sorted(r.coverage), r.boxes.tolist(), r.ignore.tolist()]) for r in visible
    )
    digest = _digest([json.dumps(names), *parts])
    present = {name for record in visible for name in record.names}
    again = tuple(name for name in refreshed if name in present)
    return StepView(step, names, visible, shown, total - shown, hidden_old, shared, digest, again)


def _digest(parts: Iterable[str]) -> str:
    state = hashlib.sha256()
    for part in parts:
        state.update(part.encode() + b"\n")
    return state.hexdigest()[:16]


def _unknown(wanted: Iterable[str], names: Sequence[str], where: str) -> list[Finding]:
    known = frozenset(names)
    return [
        Finding(where, f"class {name!r}", "is not in the data", suggest(str(name), names))
        for name in wanted
        if name not in known
    ]


def _known(words: Sequence[str], names: Sequence[str], where: str) -> tuple[str, ...]:
    """The names that ``words`` write, each once and in the data."""
    wanted = tuple(clean_name(word) for word in words)
    findings = _unknown(wanted, names, where)
    twice = sorted({name for name in wanted if wanted.count(name) > 1})
    findings += [Finding(where, f"class {name!r}", "stands twice", "name it once") for name in twice]
    if findings:
        raise InputError(findings)
    return wanted
