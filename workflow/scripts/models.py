"""Bring one model into the store: train, link or download it."""

from pathlib import Path

from expertchat import models
from expertchat.pipeline.jobs import open_job


def main() -> None:
    with open_job("models", __doc__) as job:
        settings = job.settings
        targets = models.TargetModules(**job.recipe.runtime["target_modules"])
        if settings["source"] == "path":
            models.link_model(Path(settings["path"]), targets, job.out)
        elif settings["source"] == "hub":
            models.fetch_model(settings["repository"], settings["revision"], targets, job.out)
        elif settings["source"] == "server":
            models.write_server(settings["server"], job.out)
        else:
            models.make_demo_model(settings, targets, job.out)
        adapter = job.user_file("adapter")
        if adapter is not None:
            models.link_adapter(adapter, job.out)


if __name__ == "__main__":
    main()
