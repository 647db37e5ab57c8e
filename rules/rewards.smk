# A reward model for each policy, from the other's ratings.


rule make_rewards:
    input:
        unpack(inputs_of("rewards")),
    output:
        "results/rewards/{id}/manifest.json",
    log:
        "logs/rewards/{id}.log",
    benchmark:
        "logs/rewards/{id}.tsv"
    threads: experiment.threads
    resources:
        machine_gpus=1,
    params:
        script=script_of("rewards"),
        recipe=recipe_of("rewards"),
        label=label_of("rewards"),
    message:
        "{params.label}"
    shell:
        "{params.script:q} {params.recipe:q} 2>&1 | tee {log}"
