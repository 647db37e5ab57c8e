"""Compare replies to the same held-out contexts, by a judge that trained no policy."""

from expertchat.pipeline.jobs import Job, open_job
from expertchat.settings.preferences import REWARD_MODEL


def main() -> None:
    with open_job("judgements", __doc__) as job:
        from expertchat.judgements.pairing import paired_replies
        from expertchat.judgements.wins import write_judgements
        from expertchat.preferences.artifact import preferred_contexts
        from expertchat.splits import HELD_OUT

        settings = job.settings
        replies = dict(zip(settings["contestants"], job.inputs("replies"), strict=True))
        pairs = paired_replies(replies, preferred_contexts(job.input("preferences"), HELD_OUT))
        judge = by_scores if settings["judge"] == REWARD_MODEL else by_asking
        preferences, about = judge(job, pairs)
        write_judgements(pairs, preferences, {"judge": settings["judge"], **about}, job.out)


def by_scores(job: Job, pairs):
    """Preferences by the judge's reward model, and its accuracy on held-out pairs."""
    from expertchat.judgements.scoring import preferences_by_scores
    from expertchat.records import read_json
    from expertchat.rewards.artifact import METRICS

    reward_model = job.input("rewards")
    preferences = preferences_by_scores(
        pairs,
        job.input("model") / "model",
        job.load("model"),
        reward_model,
        job.settings["max_length"],
        job.recipe.label,
    )
    held_out = read_json(reward_model / METRICS)["held_out"]
    keys = ("accuracy", "accuracy_interval", "pairs", "length_accuracy")
    return preferences, {"held_out": {key: held_out[key] for key in keys}}


def by_asking(job: Job, pairs):
    """Preferences of a model that is asked, and how it answers."""
    from expertchat.checkpoints import Checkpoints
    from expertchat.console import progress_bar
    from expertchat.engine.opening import open_copies
    from expertchat.judgements.asking import ask_judge

    judge = job.settings["judge"]
    engine = open_copies(job.source(judge, job.input("model")))
    with progress_bar(2 * len(pairs), job.recipe.label, "questions") as progress:
        asked = ask_judge(
            engine,
            pairs,
            job.settings["prompt"],
            job.settings["seed"],
            Checkpoints(job.checkpoints / "answers"),
            lambda questions, tokens, seconds: progress.update(questions),
        )
    about = {"mass": float(asked.mass.mean()), "consistent": asked.consistent}
    return asked.preferences, about | {"first_place": asked.first_place}


if __name__ == "__main__":
    main()
