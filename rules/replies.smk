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
    params:
        recipe=recipe_of("replies"),
        label=label_of("replies"),
    message:
        "{params.label}"
    shell:
        "{PYTHON} {ROOT}/workflow/scripts/replies.py {params.recipe:q} 2>&1 | tee {log}"
