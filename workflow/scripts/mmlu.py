"""What the models' answers to the multiple-choice questions come to, before and after tuning."""

import json

from expertchat.pipeline.jobs import open_job


def main() -> None:
    with open_job("mmlu", __doc__) as job:
        from expertchat.answers.artifact import folders_by_model, read_models
        from expertchat.mmlu.harness import result_files
        from expertchat.mmlu.scores import scores

        section, questions = job.settings["section"], job.input("questions")
        folders = folders_by_model(job.settings["answers"], job.inputs("answers"))
        base = folders_by_model(job.settings["before"], job.inputs("before"))
        after = read_models(folders, questions, section["limit"])
        found = scores(after, read_models(base, questions, section["limit"]))
        round_number = job.settings["round"]
        files = result_files(found, after, section, round_number, questions, folders)
        for name, content in files.items():
            (job.out / name).write_text(json.dumps(content, indent=1, allow_nan=False))


if __name__ == "__main__":
    main()
