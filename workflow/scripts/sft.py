"""Tune a model on conversations; the result takes the model's place in all later stages."""

from expertchat.pipeline.jobs import open_job
from expertchat.settings.sft import Tuning


def main() -> None:
    with open_job("sft", __doc__) as job:
        settings = Tuning(**job.settings["section"])
        if job.trains_together("model", full=settings.method == "full"):
            return

        from expertchat.sft.training import tune_model

        tune_model(
            model_folder=job.input("model") / "model",
            load=job.load("model"),
            instructions=job.input("instructions"),
            settings=settings,
            seed=job.settings["seed"],
            batch_size=job.batch_size("model"),
            label=job.recipe.label,
            checkpoints=job.checkpoints,
            out=job.out,
        )


if __name__ == "__main__":
    main()
