"""The cost: seconds and memory."""

from __future__ import annotations

from expertchat.pipeline.store import read_manifest
from expertchat.report.blocks import Figure, Figures, Fold, Section, Table
from expertchat.report.plots import INK, MODELS, plot, rows_axis
from expertchat.report.results import Results
from expertchat.report.wording import memory, seconds


def section(results: Results) -> Section:
    """Seconds and peak memory by stage, and each job's."""
    spent, peaks = results.summary["seconds"], results.summary["peak_memory_bytes"]
    lead = (
        f"The jobs took {seconds(sum(spent.values()))} together, each counted from the start of its "
        "process to its end, whether or not they ran side by side; Snakemake's own time is not in it. "
        f"The largest held {memory(max(peaks.values()))} of main memory; memory on GPUs is not counted."
    )
    figures = [
        Figure(bars(spent, "cost seconds", seconds), "Time by stage"),
        Figure(bars(peaks, "cost memory", memory), "Largest job by stage, peak memory"),
    ]
    return Section("cost", lead, [Figures(figures), job_table(results)])


def bars(values: dict[str, float], name: str, wording):
    """A bar a stage, labelled with its value."""

    def paint(ax) -> None:
        ax.barh(range(len(values)), list(values.values()), height=0.6, color=MODELS[0], alpha=0.8)
        for y, value in enumerate(values.values()):
            ax.annotate(
                wording(value), (value, y), (4, 0), textcoords="offset points", va="center", color=INK
            )
        rows_axis(ax, list(values))
        ax.set_xlim(0, 1.22 * max(values.values()))
        ax.set_xticks([])
        ax.spines["bottom"].set_visible(False)

    return plot(name, 0.3 + 0.22 * len(values), paint)


def job_table(results: Results) -> Fold:
    """One row an artifact."""
    rows = []
    for folders in results.artifacts.values():
        for folder in folders if isinstance(folders, list) else [folders] if folders else []:
            found = read_manifest(folder)
            recipe = found["recipe"]
            rows.append([recipe["label"], seconds(found["seconds"]), memory(found["peak_memory_bytes"])])
    return Fold("Each job", [Table(["job", "time", "peak memory"], rows)])
