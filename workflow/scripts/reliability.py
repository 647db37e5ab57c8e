"""Measure how far a round's ratings can be trusted."""

import json

from expertchat.pipeline.jobs import open_job


def main() -> None:
    with open_job("reliability", __doc__) as job:
        from expertchat.records import without_nan
        from expertchat.reliability.measures import measure

        settings = job.settings
        found = measure(
            job.inputs("ratings"), settings["weights"], tuple(settings["scale"]), settings["seed"]
        )
        text = json.dumps(without_nan(found), indent=1, allow_nan=False)
        (job.out / "reliability.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
