# Robustness of networks with trainable activation functions: data -> adversarial training -> attacks ->
# tables and plots. The experiment is in config.yaml, the steps are in workflow/rules/.
from snakemake.utils import min_version

min_version("9.0")


include: "workflow/rules/place.smk"


configfile: CONFIG


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/published.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/card.smk"
include: "workflow/rules/certify.smk"
include: "workflow/rules/detect.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/plots.smk"
include: "workflow/rules/page.smk"


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
        DETECTIONS.tables,
        DETECTIONS.plots,
        GRID.study,
        PAGE.file,


rule models:
    input:
        GRID.models,


rule evaluations:
    input:
        GRID.evaluations,


rule certificates:
    input:
        GRID.certifications,


rule detections:
    input:
        DETECTIONS.tables,
        DETECTIONS.plots,


rule lr_range:
    input:
        GRID.lr_range_plots,


rule rates:
    input:
        f"{OUT}/rates.yaml",
