"""The cost: run time and memory of the jobs."""

from __future__ import annotations

from expertchat.report.blocks import Figure, Figures, Fold, Section, Table
from expertchat.report.plots import INK, MODELS, plot, rows_axis
from expertchat.report.results import Results
from expertchat.report.wording import memory, seconds


def section(results: Results) -> Section:
    """Run time and peak memory by stage and by job."""
    spent, peaks = results.summary["seconds"], results.summary["peak_memory_bytes"]
    lead = (
        f"The jobs took {seconds(sum(spent.values()))} in total. This is the sum of their wall-clock "
        "times, whether or not they ran in parallel, without Snakemake's own time. The largest job used "
        f"{memory(max(peaks.values()))} of main memory; GPU memory is not included."
    )
    figures = [
        Figure(bars(spent, "cost seconds", seconds), "Run time by stage"),
        Figure(bars(peaks, "cost memory", memory), "Peak memory of the largest job, by stage"),
    ]
    return Section("cost", lead, [Figures(figures), job_table(results)])


def bars(values: dict[str, float], name: str, wording):
    """One bar per stage, labelled with its value."""

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
    """One row per job."""
    rows = [
        [label, seconds(m["seconds"]), memory(m["peak_memory_bytes"])]
        for label, m in ((label, job.manifest) for label, job in results.run.jobs.items())
    ]
    return Fold("All jobs", [Table(["job", "run time", "peak memory"], rows)])
