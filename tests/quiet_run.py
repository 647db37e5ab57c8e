"""A run of Snakemake with a job that lasts longer than the run may be silent."""

import os
import subprocess
import sys

from small_workflow import ROOT

SNAKEFILE = """\
from snakemake.logging import logger
from expertchat.pipeline.silence import Silence

onstart:
    run = getattr(workflow.scheduler._executor, "run_uuid", None)
    logger.addHandler(Silence(logger.warning, run, "squeue", seconds=2))

rule:
    output: "done"
    resources: mem_mb=100
    shell: "sleep 7; touch {output}"
"""


def quiet_run(folder, *arguments):
    """What Snakemake prints in a run with a job that lasts longer than it may be silent."""
    (folder / "Snakefile").write_text(SNAKEFILE)
    snakemake = [sys.executable, "-m", "snakemake", "--profile", "none", "--jobs", "1", "--cores", "1"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "workflow")}
    done = subprocess.run(
        [*snakemake, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        env=environment,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr
