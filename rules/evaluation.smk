# What the tuning changed: replies, answers to multiple-choice questions and, in the demo, true statements.


rule make_replies:
    """Replies of the base or the tuned model to the held-out contexts, for comparison."""
    input:
        model=made_by("models", "replies.model"),
        policy=made_by("policies", "replies.policy"),
        dialogues=made_by("dialogues", "replies.dialogues"),
        preferences=made_by("preferences", "replies.preferences"),
    output:
        "results/replies/{id}/manifest.json",
    log:
        "logs/replies/{id}.log",
    benchmark:
        "logs/replies/{id}.tsv"
    threads: experiment.threads
    resources:
        **resources_of("replies"),
    params:
        script=script_of("replies"),
        recipe=recipe_of("replies"),
        label=label_of("replies"),
    message:
        "{params.label}"
    shell:
        "{params.script:q} {params.recipe:q} 2>&1 | tee {log}"


rule make_judgements:
    """Whose replies are better, by a reward model that trained no policy or by a model that is asked."""
    input:
        replies=made_by("replies", "judgements.replies"),
        preferences=made_by("preferences", "judgements.preferences"),
        model=made_by("models", "judgements.model"),
        rewards=made_by("rewards", "judgements.rewards"),
    output:
        "results/judgements/{id}/manifest.json",
    log:
        "logs/judgements/{id}.log",
    benchmark:
        "logs/judgements/{id}.tsv"
    threads: experiment.threads
    resources:
        **resources_of("judgements"),
    params:
        script=script_of("judgements"),
        recipe=recipe_of("judgements"),
        label=label_of("judgements"),
    message:
        "{params.label}"
    shell:
        "{params.script:q} {params.recipe:q} 2>&1 | tee {log}"


rule make_answers:
    """Answers of one model to the multiple-choice questions of a split."""
    input:
        questions=made_by("questions", "answers.questions"),
        model=made_by("models", "answers.model"),
        policy=made_by("policies", "answers.policy"),
    output:
        "results/answers/{id}/manifest.json",
    log:
        "logs/answers/{id}.log",
    benchmark:
        "logs/answers/{id}.tsv"
    threads: experiment.threads
    resources:
        **resources_of("answers"),
    params:
        script=script_of("answers"),
        recipe=recipe_of("answers"),
        label=label_of("answers"),
    message:
        "{params.label}"
    shell:
        "{params.script:q} {params.recipe:q} 2>&1 | tee {log}"


rule make_mmlu:
    """Accuracies on the multiple-choice questions, before and after tuning."""
    input:
        answers=made_by("answers", "mmlu.answers"),
        before=made_by("answers", "mmlu.before"),
        questions=made_by("questions", "mmlu.questions"),
    output:
        "results/mmlu/{id}/manifest.json",
    log:
        "logs/mmlu/{id}.log",
    benchmark:
        "logs/mmlu/{id}.tsv"
    localrule: True
    params:
        script=script_of("mmlu"),
        recipe=recipe_of("mmlu"),
        label=label_of("mmlu"),
    message:
        "{params.label}"
    shell:
        "{params.script:q} {params.recipe:q} 2>&1 | tee {log}"


rule make_fits:
    """Fits mixtures of the models to their answers on the split val."""
    input:
        answers=made_by("answers", "fits.answers"),
    output:
        "results/fits/{id}/manifest.json",
    log:
        "logs/fits/{id}.log",
    benchmark:
        "logs/fits/{id}.tsv"
    localrule: True
    params:
        script=script_of("fits"),
        recipe=recipe_of("fits"),
        label=label_of("fits"),
    message:
        "{params.label}"
    shell:
        "{params.script:q} {params.recipe:q} 2>&1 | tee {log}"


rule make_mixture:
    """Accuracies of the fitted mixtures on the split test."""
    input:
        fits=made_by("fits", "mixture.fits"),
        answers=made_by("answers", "mixture.answers"),
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


rule make_oracle:
    """Compares the demo's ratings and replies with the facts of the demo world."""
    input:
        dialogues=made_by("dialogues", "oracle.dialogues"),
        ratings=made_by("ratings", "oracle.ratings"),
        replies=made_by("replies", "oracle.replies"),
    output:
        "results/oracle/{id}/manifest.json",
    log:
        "logs/oracle/{id}.log",
    benchmark:
        "logs/oracle/{id}.tsv"
    localrule: True
    params:
        script=script_of("oracle"),
        recipe=recipe_of("oracle"),
        label=label_of("oracle"),
    message:
        "{params.label}"
    shell:
        "{params.script:q} {params.recipe:q} 2>&1 | tee {log}"
