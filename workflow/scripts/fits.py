"""Fit all mixtures of the models on their answers to the val split."""

from expertchat.pipeline.jobs import open_job


def main() -> None:
    with open_job("fits", __doc__) as job:
        from expertchat.answers.artifact import read_by_model
        from expertchat.mixture.artifact import write_fits
        from expertchat.mixture.fits import fit_mixtures
        from expertchat.mmlu.categories import HARNESS

        answers = read_by_model(job.settings["answers"], job.inputs("answers"))
        write_fits(job.out, fit_mixtures(answers, HARNESS, job.settings["seed"]))


if __name__ == "__main__":
    main()
