# Training: on instructions before the dialogues, and on the ratings after them, a reward model and then PPO.


rule make_sft:
    """Tunes a model on instructions; all later stages use the result in its place."""
    input:
        model=made_by("models", "sft.model"),
        instructions=made_by("instructions", "sft.instructions"),
    output:
        "results/sft/{id}/manifest.json",
    log:
        "logs/sft/{id}.log",
    benchmark:
        "logs/sft/{id}.tsv"
    threads: experiment.training_threads
    resources:
        **resources_of("sft"),
    params:
        script=script_of("sft"),
        recipe=recipe_of("sft"),
        label=label_of("sft"),
    message:
        "{params.label}"
    shell:
        "{params.script:q} {params.recipe:q} 2>&1 | tee {log}"


rule make_rewards:
    """Trains a reward model on pairs of replies, rated ones or those of human preferences."""
    input:
        model=made_by("models", "rewards.model"),
        dialogues=made_by("dialogues", "rewards.dialogues"),
        ratings=made_by("ratings", "rewards.ratings"),
        preferences=made_by("preferences", "rewards.preferences"),
    output:
        "results/rewards/{id}/manifest.json",
    log:
        "logs/rewards/{id}.log",
    benchmark:
        "logs/rewards/{id}.tsv"
    threads: experiment.training_threads
    resources:
        **resources_of("rewards"),
    params:
        script=script_of("rewards"),
        recipe=recipe_of("rewards"),
        label=label_of("rewards"),
    message:
        "{params.label}"
    shell:
        "{params.script:q} {params.recipe:q} 2>&1 | tee {log}"


rule make_policies:
    """Tunes a model's LoRA adapter by PPO on its reward model."""
    input:
        model=made_by("models", "policies.model"),
        dialogues=made_by("dialogues", "policies.dialogues"),
        preferences=made_by("preferences", "policies.preferences"),
        rewards=made_by("rewards", "policies.rewards"),
        policy=made_by("policies", "policies.policy"),
    output:
        "results/policies/{id}/manifest.json",
    log:
        "logs/policies/{id}.log",
    benchmark:
        "logs/policies/{id}.tsv"
    threads: experiment.training_threads
    resources:
        **resources_of("policies"),
    params:
        script=script_of("policies"),
        recipe=recipe_of("policies"),
        label=label_of("policies"),
    message:
        "{params.label}"
    shell:
        "{params.script:q} {params.recipe:q} 2>&1 | tee {log}"
