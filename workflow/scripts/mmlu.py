"""Let a model, base or tuned, answer the multiple-choice questions."""

import json

from expertchat.jobs import open_job


def main() -> None:
    with open_job("mmlu", __doc__) as job:
        from expertchat.mmlu import accuracy, answer_questions
        from expertchat.settings.mmlu import MMLUAsking

        name = job.settings["name"]
        engine = job.engine(name, job.input("model"), job.input("policy"))
        asking = MMLUAsking(**job.settings["section"])
        answers = answer_questions(engine, job.input("questions"), asking, job.recipe.label)
        answers.to_parquet(job.out / "answers.parquet")
        (job.out / "accuracy.json").write_text(json.dumps(accuracy(answers), indent=1))


if __name__ == "__main__":
    main()
