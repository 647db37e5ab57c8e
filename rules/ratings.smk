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
    params:
        recipe=recipe_of("ratings"),
        label=label_of("ratings"),
    message:
        "{params.label}"
    shell:
        "{PYTHON} {ROOT}/workflow/scripts/ratings.py {params.recipe:q} 2>&1 | tee {log}"
