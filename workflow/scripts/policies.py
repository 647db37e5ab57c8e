"""Tune a model's adapter by PPO on its reward model."""

from expertchat.pipeline.jobs import open_job
from expertchat.settings.decoding import Decoding
from expertchat.settings.ppo import PPO


def main() -> None:
    with open_job("policies", __doc__) as job:
        from expertchat.policies.outcome import keep_policy, reason_against_tuning

        reason = reason_against_tuning(job.input("rewards"))
        if reason is not None:
            keep_policy(job.input("policy"), reason, job.out)
            return
        if job.trains_together(job.settings["speaker"]):
            return

        from expertchat.policies.policy import make_policy
        from expertchat.replies.contexts import contexts_for
        from expertchat.splits import TRAIN

        settings, preferences = job.settings, job.input("preferences")
        make_policy(
            model_folder=job.input("model") / "model",
            load=job.load(settings["speaker"]),
            contexts=contexts_for(settings, job.inputs("dialogues"), preferences, TRAIN),
            reward_model=job.input("rewards"),
            previous=job.input("policy"),
            extra_reward=job.user_file("extra_reward"),
            settings=PPO(**settings["section"]),
            decoding=Decoding(**settings["decoding"]),
            seed=settings["seed"],
            batch_size=job.batch_size(settings["speaker"]),
            label=job.recipe.label,
            checkpoints=job.checkpoints,
            out=job.out,
        )


if __name__ == "__main__":
    main()
