"""Compare ratings and replies with the demo world's oracle, which no other stage uses."""

import json

from expertchat.pipeline.jobs import open_job


def main() -> None:
    with open_job("oracle", __doc__) as job:
        from expertchat.demo.world import build_world
        from expertchat.oracle import compare_with_oracle

        rows, items = compare_with_oracle(
            build_world(job.settings["world"]["seed"]),
            job.inputs("dialogues"),
            job.inputs("ratings"),
            job.inputs("replies"),
            job.settings["models"],
            job.settings["weights"],
        )
        items.to_parquet(job.out / "items.parquet")
        (job.out / "oracle.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
