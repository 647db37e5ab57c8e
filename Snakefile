# ExpertChat: language models talk, rate each other, and are tuned on the ratings.
#
#   snakemake --profile profiles/local              run the experiment of config/config.yaml
#   snakemake --profile profiles/local --dry-run    show what would run
#   snakemake topics                                run everything up to a stage
#   snakemake --configfile config/presets/X.yaml    run another experiment
#   snakemake --list                                list all rules

from snakemake.utils import min_version

min_version("9.27")

if not workflow.overwrite_configfiles:

    configfile: f"{workflow.basedir}/config/config.yaml"


include: "rules/common.smk"


rule all:
    """Everything that the experiment needs."""
    default_target: True
    input:
        plan.manifests(),


include: "rules/sources.smk"
include: "rules/talk.smk"
include: "rules/training.smk"
include: "rules/evaluation.smk"
include: "rules/speeds.smk"
include: "rules/report.smk"
