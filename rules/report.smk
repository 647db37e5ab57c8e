# The report: all figures and plots on one page.


rule make_report:
    """The report of the experiment: report.html, with its figures in summary.json."""
    input:
        models=made_by("models", "report.models"),
        instructions=made_by("instructions", "report.instructions"),
        sft=made_by("sft", "report.sft"),
        preferences=made_by("preferences", "report.preferences"),
        questions=made_by("questions", "report.questions"),
        topics=made_by("topics", "report.topics"),
        anchors=made_by("anchors", "report.anchors"),
        dialogues=made_by("dialogues", "report.dialogues"),
        ratings=made_by("ratings", "report.ratings"),
        reliability=made_by("reliability", "report.reliability"),
        rewards=made_by("rewards", "report.rewards"),
        policies=made_by("policies", "report.policies"),
        replies=made_by("replies", "report.replies"),
        judgements=made_by("judgements", "report.judgements"),
        answers=made_by("answers", "report.answers"),
        mmlu=made_by("mmlu", "report.mmlu"),
        fits=made_by("fits", "report.fits"),
        mixture=made_by("mixture", "report.mixture"),
        speeds=made_by("speeds", "report.speeds"),
        oracle=made_by("oracle", "report.oracle"),
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


rule plan:
    """What the jobs to come need: GPUs, memory, tokens, hours. Runs none of them."""
    log:
        "logs/plan.log",
    localrule: True
    run:
        print_needs(plan, Path(log[0]))
