"""Train a model's reward model on pairs of replies, from ratings or from human preferences."""

from expertchat.pipeline.jobs import open_job
from expertchat.settings.rewards import Rewards


def main() -> None:
    with open_job("rewards", __doc__) as job:
        if job.trains_together(job.settings["speaker"]):
            return

        from expertchat.engine.training import load_tokenizer
        from expertchat.rewards.data import preferred_data, rated_data
        from expertchat.rewards.reward_model import make_reward_model

        settings = job.settings
        model_folder, load = job.input("model") / "model", job.load(settings["speaker"])
        section, tokenizer = Rewards(**settings["section"]), load_tokenizer(model_folder, load)
        preferences = job.input("preferences")
        if preferences is not None:
            data = preferred_data(tokenizer, preferences, settings["split"], section)
        else:
            data = rated_data(
                tokenizer,
                job.inputs("dialogues"),
                job.inputs("ratings"),
                settings["speaker"],
                settings["weights"],
                settings["min_valid_mass"],
                settings["prompts"],
                section,
                settings["shuffled"],
                settings["seed"],
            )
        make_reward_model(
            model_folder=model_folder,
            load=load,
            tokenizer=tokenizer,
            data=data,
            speaker=settings["speaker"],
            settings=section,
            shuffled=settings.get("shuffled", False),
            seed=settings["seed"],
            checkpoints=job.checkpoints,
            out=job.out,
            scaled=settings.get("scaled", True),
            fixed_scale=settings.get("fixed_scale"),
        )


if __name__ == "__main__":
    main()
