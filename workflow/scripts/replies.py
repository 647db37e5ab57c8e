"""Sample replies of a model, base or tuned, to the held-out contexts."""

from expertchat.pipeline.jobs import open_job
from expertchat.settings.decoding import Decoding
from expertchat.settings.replies import Replies


def main() -> None:
    with open_job("replies", __doc__) as job:
        from expertchat.engine.opening import open_copies
        from expertchat.replies.contexts import contexts_for
        from expertchat.replies.writing import write_replies
        from expertchat.splits import HELD_OUT

        settings, speaker = job.settings, job.settings["speaker"]
        preferences = job.input("preferences")
        write_replies(
            open_copies(job.source(speaker, job.input("model"), job.input("policy"))),
            contexts_for(settings, job.inputs("dialogues"), preferences, HELD_OUT),
            Replies(**settings["section"]).per_context,
            Decoding(**settings["decoding"]),
            settings["seed"],
            job.checkpoints,
            job.out,
        )


if __name__ == "__main__":
    main()
