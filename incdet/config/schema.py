"""The settings of a run and their types, ranges and defaults; the docstring below a field is its description."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, Strict, field_validator, model_validator

from incdet.config.architecture import EXTERNAL, Architecture
from incdet.config.section import Flag, Fraction, Positive, Section
from incdet.config.yamlfile import write_yaml
from incdet.errors import suggest
from incdet.files import write_text

_SectionT = TypeVar("_SectionT", bound=Section)


def _exclusive(section: _SectionT, first: str, second: str) -> _SectionT:
    """``section`` with one of two exclusive keys: the one that was given, else the default."""
    if getattr(section, first) is not None and getattr(section, second) is not None:
        if {first, second} <= section.model_fields_set:
            raise ValueError(f"`{first}` and `{second}` exclude each other: give one")
        unset = second if first in section.model_fields_set else first
        object.__setattr__(section, unset, None)
    if getattr(section, first) is None and getattr(section, second) is None:
        raise ValueError(f"one of `{first}` and `{second}` has to be given")
    return section


class Split(Section):
    """Annotations of one side and the folder of their images, relative to ``data.root``."""

    annotations: Path
    """A COCO file, or with format auto whatever `incdet check --data` takes."""
    images: Path | None = None
    """Folder of the images; null finds them near the annotations."""
    split: str | None = None
    """Which split of the annotations; null takes the one for training or for testing."""


class Limit(Section):
    """Seeded subsets of the images that hold a class of the protocol."""

    train: Positive | None = None
    """Most training images; null takes all."""
    test: Positive | None = None
    """Most test images; null takes all."""


class Data(Section):
    """Where images and annotations come from."""

    format: Literal["shapes", "coco", "voc", "auto"] = "shapes"
    """`shapes` is drawn on the spot, `coco` is a file for each side, `voc` a devkit, `auto` recognises any kind."""
    root: Path = Path("runs/data")
    """Folder of the data. Left out: a folder under OUTPUT/data for shapes, else INCDET_DATA of the environment."""
    train: Split | None = None
    """Training annotations (coco, auto); with auto null takes the training split in `root`."""
    test: Split | None = None
    """Test annotations (coco, auto); with auto null takes the test split in `root`."""
    train_splits: tuple[str, ...] = ("2007_trainval",)
    """Training splits as YEAR_SPLIT (voc)."""
    test_splits: tuple[str, ...] = ("2007_test",)
    """Test splits as YEAR_SPLIT (voc)."""
    train_images: Positive = 600
    """Training images to draw (shapes)."""
    test_images: Positive = 200
    """Test images to draw (shapes)."""
    image_size: Annotated[int, Field(ge=32)] = 96
    """Side of a drawn image in pixels (shapes)."""
    draw_seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the drawing (shapes); independent of `seed`, so that repeated runs see the same images."""
    limit: Limit = Limit()
    """Seeded subsets of the images."""
    keep_empty: Flag = False
    """Keep training images without a visible object."""
    exif: Literal["auto", "apply", "ignore"] = "auto"
    """Turn pictures as the camera says (`apply`) or not (`ignore`); `auto` tells it from the stated sizes."""

    @classmethod
    def of_other_formats(cls, chosen: str) -> dict[str, str]:
        """Dotted keys that only other formats than ``chosen`` have a use for, and what they are for."""
        keys = {
            ("coco", "auto"): ("train", "test"),
            ("voc",): ("train_splits", "test_splits"),
            ("shapes",): ("train_images", "test_images", "image_size"),
        }
        fix = "it is for data.format={}, this is {}"
        return {f"data.{key}": fix.format(own[0], chosen) for own in keys if chosen not in own for key in keys[own]}

    @model_validator(mode="after")
    def _coco_names_its_files(self) -> Data:
        missing = [name for name in ("train", "test") if getattr(self, name) is None]
        if self.format == "coco" and missing:
            raise ValueError(f"format coco needs data.{missing[0]} with `annotations`")
        return self


