"""What jobs need, planned from configurations: the founding case, what fits and what does not."""

import json
from pathlib import Path

import pytest
from expertchat.errors import UserError
from expertchat.pipeline.experiment import read_config, read_experiment
from expertchat.pipeline.planner import make_plan
from expertchat.planning.command import plan_needs
from expertchat.planning.jobs import plan_jobs
from expertchat.planning.machine import GIB, Machine, read_machine
from expertchat.planning.packing import fewest_gpus, read_packing
from expertchat.planning.work import works_of

ROOT = Path(__file__).resolve().parents[1]


def plan_of(preset, *changes):
    config = read_config([ROOT / f"config/presets/{preset}.yaml"], list(changes))
    return make_plan(read_experiment(config, ROOT), ROOT)


def needs(plan, machine, tmp_path):
    return list(plan_jobs(plan.recipes, plan.recipes.values(), machine, tmp_path))


def gpus(text, nodes=1):
    return read_machine(text, nodes)


LLAMA_16_BIT = (
    "models={llama: {source: hub, repository: meta-llama/Meta-Llama-3-8B-Instruct, revision: main, "
    "load: {quantization: none}}}"
)


def dialogue_of(plan, machine, tmp_path):
    found = [n for n in needs(plan, machine, tmp_path) if n.recipe.stage == "dialogues"]
    return found[0].memory


def test_the_founding_pair_fits_on_four_gpus_of_16_gib_and_not_on_three(tmp_path):
    plan = plan_of("expertchat", LLAMA_16_BIT)
    four, three = (dialogue_of(plan, gpus(f"{n}x16"), tmp_path) for n in (4, 3))
    assert four.problem is None
    assert set(four.devices["mixtral"]).isdisjoint(four.devices["llama"])  # side by side
    assert four.peak < 16 * GIB
    assert "mixtral and llama need" in three.problem


def test_the_weights_of_the_founding_pair(tmp_path):
    plan = plan_of("expertchat", LLAMA_16_BIT)
    found = {}
    for need in needs(plan, gpus("1x80"), tmp_path):
        if need.recipe.stage == "rewards":
            found[need.recipe.settings["speaker"]] = need.memory.parts["weights"] / 1e9
    assert found["mixtral"] == pytest.approx(24.5, abs=0.1)  # nf4 with the scales of the scales
    assert found["llama"] == pytest.approx(16.06, abs=0.01)


def tuned_in_full(repository):
    model = f"{{source: hub, repository: {repository}, revision: main, load: {{chat_template: plain}}}}"
    return plan_of(
        "instruct-sft",
        f"models={{pythia: {model}}}",
        "sft={method: full, models: [pythia], max_length: 1024}",
    )


@pytest.mark.parametrize(
    ("repository", "machine", "fits"),
    [
        ("EleutherAI/pythia-12b", "1x80", False),
        ("EleutherAI/pythia-1.4b", "4x16", True),
        ("EleutherAI/pythia-6.9b", "4x80", True),  # 102 GiB in four parts
        ("EleutherAI/pythia-6.9b", "4x16", False),
    ],
)
def test_full_fine_tuning(repository, machine, fits, tmp_path):
    (sft,) = [
        need
        for need in needs(tuned_in_full(repository), gpus(machine), tmp_path)
        if need.recipe.stage == "sft" and need.recipe.label.endswith("pythia")
    ]
    assert (sft.problem is None) == fits
    if not fits:
        assert "sft.method: lora" in sft.problem


def test_what_cannot_run_names_a_length_that_can(tmp_path):
    long = "dialogues={turns: 6, candidate_turns: [5], decoding: {max_new_tokens: 6000}}"
    plan = plan_of("expertchat", long, "rewards={max_length: 60000}")
    problems = [need.problem for need in needs(plan, gpus("1x40"), tmp_path) if need.problem]
    assert any("rewards.max_length of about" in problem for problem in problems)


def test_more_memory_never_makes_the_rows_fewer(tmp_path):
    plan = plan_of("expertchat")
    texts = [dialogue_of(plan, gpus(f"4x{size}"), tmp_path).texts for size in (16, 24, 40, 80)]
    assert texts == sorted(texts)


