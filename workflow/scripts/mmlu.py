"""Scores the models' answers to the multiple-choice questions, before and after tuning."""

from expertchat.pipeline.jobs import open_job


def main() -> None:
    with open_job("mmlu", __doc__) as job:
        from expertchat.answers.artifact import folders_by_model, read_checked_answers
        from expertchat.mmlu.harness import result_files
        from expertchat.mmlu.scores import scores
        from expertchat.records import write_json
        from expertchat.settings.mmlu import Asking

        section, questions = job.settings["section"], job.input("questions")
        asking = Asking.from_section(section)
        tuned = folders_by_model(job.settings["answers"], job.inputs("answers"))
        base = folders_by_model(job.settings["before"], job.inputs("before"))
        after = read_checked_answers(tuned, questions, asking)
        before = read_checked_answers(base, questions, asking)
        files = result_files(
            scores(after, before), after, section, job.settings["round"], questions, tuned
        )
        for name, content in files.items():
            write_json(job.out / name, content)


if __name__ == "__main__":
    main()
