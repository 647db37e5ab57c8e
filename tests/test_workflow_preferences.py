"""The real workflow on human preferences: from records to who wins, on a small random model."""

import json

import pytest
from expertchat.records import read_json
from expertchat.results import open_experiment
from expertchat.tables import read_tables
from small_workflow import check_columns, dry_run, snakemake, write_config

pytestmark = pytest.mark.slow

FLOURS = ["rye", "wheat", "oat", "spelt", "corn", "rice"]


def pair(number: int) -> dict[str, str]:
    flour = FLOURS[number % len(FLOURS)]
    before = f"\n\nHuman: Is {flour} bread {number} good?\n\nAssistant: "
    return {"chosen": before + f"It is good {number % 5}", "rejected": before + f"No {number % 3}"}


def config_of(folder, model):
    records = "".join(json.dumps(pair(number)) + "\n" for number in range(120))
    (folder / "pairs.jsonl").write_text(records, encoding="utf-8")
    examples = [{"instruction": f"Bake {n}.", "input": "", "output": f"Done {n}."} for n in range(40)]
    (folder / "examples.json").write_text(json.dumps(examples), encoding="utf-8")
    source = {"source": "file", "path": str(folder / "examples.json"), "format": "alpaca"}
    data = {"source": "file", "path": str(folder / "pairs.jsonl"), "format": "hh-rlhf"}
    return {
        "name": "learned",
        "models": {"smol": {"source": "path", "path": str(model)}},
        "sft": {"instructions": [source], "held_out_share": 0.2, "batch_size": 8},
        "preferences": {"data": [data]},
        "rewards": {"folds": 2, "learning_rate": 5e-3, "epochs": 2, "lora": {"rank": 4}},
        "ppo": {
            "algorithm": "rloo",
            "replies_per_context": 2,
            "steps": 2,
            "batch_size": 4,
            "minibatch_size": 4,
            "lora": {"rank": 2},
        },
        "dialogues": {"decoding": {"max_new_tokens": 8}},
        "replies": {"per_context": 1},
    }


@pytest.fixture(scope="module")
def learned(llama_folder, tmp_path_factory):
    """(folder, settings) of a finished experiment."""
    folder = tmp_path_factory.mktemp("learned")
    config = config_of(folder, llama_folder)
    write_config(folder, config)
    snakemake(folder, "all")
    return folder, config


def test_preferences_are_learned_and_someone_wins(learned):
    folder, _ = learned
    view = folder / "results/experiments/learned"
    summary = read_json(view / "report/summary.json")
    (row,) = summary["rows"]
    assert row["reward_pair_accuracy"] > 0.8 and row["tuned"] and row["reward_scale"] > 0
    assert row["rating_before"] is None and row["reward_best_of_4"] is None
    splits = summary["preferences"]["splits"]
    assert sum(splits.values()) == 120 and row["reward_pairs"] == splits["held_out"]
    compared = {(found["first"], found["second"]): found for found in summary["judgements"]}
    assert set(compared) == {("sft", "base"), ("tuned", "base"), ("tuned", "sft")}
    for found in compared.values():
        low, high = found["win_rate_interval"]
        assert found["pairs"] == splits["held_out"] and 0 <= low <= found["win_rate"] <= high <= 1
        assert found["held_out"]["accuracy"] > 0.8
    assert any("wins" in sentence for sentence in summary["verdict"])
    page = (view / "report/report.html").read_text(encoding="utf-8")
    for heading in ("SFT", "Preferences", "Rewards", "Policies", "Judgements"):
        assert f">{heading}</h2>" in page
    run = open_experiment("learned", folder / "results")
    assert len(run.judgements("smol")) == 3 * splits["held_out"]


def test_columns_of_judgements_are_those_of_real_files(learned):
    (table,) = [table for table in read_tables() if table.stage == "judgements"]
    check_columns(table, learned[0] / "results")


def test_nothing_runs_twice_and_a_change_runs_what_follows(learned):
    folder, config = learned
    assert dry_run(folder, config) == set()
    ppo = config["ppo"] | {"learning_rate": 1e-5}
    assert dry_run(folder, config | {"ppo": ppo}) == {"policies", "replies", "judgements", "report"}
    shares = config["preferences"] | {"held_out_share": 0.3}
    changed = dry_run(folder, config | {"preferences": shares})
    assert "preferences" in changed and not changed & {"models", "instructions", "sft"}
    write_config(folder, config)


def test_a_fault_in_the_data_names_the_line(learned, tmp_path):
    folder, config = learned
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(pair(1)) + "\n" + json.dumps({"chosen": 1}) + "\n", encoding="utf-8")
    data = config["preferences"]["data"][0] | {"path": str(path)}
    write_config(folder, config | {"preferences": {"data": [data]}})
    said = snakemake(folder, "all", check=False)
    assert "1 of 2 records (50.00%) are invalid as hh-rlhf" in said and "line 2: chosen is 1" in said
    write_config(folder, config)
