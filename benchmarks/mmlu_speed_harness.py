"""Times lm-evaluation-harness. Run by a Python that has it installed, with a job as JSON; prints JSON.

Measured is the counterpart of our `answer_logprobs`: from request texts to their log-likelihoods.
"""

from __future__ import annotations

import json
import sys
import time

import torch
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager


class Timed(HFLM):
    """The harness's model class, which also counts seconds and tokens."""

    seconds = cpu_seconds = 0.0
    tokens = 0

    def loglikelihood(self, *arguments, **kwargs):
        began, cpu = time.perf_counter(), time.process_time()
        found = super().loglikelihood(*arguments, **kwargs)
        self.seconds += time.perf_counter() - began
        self.cpu_seconds += time.process_time() - cpu
        return found

    def _model_call(self, inps, *arguments, **kwargs):
        self.tokens += inps.numel()
        return super()._model_call(inps, *arguments, **kwargs)


def main() -> None:
    job = json.loads(sys.argv[1])
    torch.set_num_threads(job["threads"])
    model = Timed(pretrained=job["model"], dtype="float32", device="cpu", batch_size=job["batch_size"])
    results = simple_evaluate(
        model=model,
        tasks=job["tasks"],
        task_manager=TaskManager(include_path=job["folder"]),
        num_fewshot=5,
        limit=job["limit"],
        log_samples=True,
        bootstrap_iters=0,
        verbosity="ERROR",
    )
    predictions = {}
    for task in job["tasks"]:
        samples = sorted(results["samples"][task], key=lambda sample: sample["doc_id"])
        scores = [[float(r[0]) for r in sample["filtered_resps"]] for sample in samples]
        predictions[task] = [row.index(max(row)) for row in scores]
    found = {"seconds": model.seconds, "cpu_seconds": model.cpu_seconds, "tokens": model.tokens}
    print("\n" + json.dumps(found | {"predictions": predictions}))


if __name__ == "__main__":
    main()
