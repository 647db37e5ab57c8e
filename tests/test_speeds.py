"""Stage speeds: what is measured, which model fits, and a job that goes on after it was killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import save_random_model
from expertchat.engine import timing
from expertchat.engine.interface import Source
from expertchat.engine.placement import Need
from expertchat.engine.server.timing import open_timed
from expertchat.engine.timed import DoesNotFit, Loaded, Timing
from expertchat.engine.timing import fewest_gpus, load_timed, out_of_memory_told
from expertchat.pipeline.experiment import read_experiment
from expertchat.pipeline.planner import make_plan
from expertchat.pipeline.store import artifact_path, recipe_path, work_path
from expertchat.records import read_json, read_records
from expertchat.settings.models import Load, Server
from expertchat.settings.speeds import Budget, Speeds, load_name
from expertchat.speeds.choice import GB, Candidate, best, biggest, hours, misfit
from expertchat.speeds.sweep import sweep, time_cell
from expertchat.tables import read_tables
from planning import fault_of, ids
from running_server import KEY, NOWHERE
from small_workflow import check_columns, planned_rules, small_config, snakemake, write_config

BUDGET = {"gpu_memory_gb": 32, "seconds_per_sample": 24, "samples": 1300}
SMALL = BUDGET | {"prompt_tokens": 8, "output_tokens": 4}
CELLS = [{"prompt_tokens": 5, "output_tokens": 3, "batch_size": rows} for rows in (1, 2)]


def speeds_config(folder, **changes) -> dict:
    """An experiment that measures the model in `folder`."""
    speeds = {"budget": SMALL, "prompt_lengths": [8], "output_lengths": [4], "batch_sizes": [1]}
    models = {"tiny": {"source": "path", "path": str(folder)}}
    return {"name": "speeds", "rounds": 0, "models": models, "speeds": speeds | changes}


# ---------------------------------------------------------------- settings and plan


def test_the_budgets_batch_is_measured_too_and_each_batch_once_the_smallest_first():
    section = Speeds(budget=SMALL, prompt_lengths=[16, 8], output_lengths=[4], batch_sizes=[2, 1])
    sizes = [tuple(cell.values()) for cell in section.cells()]
    assert sizes == [(8, 4, 1), (16, 4, 1), (8, 4, 2), (16, 4, 2)]


@pytest.mark.parametrize(
    ("load", "name"),
    [
        ({}, "auto"),
        ({"dtype": "bfloat16"}, "bfloat16"),
        ({"quantization": "nf4"}, "nf4"),
        ({"quantization": "nf4", "dtype": "float16"}, "nf4-float16"),
        ({"server": {"url_env": "A_URL"}}, "server"),
    ],
)
def test_a_way_to_load_has_a_short_name(load, name):
    assert load_name(Load(**load)) == name


def test_each_way_to_load_is_one_artifact_and_limits_measure_nothing_anew(planned, llama_folder):
    variants = [{}, {"dtype": "auto"}, {"quantization": "nf4"}]
    config = speeds_config(llama_folder, variants=variants)
    plan = planned(config)
    names = [view for view in plan.views if view.startswith("speeds/")]
    assert names == ["speeds/tiny/auto", "speeds/tiny/nf4"]
    config["speeds"]["budget"] = SMALL | {"gpu_memory_gb": 1, "seconds_per_sample": 1, "samples": 5}
    config["speeds"] |= {"quality": {"tiny": 1.0}, "published": {"tiny": 50.0}}
    assert ids(planned(config), "speeds") == ids(plan, "speeds")
    assert ids(planned(config), "report") != ids(plan, "report")
    config["speeds"]["budget"] = SMALL | {"output_tokens": 5}
    assert not ids(planned(config), "speeds") & ids(plan, "speeds")


def test_models_with_the_same_weights_are_measured_once(planned, llama_folder):
    config = speeds_config(llama_folder)
    config["models"]["same"] = config["models"]["tiny"]
    plan = planned(config)
    assert len(ids(plan, "speeds")) == 1
    assert plan.views["speeds/tiny/auto"] == plan.views["speeds/same/auto"]


def test_wrong_settings_are_named(default_config, llama_folder, root):
    config = speeds_config(llama_folder, quality={"tony": 1.0})
    assert "speeds.quality: 'tony' is not a model; known: tiny" in fault_of(config, root)
    talking = default_config | {"speeds": {"budget": BUDGET}}
    assert "speeds: models are measured in an experiment of their own: remove speeds or pairs" in (
        fault_of(talking, root)
    )
    config = speeds_config(llama_folder, batch_sizes=[0])
    assert "speeds.batch_sizes" in fault_of(config, root)


@pytest.mark.slow
def test_the_target_makes_measurements_and_report_or_says_what_is_missing(tmp_path, llama_folder, root):
    write_config(tmp_path, speeds_config(llama_folder))
    output = snakemake(tmp_path, "benchmark_models", "--dry-run")
    assert planned_rules(output) == {"models", "speeds", "report"}
    write_config(tmp_path, small_config())
    output = snakemake(tmp_path, "benchmark_models", "--dry-run", check=False)
    assert "benchmark_models: this experiment has no section speeds" in output


# ---------------------------------------------------------------- which model fits, worked out by hand


def candidate(model, variant="auto", billions=1.0, gb=1.0, seconds=1.0, **more) -> Candidate:
    return Candidate(model, variant, int(billions * 1e9), int(gb * GB), int(gb * GB), seconds, **more)


FOUND = [
    candidate("small", billions=2, gb=4, seconds=8, quality=40.0),
    candidate("good", billions=7, gb=14.5, seconds=11, quality=62.5),
    candidate("big", billions=8.5, gb=17.1, seconds=17, quality=55.0),
    candidate("slow", billions=47, gb=27, seconds=24.5, quality=70.0),
    candidate("large", billions=70, gb=32.1, seconds=20, quality=69.0),
]


def test_the_biggest_and_the_best_of_those_that_fit():
    budget = Budget(**BUDGET)
    assert [misfit(c, budget) for c in FOUND] == ["", "", "", "24.5 s a sample", "32.1 GB"]
    assert biggest(FOUND, budget).model == "big"
    assert best(FOUND, budget).model == "good"
    # 1,300 samples of 17 s are 22,100 s
    assert hours(FOUND[2], budget) == pytest.approx(22_100 / 3600)
    patient = Budget(**BUDGET | {"seconds_per_sample": 25})
    assert biggest(FOUND, patient).model == best(FOUND, patient).model == "slow"
    rich = Budget(**BUDGET | {"gpu_memory_gb": 40})
    assert biggest(FOUND, rich).model == best(FOUND, rich).model == "large"
    poor = Budget(**BUDGET | {"gpu_memory_gb": 3.9})
    assert biggest(FOUND, poor) is None and best(FOUND, poor) is None
    both = Budget(**BUDGET | {"gpu_memory_gb": 3.9, "seconds_per_sample": 7})
    assert misfit(FOUND[0], both) == "4.0 GB and 8 s a sample"


def test_the_least_quantized_variant_that_fits_is_chosen_and_then_the_fastest():
    ways = [("nf4", 5, 9), ("auto", 15, 12), ("float16", 15, 11), ("float32", 29, 30)]
    found = [candidate("m", name, 7, gb, seconds, quality=1.0) for name, gb, seconds in ways]
    assert biggest(found, Budget(**BUDGET)).variant == "float16"
    assert best(found, Budget(**BUDGET)).variant == "float16"
    assert biggest(found, Budget(**BUDGET | {"gpu_memory_gb": 8})).variant == "nf4"


def test_what_is_not_known_is_not_chosen():
    budget = Budget(**BUDGET)
    server = Candidate("server", "server", seconds_per_sample=0.5, quality=90.0)
    unmeasured = Candidate("huge", "auto", 10**12, reason="the weights do not fit into memory")
    assert misfit(server, budget) == "its memory is not known"
    assert misfit(unmeasured, budget) == "the weights do not fit into memory"
    assert hours(unmeasured, budget) is None
    assert biggest([server, unmeasured, FOUND[0]], budget) is FOUND[0]
    without = candidate("no score", billions=3)
    assert best([without, FOUND[0]], budget) is FOUND[0] and best([without], budget) is None


@pytest.mark.parametrize(
    ("free", "gpus"),
    [([90], [0, 0]), ([90, 90], [0, 0]), ([60, 100], [0, 1]), ([50, 50, 50], [0, 1])],
)
def test_a_model_is_measured_on_as_few_gpus_as_hold_it(free, gpus):
    need = Need("m", {"a": 40, "b": 40}, working=10)  # the working memory is needed on each GPU
    assert list(fewest_gpus(need, free, 0).values()) == gpus


def test_a_model_that_no_gpu_or_host_holds_does_not_fit():
    need = Need("m", {"a": 40, "b": 40}, working=10)
    for free, host in (([49, 49], 1000), ([], 89)):
        with pytest.raises(DoesNotFit):
            fewest_gpus(need, free, host)
    assert fewest_gpus(need, [], 90) is None


# ---------------------------------------------------------------- one cell


def steady(*seconds):
    """A model whose runs take these times, in order; reading takes a quarter of each."""
    left = list(seconds)

    def time_batch(prompt, output, rows, seed):
        taken = left.pop(0)
        return Timing(taken, rows * output, taken / 4, 3 * taken / 4, peak_memory_bytes=len(left))

    return time_batch


def test_a_cell_is_the_median_of_its_runs_and_the_first_does_not_count():
    cell = {"prompt_tokens": 100, "output_tokens": 16, "batch_size": 2}
    row = time_cell(steady(99, 8, 4, 2), cell, 3, 0, "")
    assert (row["warmup_seconds"], row["repeats"], row["reason"]) == (99, 3, "")
    assert [row[f"seconds{end}"] for end in ("", "_low", "_high")] == [4, 2, 8]
    # 2 rows of 16 tokens in 4 s; 2 x 100 tokens in 1 s; 2 x 15 tokens after the first in 3 s
    assert row["tokens_per_second"] == 8
    assert row["prefill_tokens_per_second"] == 200
    assert row["decode_tokens_per_second"] == 10
    assert row["drawn_tokens"] == 16 and row["peak_memory_bytes"] == 2


def test_a_reply_of_one_token_has_no_speed_of_drawing():
    row = time_cell(steady(1, 1), {"prompt_tokens": 4, "output_tokens": 1, "batch_size": 1}, 1, 0, "")
    assert row["seconds"] == 1 and row["decode_tokens_per_second"] is None


def test_a_batch_that_does_not_fit_is_recorded_and_the_sweep_goes_on(tmp_path):
    def time_batch(prompt, output, rows, seed):
        if rows == 2:
            raise DoesNotFit("memory ran out")
        return Timing(1.0, rows * output)

    cells = [*CELLS, CELLS[0] | {"output_tokens": 9}]
    sweep(Loaded("a card", 1, 1), time_batch, cells, 2, tmp_path / "saved", tmp_path, "x")
    rows = read_records(tmp_path / "speeds.jsonl")
    assert [row["reason"] for row in rows] == ["", "memory ran out", ""]
    assert [row["seconds"] for row in rows] == [1.0, None, 1.0]
    assert {row["device"] for row in rows} == {"a card"}


def test_a_model_that_does_not_fit_says_so_in_every_row(tmp_path):
    sweep(Loaded("a card", reason="too large"), None, CELLS, 2, tmp_path / "saved", tmp_path, "x")
    assert {row["reason"] for row in read_records(tmp_path / "speeds.jsonl")} == {"too large"}
    assert read_json(tmp_path / "loaded.json")["reason"] == "too large"


def test_every_run_has_a_seed_of_its_own(tmp_path):
    seeds = []

    def time_batch(prompt, output, rows, seed):
        seeds.append(seed)
        return Timing(1.0, rows * output)

    sweep(Loaded("a card"), time_batch, CELLS, 3, tmp_path / "saved", tmp_path, "x")
    assert seeds == list(range(8))


def test_a_sweep_goes_on_after_an_interruption_but_not_on_another_machine(tmp_path):
    asked = []

    def until(most):
        def time_batch(prompt, output, rows, seed):
            if len(asked) == most:
                raise KeyboardInterrupt
            asked.append(rows)
            return Timing(float(len(asked)), rows * output)

        return time_batch

    first = Loaded("a card", 1, 1, load_seconds=7.0)
    with pytest.raises(KeyboardInterrupt):
        sweep(first, until(3), CELLS, 1, tmp_path / "saved", tmp_path, "x")
    again = Loaded("a card", 1, 1, load_seconds=5.0)
    sweep(again, until(9), CELLS, 1, tmp_path / "saved", tmp_path, "x")
    assert asked == [1, 1, 2, 2, 2]  # what was measured before the interruption is not asked again
    assert read_json(tmp_path / "loaded.json")["load_seconds"] == 7.0
    sweep(Loaded("another card", 1, 1), until(99), CELLS, 1, tmp_path / "saved", tmp_path, "x")
    assert asked[5:] == [1, 1, 2, 2]
    assert {row["device"] for row in read_records(tmp_path / "speeds.jsonl")} == {"another card"}


# ---------------------------------------------------------------- a real model


@pytest.fixture(scope="module")
def timed(tokenizer, tmp_path_factory):
    """(how it was loaded, the function that times it) of a random Llama that reads 64 tokens."""
    folder = save_random_model(
        "llama", tokenizer, tmp_path_factory.mktemp("timed"), max_position_embeddings=64
    )
    return load_timed(Source("tiny", folder, Load(), batch_size=4), tokens=12)


def test_a_batch_has_the_shape_that_was_asked_for(timed):
    _, time_batch = timed
    found = time_batch(40, 24, 3, 1)  # a random model soon draws its end token, which must not count
    assert found.drawn_tokens == 3 * 24
    assert found.seconds == pytest.approx(found.prefill_seconds + found.decode_seconds)
    assert found.prefill_seconds > 0
    assert found.peak_memory_bytes >= 0  # a tiny model may lie in memory that the process had freed


def test_what_is_known_of_a_loaded_model(timed):
    loaded, _ = timed
    assert loaded.weights_bytes == loaded.planned_bytes and loaded.dtype == "float32"
    # embeddings and head of 32, 2 layers of 4 attention and 3 MLP matrices and 2 norms, a last norm
    vocabulary = (loaded.parameters - 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48 + 64) - 32) / 32
    assert vocabulary == int(vocabulary)
    assert loaded.load_seconds > 0 and loaded.reason == "" and loaded.device


def test_a_text_that_is_longer_than_the_model_reads_does_not_fit(timed):
    with pytest.raises(DoesNotFit, match="65 tokens, and the model reads at most 64"):
        timed[1](41, 24, 1, 0)


def test_a_batch_that_is_larger_than_the_free_memory_does_not_fit(timed, monkeypatch):
    monkeypatch.setattr(timing, "free_bytes", lambda model: 10**5)
    with pytest.raises(DoesNotFit, match="beside the weights"):
        timed[1](8, 4, 1024, 0)


def test_a_model_that_is_larger_than_the_free_memory_does_not_fit(llama_folder, monkeypatch):
    monkeypatch.setattr(timing, "free_bytes", lambda model: 10**4)
    loaded, time_batch = load_timed(Source("tiny", llama_folder, Load(), batch_size=4), tokens=12)
    assert time_batch is None and "of main memory are free" in loaded.reason
    assert loaded.parameters > 0 and loaded.weights_bytes is None


def test_only_a_lack_of_memory_is_no_error():
    with pytest.raises(DoesNotFit, match="ran out"), out_of_memory_told("memory ran out"):
        raise torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(RuntimeError, match="shapes"), out_of_memory_told("memory ran out"):
        raise RuntimeError("shapes differ")


@pytest.mark.parametrize("load", [{"dtype": "bfloat16"}, {"quantization": "nf4"}])
@pytest.mark.parametrize("architecture", ["phi", "gemma", "llama", "mistral", "mixtral"])
def test_the_presets_architectures_take_the_bytes_that_were_planned(
    architecture, load, tokenizer, tmp_path
):
    folder = save_random_model(architecture, tokenizer, tmp_path, head_dim=8)
    loaded, time_batch = load_timed(Source("tiny", folder, Load(**load), 4), tokens=12)
    assert loaded.weights_bytes == pytest.approx(loaded.planned_bytes, rel=0.1)
    assert time_batch(8, 4, 2, 0).drawn_tokens == 8


def test_a_server_is_timed_from_outside(word_server, monkeypatch):
    monkeypatch.setenv("TEST_URL", word_server.url)
    monkeypatch.setenv("TEST_KEY", KEY)
    word_server.control()
    load = Load(server=Server(url_env="TEST_URL", key_env="TEST_KEY"))
    loaded, time_batch = open_timed(Source("words", NOWHERE, load, batch_size=4))
    row = time_cell(time_batch, {"prompt_tokens": 40, "output_tokens": 4, "batch_size": 2}, 2, 0, "")
    assert loaded.device == "server" and loaded.parameters is None
    assert row["seconds"] > 0 and row["peak_memory_bytes"] is None
    assert row["prefill_tokens_per_second"] is None and 0 < row["drawn_tokens"] <= 4


# ---------------------------------------------------------------- the job


def test_a_job_that_was_killed_goes_on_after_its_last_batch(tmp_path, llama_folder, root):
    config = speeds_config(llama_folder, prompt_lengths=[8, 16], repeats=40, output_lengths=[4, 32])
    plan = make_plan(read_experiment(config, root), root)
    plan.store = tmp_path / "results"
    plan.write_recipes()
    environment = {**os.environ, "PYTHONPATH": str(root / "workflow")}

    def start(reference: str) -> subprocess.Popen:
        script = root / f"workflow/scripts/{reference.split('/')[0]}.py"
        recipe = recipe_path(plan.store, reference)
        command = [sys.executable, str(script), str(recipe), "--store", str(plan.store)]
        return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)

    (model,), (speeds,) = ids(plan, "models"), ids(plan, "speeds")
    assert start(model).wait() == 0
    job = start(speeds)
    saved = work_path(plan.store, speeds) / "checkpoints"
    while not (found := sorted(saved.glob("*/0*/speeds.jsonl"))):
        assert job.poll() is None, job.stderr.read()
        time.sleep(0.01)
    job.send_signal(signal.SIGKILL)
    job.wait()
    found = sorted(saved.glob("*/0*/speeds.jsonl"))
    before = read_records(found[-1])
    assert 0 < len(before) < 4
    assert start(speeds).wait() == 0
    after = read_records(artifact_path(plan.store, speeds) / "speeds.jsonl")
    assert after[: len(before)] == before and len(after) == 4
    assert not Path(work_path(plan.store, speeds)).exists()
    (table,) = [table for table in read_tables() if table.stage == "speeds"]
    check_columns(table, plan.store)
