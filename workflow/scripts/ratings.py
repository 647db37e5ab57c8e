"""Let one model rate what the other said, category by category."""

from expertchat.jobs import open_job
from expertchat.settings.ratings import Ratings


def main() -> None:
    with open_job("ratings", __doc__) as job:
        from expertchat.dialogues import CANDIDATES, DIALOGUES
        from expertchat.ratings import items_for, rate_items
        from expertchat.records import read_records

        rater, dialogues = job.settings["rater"], job.input("dialogues")
        items = items_for(
            rater, read_records(dialogues / DIALOGUES), read_records(dialogues / CANDIDATES)
        )
        engine = job.engine(rater, job.input("model"), job.input("policy"))
        table = rate_items(
            engine, rater, items, Ratings(**job.settings["section"]), job.settings["prompt"]
        )
        table.to_parquet(job.out / "ratings.parquet")


if __name__ == "__main__":
    main()
