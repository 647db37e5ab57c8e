"""Let one model rate the anchors, good and bad written examples, before it rates any dialogue."""

from expertchat.pipeline.jobs import open_job
from expertchat.settings.anchors import Anchor
from expertchat.settings.ratings import Ratings
from expertchat.settings.rubrics import Rubric


def main() -> None:
    with open_job("anchors", __doc__) as job:
        from expertchat.engine.opening import open_copies
        from expertchat.ratings.anchors import write_anchors
        from expertchat.ratings.asking import Rater

        settings = job.settings
        rater = Rater(
            job.recipe.label.removeprefix("anchors of "),
            open_copies(job.source("model", job.input("model"), job.input("policy"))),
            Ratings(**job.recipe.runtime["ratings"]),
            Rubric(**settings["rubric"]),
            settings["prompt"],
            settings["seed"],
        )
        write_anchors(
            rater, [Anchor(**anchor) for anchor in settings["anchors"]], job.checkpoints, job.out
        )


if __name__ == "__main__":
    main()
