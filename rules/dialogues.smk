# Two models talk; candidate replies are drawn on the way.


rule make_dialogues:
    input:
        unpack(inputs_of("dialogues")),
    output:
        "results/dialogues/{id}/manifest.json",
    log:
        "logs/dialogues/{id}.log",
    benchmark:
        "logs/dialogues/{id}.tsv"
    threads: threads_of("dialogues")
    resources:
        machine_gpus=1,
    params:
        script=script_of("dialogues"),
        recipe=recipe_of("dialogues"),
        label=label_of("dialogues"),
    message:
        "{params.label}"
    shell:
        "{params.script:q} {params.recipe:q} 2>&1 | tee {log}"
