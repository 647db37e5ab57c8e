# What will be talked about, written by the models themselves.


rule make_topics:
    input:
        unpack(inputs_of("topics")),
    output:
        "results/topics/{id}/manifest.json",
    log:
        "logs/topics/{id}.log",
    benchmark:
        "logs/topics/{id}.tsv"
    threads: threads_of("topics")
    resources:
        machine_gpus=1,
    params:
        script=script_of("topics"),
        recipe=recipe_of("topics"),
        label=label_of("topics"),
    message:
        "{params.label}"
    shell:
        "{params.script:q} {params.recipe:q} 2>&1 | tee {log}"
