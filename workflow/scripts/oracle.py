"""Compare ratings and replies with the demo world's oracle, which no other stage uses."""

from expertchat.pipeline.jobs import open_job


def main() -> None:
    with open_job("oracle", __doc__) as job:
        from expertchat.demo.world import build_world
        from expertchat.oracle.artifact import COMPARISON, ITEMS
        from expertchat.oracle.comparison import compare_with_oracle
        from expertchat.records import write_json

        rows, items = compare_with_oracle(
            build_world(job.settings["world"]["seed"]),
            job.inputs("dialogues"),
            job.inputs("ratings"),
            job.inputs("replies"),
            job.settings["models"],
            job.settings["weights"],
            job.settings["min_valid_mass"],
        )
        items.to_parquet(job.out / ITEMS)
        write_json(job.out / COMPARISON, rows)


if __name__ == "__main__":
    main()
