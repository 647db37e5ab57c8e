"""Read data sets of human preferences, check them, and split their pairs."""

from expertchat.data_files import fetched
from expertchat.pipeline.jobs import open_job
from expertchat.preferences.mixing import mix_preferences
from expertchat.rehearsal.made_up import PREFERENCES


def main() -> None:
    with open_job("preferences", __doc__) as job:
        settings = job.settings
        files = fetched(settings["sources"], job.user_file, PREFERENCES, job.checkpoints)
        mix_preferences(
            settings["sources"],
            files,
            settings["shares"],
            settings["max_words"],
            settings["seed"],
            job.out,
        )


if __name__ == "__main__":
    main()
