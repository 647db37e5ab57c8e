"""Peak memory and load time of a dialogue job whose two models have the same weights.

    python benchmarks/shared_base.py MODEL --record

Each case runs in a fresh process: a model that talks with itself, two names of its weights without
adapters and with an adapter each, and for comparison the same weights in two folders, which are loaded
twice, in one process or in a process each. Peak memory is the sum of the peak resident sizes of all
processes of the case, libraries included. The adapters are new and change nothing, so that the models
say about the same in all cases.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from expertchat.console import silence_libraries
from expertchat.dialogues.talk import create_dialogues, run_dialogues
from expertchat.engine.interface import Question, Source
from expertchat.engine.opening import open_engines
from expertchat.prompts import read_prompts
from expertchat.records import read_records
from expertchat.settings.decoding import Decoding
from expertchat.settings.dialogues import Dialogues
from expertchat.settings.lora import LoRA
from expertchat.settings.models import Load

ROOT = Path(__file__).resolve().parents[1]
ALONE = "one model with itself"
CASES = {  # name: (models, folders, adapters, threads per model)
    ALONE: (1, 1, 0, 2),
    "two names, no adapters": (2, 1, 0, 1),
    "two names, an adapter each": (2, 1, 2, 1),
    "two folders, in turns": (2, 2, 0, 0.5),
    "two folders, a process each": (2, 2, 0, 1),
}
SUBJECTS = ("baking", "sailing", "carpentry", "beekeeping", "pottery", "gardening", "weaving", "cycling")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="folder of a chat model")
    parser.add_argument("--dialogues", type=int, default=24)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--case", choices=CASES, help="run only this case, in this process")
    parser.add_argument("--record", action="store_true", help="write docs/benchmarks.md")
    parser.add_argument("--memory-only", action="store_true", help="leave out times")
    arguments = parser.parse_args()
    silence_libraries()
    if arguments.case:
        print(json.dumps(run_case(arguments)))
        return
    found = {case: fresh_process(case) for case in CASES}
    body = report(found, arguments)
    print(body)
    if arguments.record:
        from record import record

        record("One base, two speakers", "benchmarks/shared_base.py", body)


def fresh_process(case: str) -> dict:
    """The result of a case, run by this script in a process of its own."""
    models, _, _, threads = CASES[case]
    command = [sys.executable, *sys.argv, "--case", case]
    environment = os.environ | {"OMP_NUM_THREADS": str(int(models * threads))}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def run_case(arguments: argparse.Namespace) -> dict:
    """Opens the engines of a case, lets them talk, and measures."""
    models, folders, adapters, _ = CASES[arguments.case]
    settings = Dialogues(
        turns=arguments.turns,
        seeds_per_topic=1,
        candidate_turns=[],
        decoding=Decoding(max_new_tokens=64),
    )
    texts = read_prompts(ROOT / "config/prompts")
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        places = [arguments.model.resolve(), linked_files(arguments.model, work / "other")][:folders]
        own = [new_adapter(arguments.model, work / f"adapter-{i}") for i in range(adapters)]
        sources = [
            Source(name, places[i % folders], Load(), Load().batch_size, own[i] if own else None)
            for i, name in enumerate(("ada", "eva")[:models])
        ]
        began = time.perf_counter()
        engines, side_by_side = open_engines(sources)
        for engine in engines.values():
            engine.answer_logprobs([[Question("Hello", [" there", " you"])]])
        opened = time.perf_counter()
        pair = [source.name for source in sources] * (3 - models)
        begun = create_dialogues(topics(arguments.dialogues), pair, settings)
        run_dialogues(engines, begun, settings, texts, 0, work, work, side_by_side=side_by_side)
        ended = time.perf_counter()
        peaks = [peak_bytes(process) for process in (os.getpid(), *children(os.getpid()))]
        for engine in engines.values():
            engine.close()
        turns = [turn for d in read_records(work / "dialogues.jsonl") for turn in d["turns"]]
    return {
        "peak": sum(peaks),
        "processes": len(peaks),
        "load_seconds": opened - began,
        "talk_seconds": ended - opened,
        "tokens": sum(turn["tokens"] for turn in turns),
    }


def topics(count: int) -> list[dict]:
    """Topics of the dialogues."""
    return [
        {"topic_id": f"t{i}", "topic": f"tool {i} of {s}", "subject": s, "split": "train"}
        for i in range(count)
        for s in [SUBJECTS[i % len(SUBJECTS)]]
    ]


def linked_files(model: Path, folder: Path) -> Path:
    """A folder with links to the model's files: for the engine, another model."""
    folder.mkdir()
    for file in model.resolve().iterdir():
        (folder / file.name).symlink_to(file)
    return folder


def new_adapter(model: Path, folder: Path) -> Path:
    """Writes a new adapter, whose output is zero, in a process whose memory is not measured."""
    code = (
        "import sys, peft, torch\n"
        "from transformers import AutoConfig, AutoModelForCausalLM\n"
        "torch.manual_seed(0)\n"
        "base = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(sys.argv[1]))\n"
        f"lora = peft.LoraConfig(r={LoRA().rank}, target_modules={list(LoRA().target_modules)!r})\n"
        "peft.get_peft_model(base, lora).save_pretrained(sys.argv[2])\n"
    )
    subprocess.run([sys.executable, "-c", code, model, folder], check=True)
    return folder


def children(parent: int) -> Iterable[int]:
    """The processes that `parent` has started and that use memory."""
    for line in Path(f"/proc/{parent}/task/{parent}/children").read_text(encoding="ascii").split():
        if peak_bytes(int(line)):
            yield int(line)


def peak_bytes(process: int) -> int:
    """The largest resident size that a process has had; 0 if it has ended."""
    for line in Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def report(found: dict[str, dict], arguments: argparse.Namespace) -> str:
    """The table and what it was measured on."""
    from record import markdown_table

    alone = found[ALONE]["peak"]
    head = ["models of the job", "processes", "peak memory", "relative to one model", "tokens"]
    rows = [
        [
            case,
            str(f["processes"]),
            f"{f['peak'] / 2**20:,.0f} MiB",
            f"{f['peak'] / alone:.2f}",
            f"{f['tokens']:,}",
        ]
        for case, f in found.items()
    ]
    if not arguments.memory_only:
        head += ["load", "dialogues"]
        for row, f in zip(rows, found.values(), strict=True):
            row += [f"{f['load_seconds']:.1f} s", f"{f['talk_seconds']:.1f} s"]
    size = sum(f.stat().st_size for f in arguments.model.glob("*.safetensors")) / 2**20
    body = (
        f"{markdown_table(head, rows)}\n\n{arguments.dialogues} dialogues of {arguments.turns} turns, "
        f"at most 64 new tokens each, float32; weights of {size:,.0f} MiB on disk."
    )
    if arguments.memory_only:
        return body
    return body + (
        " Two threads in all, one in turns. Loading includes the adapters and a first question to each "
        "model."
    )


if __name__ == "__main__":
    main()
