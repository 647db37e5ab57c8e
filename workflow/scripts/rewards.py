"""Train a model's reward model on the ratings of its candidate replies."""

from expertchat.pipeline.jobs import open_job
from expertchat.settings.rewards import Rewards


def main() -> None:
    with open_job("rewards", __doc__) as job:
        from expertchat.rewards.reward_model import make_reward_model

        settings = job.settings
        make_reward_model(
            model_folder=job.input("model") / "model",
            load=job.load(settings["speaker"]),
            dialogues=job.inputs("dialogues"),
            ratings=job.inputs("ratings"),
            speaker=settings["speaker"],
            weights=settings["weights"],
            min_valid_mass=settings["min_valid_mass"],
            texts=settings["prompts"],
            settings=Rewards(**settings["section"]),
            shuffled=settings["shuffled"],
            seed=settings["seed"],
            checkpoints=job.checkpoints,
            out=job.out,
        )


if __name__ == "__main__":
    main()
