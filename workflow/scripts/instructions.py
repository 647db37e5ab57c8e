"""Read instruction data sets, check them, and split them into conversations to train on and others."""

from expertchat.data_files import fetched
from expertchat.instructions.mixing import mix_instructions
from expertchat.pipeline.jobs import open_job
from expertchat.rehearsal.made_up import INSTRUCTIONS


def main() -> None:
    with open_job("instructions", __doc__) as job:
        settings = job.settings
        files = fetched(settings["sources"], job.user_file, INSTRUCTIONS, job.checkpoints)
        mix_instructions(
            settings["sources"], files, settings["held_out_share"], settings["seed"], job.out
        )


if __name__ == "__main__":
    main()