class Model(Architecture):
    """The detector."""

    weights: str | None = None
    """A torchvision name (ResNet50_Weights.IMAGENET1K_V1), a local .safetensors / .pth file, or null for none."""

    @model_validator(mode="before")
    @classmethod
    def _null_is_the_default(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("anchor_sizes", ()) is None:
            return {name: value for name, value in values.items() if name != "anchor_sizes"}
        return values

    @field_validator("backbone")
    @classmethod
    def _is_known(cls, value: str) -> str:
        if value == EXTERNAL:
            raise ValueError("a module of one's own can be handed in by code only")
        return value

    @property
    def architecture(self) -> Architecture:
        """What to build, without where its weights come from."""
        return Architecture(**{name: getattr(self, name) for name in Architecture.model_fields})


class Protocol(Section):
    """Which classes come in which step, and which images a step sees."""

    steps: str | tuple[tuple[str, ...], ...] = "15+5"
    """Step sizes such as 15+5, 10+2x5, 5x4, or a list of lists of class names."""
    order: str = "alphabetical"
    """Class order: alphabetical, id, shuffle:SEED, or a file with one name a line."""
    images: Literal["overlap", "partition", "all"] = "overlap"
    """An image belongs to every step that has one of its classes (`overlap`), to one step (`partition`), or to all."""
    old_labels: Literal["hide", "use", "keep"] = "hide"
    """Labels of earlier classes in a step's images: hidden as in papers, used, or used with images of them alone."""
    images_per_class: Positive | None = None
    """Most images for each class of a step after the first; null takes all."""
    hidden_share: Annotated[float, Field(ge=0, le=1)] | None = None
    """Share of such a step's images that show earlier classes, reached by leaving images out; null leaves none out."""

    @field_validator("order")
    @classmethod
    def _order_is_known(cls, value: str) -> str:
        if value in ("alphabetical", "id") or re.fullmatch(r"shuffle:\d+", value):
            return value
        if not Path(value).is_file():
            raise ValueError(f"is no file; {suggest(value, ('alphabetical', 'id', 'shuffle:0'))}")
        return str(Path(value).resolve())


class Schedule(Section):
    """How long, how fast and with which optimiser one piece of training runs."""

    iterations: Positive | None = None
    """Optimiser steps; excludes `epochs`."""
    epochs: Annotated[float, Field(gt=0)] | None = None
    """Passes over the images; excludes `iterations`."""
    batch_size: Positive = 16
    """Images in an optimiser step, over all processes and accumulated batches."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """Optimiser; the fused form is used where there is one."""
    lr: Annotated[float, Field(gt=0)] = 0.01
    """Highest learning rate."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    """Decay of weights."""
    momentum: Fraction = 0.9
    """Momentum of SGD."""
    schedule: Literal["cosine", "step", "constant"] = "step"
    """Course of the learning rate: cosine to zero, a tenth at every milestone, or constant."""
    milestones: tuple[Fraction, ...] = (8 / 12, 11 / 12)
    """Where `step` divides the rate by ten, as fractions of the training."""
    warmup: Annotated[int, Field(ge=0)] = 500
    """Optimiser steps over which the rate rises linearly from zero."""
    clip: Annotated[float, Field(gt=0)] | None = None
    """Upper bound of the gradient norm; null for none."""
    gradient_noise: Annotated[float, Field(ge=0)] = 0.0
    """Variance of noise on the gradient in the first pass over the images; falls with the passes; 0 adds none."""

    @model_validator(mode="after")
    def _one_length(self) -> Schedule:
        if self.iterations is not None and self.epochs is not None:
            raise ValueError("`iterations` and `epochs` exclude each other: give one")
        return self


class JointSchedule(Schedule):
    """How long and how fast all classes are learned at once, and from where."""

    start: Literal["weights", "step 1"] = "weights"
    """What the network begins as: with `model.weights` as step 1 did, or as the detector of step 1."""


class Train(Section):
    """The schedules. Keys that `increment`, `finetune` and `joint` leave out, lengths excepted, are those of `base`."""

    base: Schedule = Schedule(epochs=12)
    """Step 1."""
    increment: Schedule = Schedule()
    """Every later step; without a length, as many passes over its images as step 1."""
    finetune: Schedule = Schedule(lr=0.001, warmup=50)
    """The balanced fine-tune after a later step; without a rate or a length, a tenth of the step's."""
    joint: JointSchedule = JointSchedule()
    """All classes at once, the upper bound; without a length, the passes that all steps together make over theirs."""

    @model_validator(mode="after")
    def _base_has_a_length(self) -> Train:
        if self.base.iterations is None and self.base.epochs is None:
            raise ValueError("`base` needs a length: give iterations or epochs")
        return self


class Augment(Section):
    """Random changes of the training images."""

    flip: Fraction = 0.5
    """Probability of a horizontal flip."""
    crop: Flag = False
    """Crop at random, keeping boxes."""
    photometric: Flag = False
    """Change brightness and contrast at random."""
    scale: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] | None = None
    """Range of a random scale factor; null for none."""


