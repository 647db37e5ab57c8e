"""Fit all mixtures of the models on their answers to the val split."""

from expertchat.pipeline.jobs import open_job


def main() -> None:
    with open_job("fits", __doc__) as job:
        from expertchat.answers.artifact import read_by_model
        from expertchat.mixture.artifact import write_fits
        from expertchat.mixture.fits import fit_mixtures
        from expertchat.mmlu.categories import HARNESS
        from expertchat.settings.mmlu import Asking

        settings, asking = job.settings, Asking.from_section(job.settings["section"])
        answers = read_by_model(settings["answers"], job.inputs("answers"), asking)
        write_fits(job.out, fit_mixtures(answers, HARNESS, settings["seed"]))


if __name__ == "__main__":
    main()
