"""plots/*.svg: the charts of a report as files of their own, for papers and slides."""

from __future__ import annotations

from incdet.files import write_text
from incdet.report import bars, charts, sections
from incdet.report.palette import looks
from incdet.report.saved import SavedRun
from incdet.report.svg import WIDTH, standalone


def write_plots(run: SavedRun) -> None:
    """Writes ap_over_steps.svg and per_class.svg into OUTPUT/plots, those that the run has figures for."""
    folder = run.root / "plots"
    over = sections.over_steps(run)
    if over:
        sizes = [(WIDTH, charts.STEPS_HEIGHT)] * len(over)
        write_text(folder / "ap_over_steps.svg", standalone(over, sizes, columns=3))
    if sections.per_class(run):
        chosen = looks([method.name for method in run.methods])
        drawn, height = bars.per_class(run.results, chosen)
        key, key_height = charts.key_drawing(chosen)
        write_text(folder / "per_class.svg", standalone([drawn, key], [(WIDTH, height), (WIDTH, key_height)]))
