# How far a round's ratings can be trusted.


rule make_reliability:
    input:
        unpack(inputs_of("reliability")),
    output:
        "results/reliability/{id}/manifest.json",
    log:
        "logs/reliability/{id}.log",
    benchmark:
        "logs/reliability/{id}.tsv"
    localrule: True
    params:
        script=script_of("reliability"),
        recipe=recipe_of("reliability"),
        label=label_of("reliability"),
    message:
        "{params.label}"
    shell:
        "{params.script:q} {params.recipe:q} 2>&1 | tee {log}"
