# Records -> one table of results -> tables. Everything here is a pure function of the records.
#   in:  the records, histories and verdicts of the grid's cells, exactly those
#   out: {OUT}/summary.csv, {OUT}/tables/{experiment}{,_attacks,_differences}.{tex,csv,md,json} (differences where
#        there is more than one activation), {OUT}/study.{md,csv}, {OUT}/rates.yaml
# One job an experiment or fewer, of seconds: on a cluster they run on the submitting host.


# A list of ten thousand files does not fit on a command line.
rule list_cells:
    output:
        manifest=GRID.manifest_file,
        seal=GRID.manifest_file + SEAL,
    log:
        f"{OUT}/logs/report/list_cells.log",
    localrule: True
    params:
        # of a text of a line a cell, which as a param would be printed whole
        cells=f"cells: of checksum {checksum(GRID.manifest())}",
    run:
        list_the_cells(output.manifest, log[0])


# What is there so far. It has no output and no benchmark, so it looks each time; and no record is an input, so it
# makes none.
rule partial:
    input:
        manifest=GRID.manifest_file,
        published=PUBLISHED,
    log:
        f"{OUT}/logs/report/partial.log",
    localrule: True
    conda:
        "../../envs/report.yaml"
    params:
        code=code_of("partial.py"),
        settings=json.dumps(
            {name: table_settings(config, name) for name in config["run"]}
        ),
        folder=f"{OUT}/partial",
    shell:
        f"python {SCRIPT}/partial.py"
        " --manifest {input.manifest:q} --settings {params.settings:q}"
        " --published {input.published:q} --output {params.folder:q} 2>> {log:q}"


rule aggregate:
    input:
        manifest=GRID.manifest_file,
        training=[
            path for cell in GRID.cells for path in GRID.training_files(cell).values()
        ],
        evaluations=GRID.evaluations,
    output:
        summary=report(
            GRID.summary,
            caption="../report/summary.rst",
            category="Numbers",
            labels={"table": "all runs and attacks"},
        ),
        seal=GRID.summary + SEAL,
    log:
        f"{OUT}/logs/report/aggregate.log",
    benchmark:
        f"{OUT}/benchmarks/report/aggregate.jsonl"
    localrule: True
    conda:
        "../../envs/report.yaml"
    resources:
        mem_mb=2000,
        runtime="30m",
    params:
        code=code_of("aggregate.py"),
    shell:
        f"python {SCRIPT}/aggregate.py"
        " --manifest {input.manifest:q} --output {output.summary:q} >> {log:q} 2>&1"


rule render_tables:
    input:
        summary=GRID.summary,
        manifest=GRID.manifest_file,
        verdicts=GRID.compared_verdicts,
        published=PUBLISHED,
        cards=GRID.cards,
    output:
        report(
            f"{OUT}/tables/{{experiment}}.csv",
            caption="../report/table.rst",
            category="Tables",
            labels={"experiment": "{experiment}", "table": "results"},
        ),
        report(
            f"{OUT}/tables/{{experiment}}_attacks.csv",
            caption="../report/attacks.rst",
            category="Tables",
            labels={"experiment": "{experiment}", "table": "every attack"},
        ),
        report(
            f"{OUT}/tables/{{experiment}}_differences.csv",
            caption="../report/differences.rst",
            category="Tables",
            labels={"experiment": "{experiment}", "table": "differences"},
        ),
        multiext(f"{OUT}/tables/{{experiment}}", ".tex", ".md", ".json"),
        multiext(f"{OUT}/tables/{{experiment}}_attacks", ".tex", ".md", ".json"),
        multiext(f"{OUT}/tables/{{experiment}}_differences", ".tex", ".md", ".json"),
    log:
        f"{OUT}/logs/report/tables_{{experiment}}.log",
    benchmark:
        f"{OUT}/benchmarks/report/tables_{{experiment}}.jsonl"
    wildcard_constraints:
        experiment=one_of(
            [name for name in config["run"] if GRID.tables_of(name) == TABLES]
        ),
    localrule: True
    conda:
        "../../envs/report.yaml"
    resources:
        mem_mb=2000,
        runtime="30m",
    params:
        **as_params(GRID.table_settings),
        code=code_of("render_tables.py"),
        folder=lambda wildcards, output: os.path.dirname(output[0]),
    shell:
        f"python {SCRIPT}/render_tables.py"
        " --summary {input.summary:q} --manifest {input.manifest:q}"
        " --experiment {wildcards.experiment} --settings {params.settings:q}"
        " --published {input.published:q} --cards {input.cards:q}"
        " --output {params.folder:q} >> {log:q} 2>&1"


# Of one activation there are no differences.
use rule render_tables as render_tables_of_one with:
    output:
        report(
            f"{OUT}/tables/{{experiment}}.csv",
            caption="../report/table.rst",
            category="Tables",
            labels={"experiment": "{experiment}", "table": "results"},
        ),
        report(
            f"{OUT}/tables/{{experiment}}_attacks.csv",
            caption="../report/attacks.rst",
            category="Tables",
            labels={"experiment": "{experiment}", "table": "every attack"},
        ),
        multiext(f"{OUT}/tables/{{experiment}}", ".tex", ".md", ".json"),
        multiext(f"{OUT}/tables/{{experiment}}_attacks", ".tex", ".md", ".json"),
    wildcard_constraints:
        experiment=one_of(
            [name for name in config["run"] if GRID.tables_of(name) != TABLES]
        ),


rule render_study:
    input:
        summary=GRID.summary,
        manifest=GRID.manifest_file,
        verdicts=GRID.study_verdicts(),
        template=f"{HERE}workflow/resources/study.md",
    output:
        md=f"{OUT}/study.md",
        csv=report(
            f"{OUT}/study.csv",
            caption="../report/study.rst",
            category="Tables",
            labels={"table": "planned comparisons of the study"},
        ),
    log:
        f"{OUT}/logs/report/study.log",
    benchmark:
        f"{OUT}/benchmarks/report/study.jsonl"
    localrule: True
    conda:
        "../../envs/report.yaml"
    resources:
        mem_mb=2000,
        runtime="30m",
    params:
        settings=json.dumps(GRID.study_settings()),
        code=code_of("render_study.py"),
    shell:
        f"python {SCRIPT}/render_study.py"
        " --summary {input.summary:q} --manifest {input.manifest:q}"
        " --settings {params.settings:q} --template {input.template:q}"
        " --md {output.md:q} --csv {output.csv:q} >> {log:q} 2>&1"


# A target of its own, before the study: what it says is written into the configuration.
rule choose_rates:
    input:
        GRID.rates_records(),
    output:
        f"{OUT}/rates.yaml",
    log:
        f"{OUT}/logs/report/rates.log",
    benchmark:
        f"{OUT}/benchmarks/report/rates.jsonl"
    localrule: True
    conda:
        "../../envs/report.yaml"
    resources:
        mem_mb=2000,
        runtime="30m",
    params:
        code=code_of("choose_rates.py"),
    shell:
        f"python {SCRIPT}/choose_rates.py"
        " --records {input:q} --output {output:q} >> {log:q} 2>&1"
