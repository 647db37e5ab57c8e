# The loop against the demo world's truth.


rule make_check:
    input:
        unpack(inputs_of("check")),
    output:
        "results/check/{id}/manifest.json",
    log:
        "logs/check/{id}.log",
    benchmark:
        "logs/check/{id}.tsv"
    localrule: True
    params:
        script=script_of("check"),
        recipe=recipe_of("check"),
        label=label_of("check"),
    message:
        "{params.label}"
    shell:
        "{params.script:q} {params.recipe:q} 2>&1 | tee {log}"
