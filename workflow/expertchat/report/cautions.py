"""Checks of the headline figures; each failed check is a sentence on the page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from expertchat.records import read_json
from expertchat.reliability.artifact import RELIABILITY, rater_faults
from expertchat.report.results import Results
from expertchat.report.summary import ends
from expertchat.report.wording import interval, number, percent

KL_FACTOR = 2.0  # multiple of the target above which the last KL is reported
MAX_DROP = 0.1  # of an oracle's mark, or of an accuracy from val to test; both from 0 to 1
MAX_UNUSABLE, MAX_CUT_OFF = 0.05, 0.1  # shares of ratings and of replies
WEAK_SPEARMAN = 0.5
MAX_ONE_LETTER = 0.9  # share of answers that are the same letter
MIN_LETTER_MASS = 0.5
MIN_CONSISTENT, MAX_LONGER = 0.7, 0.8  # shares of a judge's pairs
MAX_SHORTENED = 0.05  # share of prompts that were too long


def cautions(results: Results) -> list[str]:
    """Sentences on the last round; empty if no check fails. One that is true of several models names all
    of them."""
    trained = [
        (row["model"], sentence)
        for row in results.last_rows
        for sentence in (
            *training_cautions(results, row),
            *rating_cautions(row),
            *oracle_cautions(row),
            *reply_cautions(results, row),
        )
    ]
    last = [row for row in results.summary["mmlu"] if row["round"] == results.rounds]
    answered = [(row["model"], clause) for row in last for clause in answer_cautions(results, row)]
    mixed = [("Mixture", clause) for clause in mixture_cautions(results)]
    names: dict[str, list[str]] = {}
    judging = judge_cautions(results)
    for name, clause in (*rater_cautions(results), *trained, *judging, *answered, *mixed):
        names.setdefault(clause, []).append(name)
    return [f"{whose(who)}: {clause}." for clause, who in names.items()]


def whose(models: list[str]) -> str:
    """What a clause that speaks of one model is true of: "ada", or "ada and ben, each"."""
    different = list(dict.fromkeys(models))
    return " and ".join(different) + (", each" if len(different) > 1 else "")


def rater_cautions(results: Results) -> list[tuple[str, str]]:
    """(rater, clause) of raters that are blind or whose ratings are mostly unusable, as of the first
    round; each once."""
    found: dict[tuple[str, str], str] = {}
    artifacts = results.run.find("reliability") if results.run.has("reliability") else []
    for artifact in artifacts:  # one per round; of transcripts a single one
        measures = read_json(artifact.folder / RELIABILITY)
        for rater, kind, clause in rater_faults(measures):
            found.setdefault((rater, kind), clause)
    return [(rater, clause) for (rater, _), clause in found.items()]


def judge_cautions(results: Results) -> list[tuple[str, str]]:
    """(model, clause) of judges that may not know which reply is better, or that like long ones."""
    found = []
    for row in results.summary["judgements"]:
        judge = row["judge"]
        if "held_out" in row and row["held_out"]["accuracy_interval"][0] <= 0.5:
            bounds = interval(row["held_out"]["accuracy_interval"], 0, 100)
            words = f"the accuracy of its judge's reward model (95 % interval {bounds} %)"
            found.append((row["model"], f"{words} is not significantly above chance"))
        if "consistent" in row and row["consistent"] < MIN_CONSISTENT:
            words = f"{judge} gives the same answer in both orders for only {percent(row['consistent'])}"
            found.append((row["model"], f"{words} of the pairs of replies that it judges"))
        longer = row["longer_wins"]
        if longer is not None and longer > MAX_LONGER:
            words = f"{judge} prefers the longer reply in {percent(longer)} of the comparisons of"
            found.append((row["model"], f"{words} {row['first']} with {row['second']}"))
    return found


def answer_cautions(results: Results, row: dict[str, Any]) -> Iterator[str]:
    """Checks of a model's answers to multiple-choice questions."""
    settings = results.stage_settings("mmlu")
    letter, share = max(row["letters"].items(), key=lambda item: item[1])
    if share > MAX_ONE_LETTER:
        yield f"{percent(share)} of its answers are {letter}, whatever the question"
    if row["interval"] and row["interval"][0] <= row["always"]:
        yield (
            f"its accuracy on the questions (95 % interval {interval(row['interval'], 1, 100)} %) is "
            "not significantly higher than that of always choosing the same one of A to D "
            f"(at best {percent(row['always'], 1)})"
        )
    if settings["formulation"] == "letter" and row["mass"] < MIN_LETTER_MASS:
        yield (
            f"it gives the letters A to D only {percent(row['mass'], 1)} of the next token's "
            "probability, so it does not treat the questions as multiple choice; the cloze formulation "
            "(`mmlu.formulation`) may measure its knowledge better"
        )
    if row["shortened"] > MAX_SHORTENED * row["questions"]:
        share = row["shortened"] / row["questions"]
        yield f"{percent(share)} of the prompts exceeded its context length and were shortened"


