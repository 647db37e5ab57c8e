# Topics, dialogues about them, and ratings of anchors and dialogues.


rule make_topics:
    """Topics of the dialogues, written by the models in turn or read from the user's file."""
    input:
        questions=made_by("questions", "topics.questions"),
        models=made_by("models", "topics.models"),
    output:
        "results/topics/{id}/manifest.json",
    log:
        "logs/topics/{id}.log",
    benchmark:
        "logs/topics/{id}.tsv"
    threads: threads_of("topics")
    resources:
        **resources_of("topics"),
    params:
        script=script_of("topics"),
        recipe=recipe_of("topics"),
        label=label_of("topics"),
    message:
        "{params.label}"
    shell:
        "{params.script:q} {params.recipe:q} 2>&1 | tee {log}"


rule make_dialogues:
    """Dialogues of a pair of models, with several candidate replies at some turns."""
    input:
        topics=made_by("topics", "dialogues.topics"),
        models=made_by("models", "dialogues.models"),
        policies=made_by("policies", "dialogues.policies"),
        # not read: a rater that cannot rate ends the run before there are dialogues
        checked=ancient(plan.checked_raters()),
    output:
        "results/dialogues/{id}/manifest.json",
    log:
        "logs/dialogues/{id}.log",
    benchmark:
        "logs/dialogues/{id}.tsv"
    threads: threads_of("dialogues")
    resources:
        **resources_of("dialogues"),
    params:
        script=script_of("dialogues"),
        recipe=recipe_of("dialogues"),
        label=label_of("dialogues"),
    message:
        "{params.label}"
    shell:
        "{params.script:q} {params.recipe:q} 2>&1 | tee {log}"


rule make_anchors:
    """Ratings of the anchors by one model, before it rates any dialogue."""
    input:
        model=made_by("models", "anchors.model"),
        policy=made_by("policies", "anchors.policy"),
    output:
        "results/anchors/{id}/manifest.json",
    log:
        "logs/anchors/{id}.log",
    benchmark:
        "logs/anchors/{id}.tsv"
    threads: experiment.threads
    resources:
        **resources_of("anchors"),
    params:
        script=script_of("anchors"),
        recipe=recipe_of("anchors"),
        label=label_of("anchors"),
    message:
        "{params.label}"
    shell:
        "{params.script:q} {params.recipe:q} 2>&1 | tee {log}"


rule make_ratings:
    """Ratings of dialogues and candidate replies by one model, category by category."""
    input:
        model=made_by("models", "ratings.model"),
        policy=made_by("policies", "ratings.policy"),
        dialogues=made_by("dialogues", "ratings.dialogues"),
        anchors=made_by("anchors", "ratings.anchors"),
    output:
        "results/ratings/{id}/manifest.json",
    log:
        "logs/ratings/{id}.log",
    benchmark:
        "logs/ratings/{id}.tsv"
    threads: experiment.threads
    resources:
        **resources_of("ratings"),
    params:
        script=script_of("ratings"),
        recipe=recipe_of("ratings"),
        label=label_of("ratings"),
    message:
        "{params.label}"
    shell:
        "{params.script:q} {params.recipe:q} 2>&1 | tee {log}"


rule make_reliability:
    """Reliability of a round's ratings, such as the agreement between raters."""
    input:
        ratings=made_by("ratings", "reliability.ratings"),
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
