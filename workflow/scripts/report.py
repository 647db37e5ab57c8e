"""Write the experiment's figures to summary.json and report.html."""

import json

from expertchat.pipeline.jobs import open_job
from expertchat.pipeline.plan import STAGES


def main() -> None:
    with open_job("report", __doc__) as job:
        from expertchat.report.page import write_report
        from expertchat.report.summary import summarise

        single = ("questions", "topics", "oracle")
        artifacts = {
            stage: job.input(stage) if stage in single else job.inputs(stage)
            for stage in STAGES
            if stage != "report"
        }
        summary = summarise(job.settings, artifacts)
        (job.out / "summary.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")
        write_report(summary, job.settings, artifacts, job.out / "report.html")


if __name__ == "__main__":
    main()
