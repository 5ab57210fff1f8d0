"""Step 2 of the finished run, ready to be learned."""

from __future__ import annotations

import json
from pathlib import Path

from finished_run import Finished

from incdet.app.train import prepare_data
from incdet.config import Config
from incdet.data.protocols import StepView, step_view
from incdet.memory.manifest import load_memory
from incdet.methods.method import Method
from incdet.methods.registry import get_method
from incdet.network import checkpoint
from incdet.network.retinanet import IncrementalRetinaNet
from incdet.training.engine import Engine
from incdet.training.increment import (
    StepOutcome,
    Workshop,
    learn_step,
)
from incdet.training.log import RunLog
from incdet.training.schedule import Lengths


class Scenery:
    """Everything that step 2 of the finished run started from."""

    def __init__(self, finished: Finished, config: Config, folder: Path) -> None:
        self.source, self.protocol = prepare_data(config)
        self.config, self.folder = config, folder
        self.view: StepView = step_view(self.source.train, self.protocol, 2)
        self.before: IncrementalRetinaNet = checkpoint.load(finished.root / "base" / "step_1").model
        self.memory = load_memory(finished.root / "base" / "memory" / "step_1.json")
        self.log = RunLog(folder)
        self.journal_file = folder / "log.jsonl"
        self.engine = Engine(config.engine, self.log)

    @property
    def shop(self) -> Workshop:
        views = [step_view(self.source.train, self.protocol, step) for step in (1, 2, 3)]
        lengths = Lengths(self.config.train, [view.images for view in views])
        return Workshop(self.engine, self.config, lengths, self.folder)

    def said(self) -> list[str]:
        lines = [json.loads(line) for line in self.journal_file.read_text().splitlines()]
        return [line["text"] for line in lines if line["event"] == "message"]


def learn(scenery: Scenery, method: str | Method) -> StepOutcome:
    method = get_method(method) if isinstance(method, str) else method
    return learn_step(scenery.shop, scenery.before, scenery.view, scenery.memory, method)
