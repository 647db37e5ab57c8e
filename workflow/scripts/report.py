"""Write the experiment's figures to summary.json and report.html."""

from expertchat.pipeline.jobs import open_job


def main() -> None:
    with open_job("report", __doc__) as job:
        from expertchat.records import write_json
        from expertchat.report.cautions import cautions
        from expertchat.report.page import write_report
        from expertchat.report.results import Results
        from expertchat.report.summary import summarise
        from expertchat.results import ExperimentResults

        run = ExperimentResults(job.store, job.settings["places"], job.settings)
        summary = summarise(run)
        figures = summary | {"cautions": cautions(Results(summary, run))}
        write_json(job.out / "summary.json", figures)
        write_report(summary, run, job.out / "report.html")


if __name__ == "__main__":
    main()
