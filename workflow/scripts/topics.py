"""Let the models write the topics that will be talked about."""

from expertchat.jobs import open_job
from expertchat.settings.topics import Topics


def main() -> None:
    with open_job("topics", __doc__) as job:
        from expertchat.topics import write_topics

        write_topics(
            job.engines(job.settings["models"], job.inputs("models")),
            Topics(**job.settings["section"]),
            job.settings["prompt"],
            job.settings["seed"],
            job.out,
        )


if __name__ == "__main__":
    main()
