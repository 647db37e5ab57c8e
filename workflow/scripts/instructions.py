"""Read instruction data sets, check them, and split them into conversations to train on and others."""

from expertchat.instructions.mixing import fetch_file, mix_instructions
from expertchat.pipeline.jobs import open_job


def main() -> None:
    with open_job("instructions", __doc__) as job:
        sources, files = job.settings["sources"], []
        for number, source in enumerate(sources):
            file = job.user_file(f"file-{number}")
            if file is None:
                file = fetch_file(source["repository"], source["revision"], source["file"])
            files.append(file)
        mix_instructions(sources, files, job.settings["held_out_share"], job.settings["seed"], job.out)


if __name__ == "__main__":
    main()
