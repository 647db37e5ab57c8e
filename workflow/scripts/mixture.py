"""Mix the models' answers to the test split with every method, and measure the results."""

from expertchat.pipeline.jobs import open_job


def main() -> None:
    with open_job("mixture", __doc__) as job:
        from expertchat.answers.artifact import ANSWERS, read_by_model
        from expertchat.mixture.artifact import MIXTURE, read_fits
        from expertchat.mixture.evaluation import answer_rows, mix_answers, score_mixtures, text_table
        from expertchat.mmlu.categories import HARNESS
        from expertchat.records import write_json
        from expertchat.settings.mmlu import Asking

        settings, fits = job.settings, read_fits(job.input("fits"))
        asking = Asking.from_section(settings["section"])
        answers = read_by_model(settings["answers"], job.inputs("answers"), asking)
        table, mixed = mix_answers(fits, answers, HARNESS)
        answer_rows(table, mixed).to_parquet(job.out / ANSWERS)
        scores = score_mixtures(fits, table, mixed, settings["seed"], settings.get("published"))
        write_json(job.out / MIXTURE, scores)
        (job.out / "mixture.md").write_text(text_table(scores), encoding="utf-8")
        print(text_table(scores))


if __name__ == "__main__":
    main()
