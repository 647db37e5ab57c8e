"""Bring one model into the store: make, link or fetch it."""

import json
from pathlib import Path

from expertchat import models
from expertchat.pipeline.jobs import open_job


def main() -> None:
    with open_job("models", __doc__) as job:
        settings = job.settings
        if settings["source"] == "path":
            models.link_model(Path(settings["path"]), job.out)
        elif settings["source"] == "hub":
            models.fetch_model(settings["repository"], settings["revision"], job.out)
        elif settings["source"] == "server":
            models.name_server(settings["server"], job.out)
        else:
            from expertchat.demo.build import build_model

            metrics = build_model(
                job.out / "model",
                architecture=settings["architecture"],
                knows=settings["knows"],
                seed=settings["seed"],
                steps=settings["steps"],
                prompts=settings["prompts"],
                world_seed=settings["world"]["seed"],
            )
            (job.out / "metrics.json").write_text(json.dumps(metrics, indent=1), encoding="utf-8")
        adapter = job.user_file("adapter")
        if adapter is not None:
            models.link_adapter(adapter, job.out)


if __name__ == "__main__":
    main()
