"""Let two models talk about each topic, and draw candidate replies on the way; or import transcripts."""

from expertchat.pipeline.jobs import Job, open_job
from expertchat.settings.dialogues import Dialogues


def main() -> None:
    with open_job("dialogues", __doc__) as job:
        transcripts = job.user_file("transcripts")
        if transcripts is None:
            talk(job)
        else:
            import_transcripts(job, transcripts)


def talk(job: Job) -> None:
    """Holds the dialogues of the job's shard."""
    from expertchat.dialogues.talk import begin_dialogues, hold_dialogues, shard_of
    from expertchat.engine.opening import open_engines
    from expertchat.records import read_records
    from expertchat.splits import HELD_OUT

    settings = job.settings
    topics = read_records(job.input("topics") / "topics.jsonl")
    section = Dialogues(**settings["section"])
    begun = begin_dialogues(topics, settings["pair"], section)
    if settings["held_out_only"]:  # begun as in the other rounds, so that they can be compared
        begun = [dialogue for dialogue in begun if dialogue["split"] == HELD_OUT]
        section = section.model_copy(update={"candidate_turns": []})
    sources = job.sources(settings["models"], job.inputs("models"), job.inputs("policies"))
    engines, apart = open_engines(sources)
    hold_dialogues(
        engines,
        shard_of(begun, *settings["shard"]),
        section,
        settings["prompts"],
        (settings["seed"], settings["round"]),
        job.checkpoints,
        job.out,
        side_by_side=apart,
    )


def import_transcripts(job: Job, path) -> None:
    """Writes the transcripts of the job's shard as dialogues, without candidate replies."""
    from expertchat.dialogues.artifact import CANDIDATES, DIALOGUES
    from expertchat.dialogues.talk import shard_of
    from expertchat.dialogues.transcripts import read_transcripts
    from expertchat.records import write_records

    write_records(job.out / DIALOGUES, shard_of(read_transcripts(path), *job.settings["shard"]))
    write_records(job.out / CANDIDATES, [])


if __name__ == "__main__":
    main()
