"""The later steps of a run with one method, and what comes when all methods are through."""

from __future__ import annotations

from collections.abc import Sequence

from incdet.app.run import Run
from incdet.app.run_folder import RunFolder, drop_states
from incdet.data.protocols import step_view
from incdet.evaluation.comparison import compare, table
from incdet.evaluation.results import Results
from incdet.memory.exemplars import Memory
from incdet.methods.method import Method
from incdet.network import checkpoint
from incdet.network.retinanet import IncrementalRetinaNet
from incdet.report.html import write_report
from incdet.seal import write_sealed
from incdet.training.increment import learn_step


def learn_steps(
    work: Run, method: Method, model: IncrementalRetinaNet, memory: Memory, results: Results, start: int = 2
) -> Results:
    """Steps ``start`` to T with ``method``; those that ``results`` has are not repeated.

    Args:
        work: The run.
        method: How to learn.
        model: The detector after step ``start - 1``.
        memory: The memory after that step.
        results: Of the method; gets a result for every step.
        start: 1-based.
    """
    folder = work.folder.method(method.name)
    finished = [step for step in results.steps if step >= start]
    if finished:
        model = checkpoint.load(RunFolder.step(folder, max(finished))).model
        memory = work.load_memory(folder, max(finished)) if method.replay else memory
    for step in range(max([start - 1, *finished]) + 1, len(work.protocol.steps) + 1):
        states = folder / "states" / f"step_{step}"
        view = step_view(work.source.train, work.protocol, step)
        outcome = learn_step(work.shop(states), model.to(work.engine.device), view, memory, method)
        model, memory = outcome.model, outcome.memory
        if method.replay:
            memory = work.save_memory(memory, folder, step)
        work.measure(
            model,
            results,
            step,
            folder,
            states=states,
            seconds=outcome.seconds,
            train_images=outcome.images,
            memory=size_of(memory),
            iterations=outcome.iterations,
        )
    work.background.submit(lambda: drop_states(folder / "states"))
    return results


def conclude(work: Run, finished: Sequence[Results]) -> None:
    """Gaps to joint, comparison.json, the table, plots and the report, when the last step is scored."""

    def write() -> None:
        with work.display.doing("scoring the last step"):
            work.background.wait()
        comparison = compare(finished)
        for results in finished:
            results.save(work.folder.method(results.method) / "results.json")
        write_sealed(work.folder.root / "comparison.json", comparison)
        work.display.say(table(finished))
        write_report(work.folder.root)
        work.display.say(f"wrote {work.folder.root}/report.html")

    work.engine.processes.once(write)


def size_of(memory: Memory) -> dict[str, int | None]:
    """Images and bytes of a memory, for the results."""
    return {"images": len(memory), "bytes": memory.bytes}
