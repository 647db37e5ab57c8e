"""Let two models talk about each topic, and draw candidate replies on the way."""

from expertchat.jobs import open_job
from expertchat.settings.dialogues import Dialogues


def main() -> None:
    with open_job("dialogues", __doc__) as job:
        from expertchat.dialogues import begin_dialogues, hold_dialogues
        from expertchat.records import read_records
        from expertchat.topics import HELD_OUT

        settings = job.settings
        topics = read_records(job.input("topics") / "topics.jsonl")
        section, (shard, shards) = Dialogues(**settings["section"]), settings["shard"]
        if settings["held_out_only"]:
            topics = [topic for topic in topics if topic["split"] == HELD_OUT]
            section = section.model_copy(update={"candidate_turns": []})
        hold_dialogues(
            job.engines(settings["models"], job.inputs("models"), job.inputs("policies")),
            begin_dialogues(topics, settings["pair"], section)[shard::shards],
            section,
            settings["prompts"],
            (settings["seed"], settings["round"]),
            job.checkpoints,
            job.out,
        )


if __name__ == "__main__":
    main()
