"""Copy or fetch the multiple-choice questions, check them, and store them in MMLU's layout."""

from expertchat.pipeline.jobs import open_job
from expertchat.questions.artifact import QUESTIONS
from expertchat.questions.sources import copy_questions, describe, fetch_questions, write_splits
from expertchat.records import write_json
from expertchat.rehearsal.made_up import questions as made_up_questions


def main() -> None:
    with open_job("questions", __doc__) as job:
        folder = job.user_file("path") if job.settings["source"] == "folder" else None
        if folder is not None:
            copy_questions(folder, job.settings["subjects"], job.out)
        elif job.settings["source"] == "hub":
            where = (job.settings["repository"], job.settings["revision"])
            fetch_questions(*where, job.settings["subjects"], job.out)
        elif job.settings["source"] == "made-up":
            write_splits(made_up_questions(job.settings["subjects"]), [], job.out)
        else:
            from expertchat.demo.questions import write_questions
            from expertchat.demo.world import build_world

            world = build_world(job.settings["world"]["seed"])
            write_questions(job.out, world, job.settings["seed"])
        write_json(job.out / QUESTIONS, describe(job.out))


if __name__ == "__main__":
    main()
