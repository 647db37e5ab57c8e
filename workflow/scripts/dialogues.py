"""Let two models discuss each topic and draw candidate replies, or import transcripts."""

from expertchat.pipeline.jobs import Job, open_job
from expertchat.settings.dialogues import Dialogues


def main() -> None:
    with open_job("dialogues", __doc__) as job:
        transcripts = job.user_file("transcripts")
        if transcripts is None:
            make_dialogues(job)
        else:
            import_transcripts(job, transcripts)


def make_dialogues(job: Job) -> None:
    """Runs the dialogues of the job's shard."""
    from expertchat.dialogues.talk import create_dialogues, run_dialogues, shard_of
    from expertchat.engine.opening import open_engines
    from expertchat.records import read_records
    from expertchat.splits import HELD_OUT
    from expertchat.topics.artifact import TOPICS

    settings = job.settings
    topics = read_records(job.input("topics") / TOPICS)
    section = Dialogues(**settings["section"])
    dialogues = create_dialogues(topics, settings["pair"], section)
    if settings["held_out_only"]:  # chosen from all dialogues, so that other rounds have the same ones
        dialogues = [dialogue for dialogue in dialogues if dialogue["split"] == HELD_OUT]
        section = section.model_copy(update={"candidate_turns": []})
    sources = job.sources(settings["models"], job.inputs("models"), job.inputs("policies"))
    engines, concurrent = open_engines(sources)
    run_dialogues(
        engines,
        shard_of(dialogues, *settings["shard"]),
        section,
        settings["prompts"],
        (settings["seed"], settings["round"]),
        job.checkpoints,
        job.out,
        side_by_side=concurrent,
    )


def import_transcripts(job: Job, path) -> None:
    """Writes the transcripts of the job's shard as dialogues. There are no candidate replies."""
    from expertchat.dialogues.artifact import CANDIDATES, DIALOGUES
    from expertchat.dialogues.talk import shard_of
    from expertchat.dialogues.transcripts import flag_turns, read_transcripts
    from expertchat.records import write_records

    dialogues = shard_of(read_transcripts(path), *job.settings["shard"])
    flag_turns(dialogues)
    write_records(job.out / DIALOGUES, dialogues)
    write_records(job.out / CANDIDATES, [])


if __name__ == "__main__":
    main()
