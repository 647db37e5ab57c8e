"""Write the topics of the dialogues with the models, or read them from the user's file."""

from expertchat.pipeline.jobs import open_job
from expertchat.settings.topics import Topics
from expertchat.topics.taxonomies import Taxonomy


def main() -> None:
    with open_job("topics", __doc__) as job:
        from expertchat.engine.opening import open_engines
        from expertchat.topics.files import read_topic_file
        from expertchat.topics.pool import TopicPool
        from expertchat.topics.writing import write_topics

        settings = Topics(**job.settings["section"])
        file, encoder = job.user_file("file"), job.user_file("encoder")
        authors = job.settings["models"] if job.inputs("models") else []
        engines, _ = open_engines(job.sources(authors, job.inputs("models")))
        write_topics(
            engines,
            settings,
            Taxonomy(**job.settings["taxonomy"]),
            job.settings["prompt"],
            job.settings["seed"],
            TopicPool.open(settings, job.input("questions"), encoder),
            read_topic_file(file) if file else [],
            job.checkpoints,
            job.out,
        )


if __name__ == "__main__":
    main()
