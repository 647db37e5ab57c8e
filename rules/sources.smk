# Where models, instructions, preferences and questions come from.


rule make_models:
    """Links, downloads or converts a model, or trains one for the demo."""
    output:
        "results/models/{id}/manifest.json",
    log:
        "logs/models/{id}.log",
    benchmark:
        "logs/models/{id}.tsv"
    # only training needs a compute node; compute nodes may have no network, which hub and package need
    localrule: all(model.source != "demo" for model in experiment.models.values())
    threads: experiment.threads
    params:
        script=script_of("models"),
        recipe=recipe_of("models"),
        label=label_of("models"),
    message:
        "{params.label}"
    shell:
        "{params.script:q} {params.recipe:q} 2>&1 | tee {log}"


rule make_instructions:
    """Reads instruction data sets for supervised fine-tuning, checks and splits them."""
    output:
        "results/instructions/{id}/manifest.json",
    log:
        "logs/instructions/{id}.log",
    benchmark:
        "logs/instructions/{id}.tsv"
    localrule: True
    params:
        script=script_of("instructions"),
        recipe=recipe_of("instructions"),
        label=label_of("instructions"),
    message:
        "{params.label}"
    shell:
        "{params.script:q} {params.recipe:q} 2>&1 | tee {log}"


rule make_preferences:
    """Reads data sets of human preferences, checks and splits them."""
    output:
        "results/preferences/{id}/manifest.json",
    log:
        "logs/preferences/{id}.log",
    benchmark:
        "logs/preferences/{id}.tsv"
    localrule: True
    params:
        script=script_of("preferences"),
        recipe=recipe_of("preferences"),
        label=label_of("preferences"),
    message:
        "{params.label}"
    shell:
        "{params.script:q} {params.recipe:q} 2>&1 | tee {log}"


rule make_questions:
    """Checks multiple-choice questions and copies them, in MMLU's layout."""
    output:
        "results/questions/{id}/manifest.json",
    log:
        "logs/questions/{id}.log",
    benchmark:
        "logs/questions/{id}.tsv"
    localrule: True
    params:
        script=script_of("questions"),
        recipe=recipe_of("questions"),
        label=label_of("questions"),
    message:
        "{params.label}"
    shell:
        "{params.script:q} {params.recipe:q} 2>&1 | tee {log}"
