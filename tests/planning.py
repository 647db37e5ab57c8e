"""What tests of plans share: ids by stage, and what a change of settings makes again."""

AFTER_PPO = {
    *("policies", "replies", "answers", "mmlu", "fits", "mixture"),
    *("dialogues", "ratings", "reliability", "oracle", "report"),
}
FROM_INSTRUCTIONS = {"instructions", "sft"}  # stages of experiments with a section sft
ASKED = {"answers", "mmlu", "fits", "mixture"}


def ids(plan, *stages):
    return {r for r, recipe in plan.recipes.items() if not stages or recipe.stage in stages}


def new_stages(before, after):
    return {reference.split("/")[0] for reference in ids(after) - ids(before)}
