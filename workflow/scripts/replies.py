"""Sample replies of a model, base or tuned, to the held-out contexts."""

from expertchat.pipeline.jobs import open_job
from expertchat.settings.dialogues import Dialogues
from expertchat.settings.replies import Replies


def main() -> None:
    with open_job("replies", __doc__) as job:
        from expertchat.dialogues.artifact import DIALOGUES
        from expertchat.dialogues.contexts import contexts_of
        from expertchat.engine.opening import open_copies
        from expertchat.records import read_all
        from expertchat.replies.writing import write_replies
        from expertchat.splits import HELD_OUT

        settings, speaker = job.settings, job.settings["speaker"]
        section = Dialogues(**settings["dialogues"])
        dialogues = read_all(job.inputs("dialogues"), DIALOGUES)
        write_replies(
            open_copies(job.source(speaker, job.input("model"), job.input("policy"))),
            contexts_of(dialogues, speaker, HELD_OUT, section.candidate_turns),
            Replies(**settings["section"]).per_context,
            settings["prompts"],
            section,
            settings["seed"],
            job.checkpoints,
            job.out,
        )


if __name__ == "__main__":
    main()