class Engine(Section):
    """How training runs on the machine."""

    precision: Literal["auto", "off", "bf16", "fp16"] = "auto"
    """Mixed precision of the network; losses and boxes stay float32. auto: bf16 on a GPU that has it, else off."""
    static_shapes: Flag = False
    """Pad every batch to the shape that holds all images; on a GPU the network then runs as one CUDA graph."""
    accumulation: Positive = 1
    """Batches whose gradients are added before an optimiser step."""
    workers: Annotated[int, Field(ge=0)] = 2
    """Processes that load images."""
    image_cache: Annotated[int, Field(ge=0)] = 2048
    """MiB of host memory for resized training images, shared by all loader processes; 0 keeps none."""
    device_cache: Annotated[int, Field(ge=0)] = 8192
    """MiB of GPU memory for resized training images, used where all of them fit; 0 keeps none."""
    response_cache: Annotated[int, Field(ge=0)] = 1024
    """MiB of host memory (and disk) for what the teacher says about the images of a phase; 0 asks it at every draw."""
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")] = "auto"
    """auto (a CUDA GPU where there is one, else the CPU), cpu, cuda, cuda:N or mps."""
    log_every: Positive = 20
    """Optimiser steps between two lines of the log."""
    checkpoint_every: Positive = 1000
    """Optimiser steps between two points a run can resume from."""
    trackers: Annotated[tuple[Literal["tensorboard", "wandb", "mlflow"], ...], Strict(False)] = ()
    """Where the numbers of the log go too; the package of the name has to be installed."""
    deterministic: Flag = False
    """On a GPU, take the kernels whose sums have one order, which are slower; on a CPU they always have."""

    @model_validator(mode="before")
    @classmethod
    def _tensorboard_is_a_tracker(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("tensorboard"), bool):  # a key of earlier versions
            rest = {name: value for name, value in values.items() if name != "tensorboard"}
            return {"trackers": ("tensorboard",), **rest} if values["tensorboard"] else rest
        return values


class Memory(Section):
    """The exemplars kept for later steps."""

    total: Annotated[int, Field(ge=0)] | None = None
    """Images over all classes; excludes `per_class`. 0 keeps none."""
    per_class: Annotated[int, Field(ge=0)] | None = 10
    """Images for each class; excludes `total`."""
    selection: Literal["herding", "random", "class-balanced", "ocdm", "distribution"] = "herding"
    """How exemplars are chosen: by features, at random, or by the numbers of boxes of the classes: as even as can be
    (`class-balanced`), nearest to equal shares (`ocdm`), or to the shares of the step's images (`distribution`)."""
    copy_images: Flag = False
    """Copy the pixels into the run folder, so that the old data may be deleted."""

    @model_validator(mode="after")
    def _one_budget(self) -> Memory:
        return _exclusive(self, "total", "per_class")


class Evaluation(Section):
    """Testing after every step, always on all test images."""

    batch_size: Positive = 8
    """Images in a forward pass."""
    samples: Annotated[int, Field(ge=0)] = 4
    """Test images shown in the report."""
    max_old_drop: Fraction | None = None
    """Most that AP50 of the old classes may fall in a step: one that loses more ends the run and becomes no step of it,
    its detector lies beside; null watches nothing."""


