"""A model, base or tuned, answers the multiple-choice questions of a split."""

from expertchat.pipeline.jobs import open_job


def main() -> None:
    with open_job("answers", __doc__) as job:
        from expertchat.answers.artifact import ANSWERS
        from expertchat.answers.asking import answer_questions, harness_tokens, read_asked
        from expertchat.engine.opening import open_copies
        from expertchat.settings.mmlu import Asking

        settings, asking = job.settings, Asking.from_section(job.settings["section"])
        asked = read_asked(job.input("questions"), settings["split"], asking, tuple(settings["shard"]))
        source = job.source("model", job.input("model"), job.input("policy"))
        engine, harness = open_copies(source), harness_tokens(source.folder)
        answers = answer_questions(engine, asked, asking, job.checkpoints, job.recipe.label, harness)
        answers.to_parquet(job.out / ANSWERS)


if __name__ == "__main__":
    main()
