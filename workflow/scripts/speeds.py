"""Measure how much time and memory a model takes, by lengths of prompts and replies and batch size."""

from expertchat.pipeline.jobs import open_job


def main() -> None:
    with open_job("speeds", __doc__) as job:
        from expertchat.speeds.sweep import sweep

        settings, source = job.settings, job.source("model", job.input("model"))
        cells = settings["cells"]
        if source.load.server is not None:
            from expertchat.engine.server.timing import open_timed

            loaded, time_batch = open_timed(source)
        else:
            from expertchat.engine.timing import load_timed

            smallest = min(cell["prompt_tokens"] + cell["output_tokens"] for cell in cells)
            loaded, time_batch = load_timed(source, smallest)
        label = job.recipe.label
        sweep(loaded, time_batch, cells, settings["repeats"], job.checkpoints, job.out, label)


if __name__ == "__main__":
    main()
