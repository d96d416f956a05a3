# Robustness of networks with trainable activation functions: data -> adversarial training -> attacks ->
# tables and plots. The experiment is in config.yaml, the steps are in workflow/rules/.
import os

from snakemake.utils import min_version

min_version("9.0")

# That of the working directory, if it has one, else the one beside this file.
CONFIG = "config.yaml"
if not os.path.exists(CONFIG):
    CONFIG = os.path.join(workflow.basedir, CONFIG)


configfile: CONFIG


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
