# Robustness of networks with trainable activation functions: data -> adversarial training -> attacks ->
# tables and plots. The experiment is in config.yaml, the steps are in workflow/rules/.
from snakemake.utils import min_version

min_version("9.0")


configfile: "config.yaml"


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/published.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/card.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        SUMMARY,
        TABLES,
        PLOTS,
        CARD_TABLES,
        CARD_PLOTS,


rule models:
    input:
        [training_files(cell)["record"] for cell in CELLS],


rule evaluations:
    input:
        EVALUATION_RECORDS,


rule lr_range:
    input:
        LR_RANGE_PLOTS,
