"""Let one model rate dialogues and candidate replies, category by category."""

from expertchat.pipeline.jobs import open_job
from expertchat.settings.ratings import Ratings
from expertchat.settings.rubrics import Rubric


def main() -> None:
    with open_job("ratings", __doc__) as job:
        from expertchat.engine.opening import open_copies
        from expertchat.ratings.asking import Rater
        from expertchat.ratings.rating import rate

        settings = job.settings
        name = settings["rater"]
        rater = Rater(
            name,
            open_copies(job.source(name, job.input("model"), job.input("policy"))),
            Ratings(**settings["section"], **job.recipe.runtime["ratings"]),
            Rubric(**settings["rubric"]),
            settings["prompt"],
            settings["seed"],
        )
        rate(rater, job.input("dialogues"), job.input("anchors"), job.checkpoints, job.out)


if __name__ == "__main__":
    main()