class Extension(Section):
    """What `incdet extend` teaches a detector, and from which files; null in a run of `incdet train`."""

    checkpoint: str
    """The detector whose classes are kept: a checkpoint folder, torchvision's BUILDER:WEIGHTS, or a state dict."""
    arch: str | None = None
    """Network of a state dict."""
    known_classes: tuple[str, ...] | None = None
    """Name of each column of a state dict."""
    annotations: Path
    """Annotations of the new classes."""
    images: Path | None = None
    """Folder of their images, where they lie apart."""
    split: str | None = None
    """Their split; null takes a training split."""
    exif: Literal["auto", "apply", "ignore"] = "auto"
    """Turn pictures as the camera says (`apply`) or not (`ignore`); `auto` tells it from the stated sizes."""
    classes: tuple[str, ...] | None = None
    """Classes to learn; null takes all that the annotations name."""
    keep: Literal["balanced", "fast", "strict"] | None = None
    """How the old classes are kept; null where a method is named."""
    validation: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Share of each class's images that is held out to measure on, where nothing is given; 0 holds none out."""
    keep_old_images: Flag = False
    """Train on images too that show known classes alone; their labels refresh the detector."""
    old_annotations: Path | None = None
    """Annotations to choose exemplars of old classes from."""
    old_images: Path | None = None
    """Folder of their images."""
    old_split: str | None = None
    """Their split; null takes a training split."""
    test_annotations: Path | None = None
    """Annotations to measure old and new classes on."""
    test_images: Path | None = None
    """Folder of their images."""
    test_split: str | None = None
    """Their split; null takes a test split."""


NOT_OF_AN_EXTENSION: dict[str, Any] = {
    "base": True,
    "data": True,
    "model": True,
    "protocol": True,
    "train": {"base", "joint"},
}
"""What an extension takes from its checkpoint and its annotations, or has no use for."""


class Config(Section):
    """Everything about a run."""

    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of weights, batches and choices."""
    output: Path = Path("runs/incdet")
    """Run folder."""
    methods: tuple[str, ...] = ("incdet",)
    """Methods to train from the same step 1; `incdet methods` lists them."""
    without: tuple[str, ...] = ()
    """Parts taken away from the methods (ablation)."""
    base: Path | None = None
    """Checkpoint folder to use as step 1 in place of training it."""
    extend: Extension | None = None
    """Set by `incdet extend` in the file it leaves in the run folder."""
    data: Data = Data()
    """Images and annotations."""
    model: Model = Model()
    """Detector."""
    protocol: Protocol = Protocol()
    """Steps."""
    train: Train = Train()
    """Schedules."""
    augment: Augment = Augment()
    """Augmentation."""
    engine: Engine = Engine()
    """Machine."""
    memory: Memory = Memory()
    """Exemplars."""
    method: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Numbers of the methods, such as `method.incdet.kd_response.weight=0.5`; frozen whole by a run."""
    evaluation: Evaluation = Evaluation()
    """Testing."""

    @field_validator("methods")
    @classmethod
    def _methods_differ(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or len(set(value)) != len(value):
            raise ValueError("has to name one or more methods, each once")
        return value

    def tree(self) -> dict[str, Any]:
        """JSON values that read back as an equal value; what the run has no use for is left out."""
        values = self.model_dump(mode="json", exclude=NOT_OF_AN_EXTENSION if self.extend else {"extend": True})
        if self.extend is None and self.data.root.is_relative_to(self.output):
            # A run folder that was moved takes what was drawn into it along.
            values["data"]["root"] = f"${{output}}/{self.data.root.relative_to(self.output).as_posix()}"
        return values

    def to_yaml(self) -> str:
        """``tree`` as YAML text."""
        return write_yaml(self.tree())

    def document(self) -> str:
        """The text of the file that reproduces the run: ``incdet train --config FILE``."""
        return f"# Every setting of this run, defaults included.\n{self.to_yaml()}"

    def dump(self, path: Path) -> None:
        """Write ``document``, whole or not at all."""
        write_text(path, self.document())
