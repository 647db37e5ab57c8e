# Base and tuned models reply to the same held-out contexts.


rule make_replies:
    input:
        unpack(inputs_of("replies")),
    output:
        "results/replies/{id}/manifest.json",
    log:
        "logs/replies/{id}.log",
    benchmark:
        "logs/replies/{id}.tsv"
    threads: experiment.threads
    resources:
        machine_gpus=1,
    params:
        script=script_of("replies"),
        recipe=recipe_of("replies"),
        label=label_of("replies"),
    message:
        "{params.label}"
    shell:
        "{params.script:q} {params.recipe:q} 2>&1 | tee {log}"
