# Each model rates the other.


rule make_ratings:
    input:
        unpack(inputs_of("ratings")),
    output:
        "results/ratings/{id}/manifest.json",
    log:
        "logs/ratings/{id}.log",
    benchmark:
        "logs/ratings/{id}.tsv"
    threads: experiment.threads
    resources:
        machine_gpus=1,
    params:
        script=script_of("ratings"),
        recipe=recipe_of("ratings"),
        label=label_of("ratings"),
    message:
        "{params.label}"
    shell:
        "{params.script:q} {params.recipe:q} 2>&1 | tee {log}"
