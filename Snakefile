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
include: "workflow/rules/certify.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/plots.smk"


rule all:
    default_target: True
    input:
        GRID.summary,
        GRID.tables,
        GRID.plots,
        GRID.card_tables,
        GRID.card_plots,
        GRID.certificate_tables,
        GRID.certificate_plots,
        GRID.study,


rule models:
    input:
        GRID.models,


rule evaluations:
    input:
        GRID.evaluations,


rule certificates:
    input:
        GRID.certifications,


rule lr_range:
    input:
        GRID.lr_range_plots,


rule rates:
    input:
        f"{OUT}/rates.yaml",
