# All figures and plots.


rule make_report:
    input:
        unpack(inputs_of("report")),
    output:
        "results/report/{id}/manifest.json",
    log:
        "logs/report/{id}.log",
    benchmark:
        "logs/report/{id}.tsv"
    localrule: True
    params:
        script=script_of("report"),
        recipe=recipe_of("report"),
        label=label_of("report"),
    message:
        "{params.label}"
    shell:
        "{params.script:q} {params.recipe:q} 2>&1 | tee {log}"