def test_work_grows_with_the_settings():
    small, large = (
        sum(
            work.drawn
            for recipe in plan.recipes.values()
            for work in works_of(plan.recipes, recipe).values()
            if recipe.stage == "dialogues"
        )
        for plan in (plan_of("expertchat"), plan_of("expertchat", "dialogues={seeds_per_topic: 4}"))
    )
    assert large == 2 * small


def test_dialogues_draw_all_turns_and_candidates():
    plan = plan_of("expertchat")
    (first, *_) = [r for r in plan.recipes.values() if r.stage == "dialogues"]
    works = works_of(plan.recipes, first)
    # 12 subjects of 20 topics, 2 seeds, 6 turns and 2 times 6 candidates of 256 + 48 + 8 tokens, and
    # each of the two models speaks half of them
    assert works["mixtral"].drawn == 240 * 2 * (6 + 12) * 312 // 2


@pytest.mark.parametrize("text", ["x16", "4x", "0x16", "four", "4x0", "-1"])
def test_machines_that_do_not_exist_are_refused(text):
    with pytest.raises(UserError, match="--gpus"):
        read_machine(text)


def test_a_description_of_gpus():
    assert read_machine("4x16").gpus == (16 * GIB,) * 4
    assert read_machine("80").gpus == (80 * GIB,)
    assert read_machine("none").gpus == ()
    assert Machine((16 * GIB,) * 4, GIB).words == "4 GPUs of 16 GiB"


def test_the_plan_is_written_beside_the_results(tmp_path):
    plan = plan_of("expertchat")
    plan.store = tmp_path
    lines, possible = plan_needs(plan, "4x16")
    written = json.loads((plan.folder() / "plan.json").read_text())
    assert possible and len(written["jobs"]) == 25
    assert all(job["memory"]["peak"] <= 16 * GIB for job in written["jobs"])
    assert lines[0] == (
        "What the jobs to come need on 4 GPUs of 16 GiB, with texts as long as they may be:"
    )


def test_a_server_needs_no_plan(tmp_path):
    server = "{source: server, load: {server: {url_env: MY_SERVER}}}"
    plan = plan_of("expertchat", f"models={{judge: {server}}}", "ratings={third_party: [judge]}")
    reasons = {need.reason for need in needs(plan, gpus("4x16"), tmp_path) if need.reason}
    assert reasons == {"a server answers"}


def test_packed_jobs_ask_for_as_few_gpus_as_they_can_do_with(tmp_path):
    plan = plan_of("expertchat")
    plan.store = tmp_path
    found = fewest_gpus(plan, gpus("4x16"))
    by_label = {plan.recipes[reference].label: count for reference, count in found.items()}
    assert by_label["ratings of llama in round 1"] == 1
    assert by_label["ratings of mixtral in round 1"] == 2  # 22.8 GiB of weights
    assert by_label["dialogues in round 1"] == 3
    assert by_label["policies of llama in round 1"] == 1


def test_packing_says_what_cannot_run_on_all_gpus_of_a_node(tmp_path):
    plan = plan_of("expertchat")
    plan.store = tmp_path
    with pytest.raises(UserError, match="ratings of mixtral"):
        fewest_gpus(plan, gpus("1x16"))


def test_a_job_that_measures_what_fits_gets_all_gpus_and_is_never_refused(tmp_path):
    plan = plan_of("biggest-model")  # Mixtral in 16 bits does not fit
    plan.store = tmp_path
    speeds = {reference for reference in plan.recipes if reference.startswith("speeds/")}
    assert fewest_gpus(plan, gpus("2x16")) == dict.fromkeys(speeds, 2)
    lines, possible = plan_needs(plan, "2x16", 1)
    assert possible and any("it measures whether its model fits" in line for line in lines)


def test_packed_jobs_of_a_machine_without_gpus_ask_for_their_planned_memory(tmp_path, monkeypatch):
    monkeypatch.setenv("EXPERTCHAT_PACK", "1")
    monkeypatch.setattr("expertchat.planning.machine.gpus_of_machine", lambda: ())
    plan = plan_of("minchatgpt")
    plan.store = tmp_path
    packed = read_packing(plan)
    tuned, report = (
        next(ref for ref, recipe in plan.recipes.items() if recipe.stage == stage)
        for stage in ("sft", "report")
    )
    (need,) = (n for n in needs(plan, read_machine("none"), tmp_path) if n.recipe.reference == tuned)
    assert packed.memory_mb(tuned) == -(-need.memory.peak // 10**6)
    assert packed.memory_mb(report) == 0
