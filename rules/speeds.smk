# Which model fits: time and memory of each model in each variant.


rule make_speeds:
    """Seconds and memory of a model, over lengths of prompts and replies and batch sizes."""
    input:
        model=made_by("models", "speeds.model"),
    output:
        "results/speeds/{id}/manifest.json",
    log:
        "logs/speeds/{id}.log",
    benchmark:
        "logs/speeds/{id}.tsv"
    threads: experiment.threads
    resources:
        **resources_of("speeds"),
        measurements=1,
    params:
        script=script_of("speeds"),
        recipe=recipe_of("speeds"),
        label=label_of("speeds"),
    message:
        "{params.label}"
    shell:
        "{params.script:q} {params.recipe:q} 2>&1 | tee {log}"


rule benchmark_models:
    """Which model fits: stage speeds and the report, whose section `speeds` has the answer."""
    input:
        measured_models,
