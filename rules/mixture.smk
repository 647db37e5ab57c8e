# The models answer together.


rule make_mixture:
    input:
        unpack(inputs_of("mixture")),
    output:
        "results/mixture/{id}/manifest.json",
    log:
        "logs/mixture/{id}.log",
    benchmark:
        "logs/mixture/{id}.tsv"
    localrule: True
    params:
        script=script_of("mixture"),
        recipe=recipe_of("mixture"),
        label=label_of("mixture"),
    message:
        "{params.label}"
    shell:
        "{params.script:q} {params.recipe:q} 2>&1 | tee {log}"