def mixture_cautions(results: Results) -> Iterator[str]:
    """Checks of the fitted mixture that is best on val."""
    for row in results.summary["mixture"][results.rounds :][:1]:
        best = next(m for m in row["methods"] if m["method"] == row["chosen_fitted"])
        bounds = best["over_best_single_interval"]
        if bounds and bounds[1] < 0:
            yield (
                f"the fitted mixture that is best on val, “{best['title']}”, is significantly worse on "
                f"test than {row['best_single']} alone"
            )
        lost = best["val_accuracy"] - best["accuracy"]
        if lost > MAX_DROP:
            yield (
                f"the accuracy of “{best['title']}” is {percent(best['val_accuracy'], 1)} on val and "
                f"{percent(best['accuracy'], 1)} on test: val differs from test or is too small "
                f"({row['val_questions']} questions)"
            )


def training_cautions(results: Results, row: dict[str, Any]) -> Iterator[str]:
    """Checks of the reward model, PPO and MMLU."""
    bounds = row["reward_pair_accuracy_interval"]
    if bounds[0] <= 0.5:
        yield (
            f"its reward model's accuracy (95 % interval {interval(bounds, 0, 100)} %) is not "
            "significantly above chance"
        )
    elif bounds[0] <= row["reward_length_accuracy"]:
        yield (
            f"its reward model's accuracy (95 % interval {interval(bounds, 0, 100)} %) is not "
            "significantly above that of choosing by length alone "
            f"({percent(row['reward_length_accuracy'])})"
        )
    if row["reward_scale"] == 0:
        yield (
            "its reward model's scores do not predict which reply is better on topics that it was not "
            "trained on; their scale is 0, so the model was not tuned in this round"
        )
    target = results.stage_settings("ppo")["kl_target"]
    if row["ppo_kl_last"] is not None and row["ppo_kl_last"] > KL_FACTOR * target:
        yield (
            f"PPO ended at a KL of {number(row['ppo_kl_last'], 1)} nats per reply, more than "
            f"{number(KL_FACTOR, 0)} times the target of {number(target, 1)}: it moved further from its "
            "base model than intended"
        )
    bounds = row["mmlu_change_interval"]
    if bounds is not None and bounds[1] < 0:
        yield f"its MMLU accuracy fell by {number(-100 * row['mmlu_change'], 1)} points"


def rating_cautions(row: dict[str, Any]) -> Iterator[str]:
    """Checks of the ratings, if there are any."""
    if row["rating_usable_before"] is None:
        return
    unusable = 1 - min(row["rating_usable_before"], row["rating_usable_after"])
    if unusable > MAX_UNUSABLE:
        yield f"up to {percent(unusable)} of its ratings on held-out dialogues are unusable and left out"


def oracle_cautions(row: dict[str, Any]) -> Iterator[str]:
    """Checks against the oracle, if there is one."""
    if "oracle_before" not in row:
        return
    for mark, before in row["oracle_before"].items():
        after = row["oracle_after"][mark]
        if before - after > MAX_DROP:
            yield f"the oracle's mark “{mark}” fell from {number(before)} to {number(after)}"
    agreement = row["rating_oracle_spearman"]
    if agreement is not None and agreement < WEAK_SPEARMAN:
        yield (
            "the ratings that it gave to whole dialogues agree only weakly with the oracle "
            f"(Spearman correlation {number(agreement)})"
        )


def reply_cautions(results: Results, row: dict[str, Any]) -> Iterator[str]:
    """Checks for replies that do not end and for loss of diversity."""
    steps = results.run.ppo_steps(row["model"], results.rounds)
    cut = 1 - ends(steps["ended"])[1]
    if cut > MAX_CUT_OFF:
        yield f"{percent(cut)} of its PPO replies in the last steps were cut off at the token limit"
    texts = [results.run.replies(row["model"], n)["text"] for n in (0, results.rounds)]
    before, after = (text.nunique() / max(1, len(text)) for text in texts)
    if after < before / 2:
        yield (
            f"its replies became less diverse: {percent(after)} of them are distinct, compared with "
            f"{percent(before)} before tuning"
        )
