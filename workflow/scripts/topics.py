"""Write the topics of the dialogues with the models, or read them from the user's file."""

from expertchat.pipeline.jobs import open_job
from expertchat.settings.topics import Topics
from expertchat.topics.taxonomies import Taxonomy


def main() -> None:
    with open_job("topics", __doc__) as job:
        from expertchat.engine.opening import open_engines
        from expertchat.topics.asking import possible_examples
        from expertchat.topics.files import read_topic_file
        from expertchat.topics.pool import TopicPool
        from expertchat.topics.writing import write_topics

        settings, taxonomy = Topics(**job.settings["section"]), Taxonomy(**job.settings["taxonomy"])
        file, encoder, shown = (job.user_file(name) for name in ("file", "encoder", "examples"))
        examples = read_topic_file(shown) if shown else []
        authors = job.settings["models"] if job.inputs("models") else []
        engines, _ = open_engines(job.sources(authors, job.inputs("models")))
        write_topics(
            engines,
            settings,
            taxonomy,
            job.settings["prompts"],
            job.settings["seed"],
            TopicPool.open(settings, job.input("questions"), encoder),
            read_topic_file(file) if file else [],
            possible_examples(examples, taxonomy.held_out, settings.examples),
            job.checkpoints,
            job.out,
        )


if __name__ == "__main__":
    main()
