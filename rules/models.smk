# Models, made, linked or fetched into the store. Only demo models need a compute node.


rule make_models:
    output:
        "results/models/{id}/manifest.json",
    log:
        "logs/models/{id}.log",
    benchmark:
        "logs/models/{id}.tsv"
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
