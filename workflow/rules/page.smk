# The results page: what tables, figures and records say, in one file that needs nothing else to be read.
#   in:  {OUT}/summary.csv, {OUT}/manifest.jsonl, tables as JSON, figures as SVG, records, histories, cards, study.md
#   out: {OUT}/results.html

PAGE = Page(GRID, DETECTIONS)


rule render_page:
    input:
        summary=GRID.summary,
        manifest=GRID.manifest_file,
        tables=PAGE.tables,
        figures=PAGE.figures,
        pictures=PAGE.pictures,
        networks=PAGE.networks,
        cards=PAGE.cards,
        study=PAGE.study,
        captions=[f"{HERE}workflow/report/{kind}.rst" for kind in PAGE.kinds],
    output:
        report(
            PAGE.file,
            caption="../report/page.rst",
            category="Results page",
            labels={"page": "all results"},
        ),
    log:
        f"{OUT}/logs/report/page.log",
    benchmark:
        f"{OUT}/benchmarks/report/page.jsonl"
    localrule: True
    conda:
        "../../envs/report.yaml"
    resources:
        mem_mb=2000,
        runtime="30m",
    params:
        **as_params(lambda wildcards: PAGE.settings(PLOTS), "experiments"),
        code=code_of("render_page.py"),
        folder=lambda wildcards: OUT,
        study=lambda wildcards, input: ["--study", *input.study] if input.study else [],
    shell:
        f"python {SCRIPT}/render_page.py"
        " --settings {params.settings:q} --folder {params.folder:q} --manifest {input.manifest:q}"
        " --summary {input.summary:q} --captions {input.captions:q} {params.study:q}"
        " --output {output:q} >> {log:q} 2>&1"
