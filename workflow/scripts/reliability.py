"""Measure how far a round's ratings can be trusted."""

from expertchat.pipeline.jobs import open_job


def main() -> None:
    with open_job("reliability", __doc__) as job:
        from expertchat.records import write_json
        from expertchat.reliability.artifact import RELIABILITY
        from expertchat.reliability.measures import measure

        settings = job.settings
        figures = measure(
            job.inputs("ratings"),
            settings["weights"],
            tuple(settings["scale"]),
            settings["seed"],
            settings["min_valid_mass"],
        )
        write_json(job.out / RELIABILITY, figures)


if __name__ == "__main__":
    main()
