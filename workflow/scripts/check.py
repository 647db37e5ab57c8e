"""Check the loop against the truth of the demo world, which nothing in the loop has seen."""

import json

from expertchat.jobs import open_job


def main() -> None:
    with open_job("check", __doc__) as job:
        from expertchat.check import check_loop
        from expertchat.demo.world import build_world

        rows, items = check_loop(
            build_world(job.settings["world"]["seed"]),
            job.inputs("dialogues"),
            job.inputs("ratings"),
            job.inputs("replies"),
            job.settings["models"],
            job.settings["weights"],
        )
        items.to_parquet(job.out / "items.parquet")
        (job.out / "check.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
