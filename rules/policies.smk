# PPO tunes each model's adapter.


rule make_policies:
    input:
        unpack(inputs_of("policies")),
    output:
        "results/policies/{id}/manifest.json",
    log:
        "logs/policies/{id}.log",
    benchmark:
        "logs/policies/{id}.tsv"
    threads: experiment.threads
    resources:
        machine_gpus=1,
    params:
        script=script_of("policies"),
        recipe=recipe_of("policies"),
        label=label_of("policies"),
    message:
        "{params.label}"
    shell:
        "{params.script:q} {params.recipe:q} 2>&1 | tee {log}"
