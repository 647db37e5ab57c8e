# Multiple-choice questions, checked, in MMLU's layout.


rule make_questions:
    output:
        "results/questions/{id}/manifest.json",
    log:
        "logs/questions/{id}.log",
    benchmark:
        "logs/questions/{id}.tsv"
    localrule: True
    params:
        script=script_of("questions"),
        recipe=recipe_of("questions"),
        label=label_of("questions"),
    message:
        "{params.label}"
    shell:
        "{params.script:q} {params.recipe:q} 2>&1 | tee {log}"
