# Records -> one table of results -> tables and plots. Everything here is a pure function of the records.
#   in:  the records, histories and verdicts of the grid's cells, exactly those
#   out: {OUT}/summary.csv, {OUT}/tables/{experiment}{,_attacks,_differences}.{tex,csv,md}, {OUT}/plots/{experiment}/*.{pdf,png}


# One job an experiment or fewer, of seconds: on a cluster they run on the submitting host. There is a plot_kafs
# for every trained network, so that one goes to the nodes.
localrules:
    list_cells,
    partial,
    aggregate,
    render_tables,
    plot_tradeoff,
    plot_history,
    plot_iterations,
    plot_classes,
    plot_schedule,
    plot_kafs,
    plot_lr_range,


# A list of ten thousand files does not fit on a command line.
rule list_cells:
    output:
        manifest=GRID.manifest_file,
        seal=GRID.manifest_file + SEAL,
    log:
        f"{OUT}/logs/report/list_cells.log",
    params:
        # of a text of a line a cell, which as a param would be printed whole
        cells=f"cells: of checksum {checksum(GRID.manifest())}",
    run:
        write_sealed(output.manifest, GRID.manifest())
        Path(log[0]).write_text(
            f"{output.manifest}: {len(GRID.cells)} lines\n", encoding="utf-8"
        )


# What is there so far. It has no output and no benchmark, so it looks each time; and no record is an input, so it
# makes none.
rule partial:
    input:
        manifest=GRID.manifest_file,
        published=PUBLISHED,
    log:
        f"{OUT}/logs/report/partial.log",
    conda:
        "../../envs/report.yaml"
    params:
        code=code.of_step("partial.py"),
        settings=json.dumps(
            {name: table_settings(config, name) for name in config["run"]}
        ),
        folder=f"{OUT}/partial",
    shell:
        "python {SCRIPT:q}/partial.py --manifest {input.manifest:q} --settings {params.settings:q}"
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
    conda:
        "../../envs/report.yaml"
    resources:
        mem_mb=2000,
        runtime="30m",
    params:
        code=code.of_step("aggregate.py"),
    shell:
        "python {SCRIPT:q}/aggregate.py --manifest {input.manifest:q} --output {output.summary:q} >> {log:q} 2>&1"


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
        multiext(f"{OUT}/tables/{{experiment}}", ".tex", ".md"),
        multiext(f"{OUT}/tables/{{experiment}}_attacks", ".tex", ".md"),
        multiext(f"{OUT}/tables/{{experiment}}_differences", ".tex", ".md"),
    log:
        f"{OUT}/logs/report/tables_{{experiment}}.log",
    benchmark:
        f"{OUT}/benchmarks/report/tables_{{experiment}}.jsonl"
    wildcard_constraints:
        experiment=one_of(config["run"]),
    conda:
        "../../envs/report.yaml"
    resources:
        mem_mb=2000,
        runtime="30m",
    params:
        **as_params(GRID.table_settings),
        code=code.of_step("render_tables.py"),
        settings=lambda wildcards, output: json.dumps(GRID.table_settings(wildcards)),
        folder=lambda wildcards, output: os.path.dirname(output[0]),
    shell:
        "python {SCRIPT:q}/render_tables.py --summary {input.summary:q} --manifest {input.manifest:q}"
        " --experiment {wildcards.experiment} --settings {params.settings:q}"
        " --published {input.published:q} --cards {input.cards:q}"
        " --output {params.folder:q} >> {log:q} 2>&1"


rule plot_tradeoff:
    input:
        summary=GRID.summary,
        published=PUBLISHED,
    output:
        pdf=report(
            f"{OUT}/plots/{{experiment}}/tradeoff.pdf",
            caption="../report/tradeoff.rst",
            category="Plots",
            labels={
                "experiment": "{experiment}",
                "plot": "accuracy against robustness",
            },
        ),
        png=f"{OUT}/plots/{{experiment}}/tradeoff.png",
    log:
        f"{OUT}/logs/report/{{experiment}}/tradeoff.log",
    benchmark:
        f"{OUT}/benchmarks/report/{{experiment}}/tradeoff.jsonl"
    conda:
        "../../envs/report.yaml"
    resources:
        mem_mb=2000,
        runtime="30m",
    params:
        **as_params(GRID.table_settings),
        code=code.of_step("plot_tradeoff.py"),
        settings=lambda wildcards, output: json.dumps(GRID.table_settings(wildcards)),
    shell:
        "python {SCRIPT:q}/plot_tradeoff.py --summary {input.summary:q} --experiment {wildcards.experiment}"
        " --settings {params.settings:q} --published {input.published:q}"
        " --pdf {output.pdf:q} --png {output.png:q} >> {log:q} 2>&1"


rule plot_history:
    input:
        manifest=GRID.manifest_file,
        histories=GRID.histories,
    output:
        pdf=report(
            f"{OUT}/plots/{{experiment}}/history.pdf",
            caption="../report/history.rst",
            category="Plots",
            labels={"experiment": "{experiment}", "plot": "training curves"},
        ),
        png=f"{OUT}/plots/{{experiment}}/history.png",
    log:
        f"{OUT}/logs/report/{{experiment}}/history.log",
    benchmark:
        f"{OUT}/benchmarks/report/{{experiment}}/history.jsonl"
    conda:
        "../../envs/report.yaml"
    resources:
        mem_mb=2000,
        runtime="30m",
    params:
        code=code.of_step("plot_history.py"),
    shell:
        "python {SCRIPT:q}/plot_history.py --manifest {input.manifest:q} --experiment {wildcards.experiment}"
        " --pdf {output.pdf:q} --png {output.png:q} >> {log:q} 2>&1"


rule plot_iterations:
    input:
        manifest=GRID.manifest_file,
        records=GRID.iterated_records,
    output:
        pdf=report(
            f"{OUT}/plots/{{experiment}}/iterations.pdf",
            caption="../report/iterations.rst",
            category="Plots",
            labels={
                "experiment": "{experiment}",
                "plot": "robustness against iterations",
            },
        ),
        png=f"{OUT}/plots/{{experiment}}/iterations.png",
    log:
        f"{OUT}/logs/report/{{experiment}}/iterations.log",
    benchmark:
        f"{OUT}/benchmarks/report/{{experiment}}/iterations.jsonl"
    conda:
        "../../envs/report.yaml"
    resources:
        mem_mb=2000,
        runtime="30m",
    params:
        code=code.of_step("plot_iterations.py"),
        attack=iterated_attack(config),
    shell:
        "python {SCRIPT:q}/plot_iterations.py --manifest {input.manifest:q} --experiment {wildcards.experiment} --attack {params.attack}"
        " --pdf {output.pdf:q} --png {output.png:q} >> {log:q} 2>&1"


rule plot_classes:
    input:
        manifest=GRID.manifest_file,
        verdicts=GRID.compared_verdicts,
        data=prepared_data,
        data_record=GRID.prepared_record,
    output:
        pdf=report(
            f"{OUT}/plots/{{experiment}}/classes.pdf",
            caption="../report/classes.rst",
            category="Plots",
            labels={"experiment": "{experiment}", "plot": "robustness of each class"},
        ),
        png=f"{OUT}/plots/{{experiment}}/classes.png",
    log:
        f"{OUT}/logs/report/{{experiment}}/classes.log",
    benchmark:
        f"{OUT}/benchmarks/report/{{experiment}}/classes.jsonl"
    conda:
        "../../envs/train.yaml"
    resources:
        mem_mb=2000,
        runtime="30m",
    params:
        code=code.of_step("plot_classes.py"),
        attack=config["evaluation"]["headline"],
    shell:
        "python {SCRIPT:q}/plot_classes.py --manifest {input.manifest:q} --experiment {wildcards.experiment} --attack {params.attack}"
        " --data {input.data:q} --pdf {output.pdf:q} --png {output.png:q} >> {log:q} 2>&1"


rule plot_schedule:
    output:
        pdf=report(
            f"{OUT}/plots/{{experiment}}/schedule.pdf",
            caption="../report/schedule.rst",
            category="Plots",
            labels={"experiment": "{experiment}", "plot": "learning rates"},
        ),
        png=f"{OUT}/plots/{{experiment}}/schedule.png",
    log:
        f"{OUT}/logs/report/{{experiment}}/schedule.log",
    benchmark:
        f"{OUT}/benchmarks/report/{{experiment}}/schedule.jsonl"
    conda:
        "../../envs/report.yaml"
    resources:
        mem_mb=2000,
        runtime="30m",
    params:
        **as_params(GRID.schedule_settings),
        code=code.of_step("plot_schedule.py"),
        settings=lambda wildcards, output: json.dumps(GRID.schedule_settings(wildcards)),
    shell:
        "python {SCRIPT:q}/plot_schedule.py --settings {params.settings:q}"
        " --pdf {output.pdf:q} --png {output.png:q} >> {log:q} 2>&1"


rule plot_kafs:
    input:
        model=f"{OUT}/models/{{experiment}}/{{activation}}/seed{{seed}}/model.safetensors",
        record=f"{OUT}/models/{{experiment}}/{{activation}}/seed{{seed}}/record.json",
    output:
        pdf=report(
            f"{OUT}/plots/{{experiment}}/kafs_{{activation}}_seed{{seed}}.pdf",
            caption="../report/kafs.rst",
            category="Plots",
            labels={
                "experiment": "{experiment}",
                "plot": "shapes of {activation}, seed {seed}",
            },
        ),
        png=f"{OUT}/plots/{{experiment}}/kafs_{{activation}}_seed{{seed}}.png",
    log:
        f"{OUT}/logs/report/{{experiment}}/kafs_{{activation}}_seed{{seed}}.log",
    benchmark:
        f"{OUT}/benchmarks/report/{{experiment}}/kafs_{{activation}}_seed{{seed}}.jsonl"
    conda:
        "../../envs/train.yaml"
    resources:
        mem_mb=2000,
        runtime="30m",
    params:
        code=code.of_step("plot_kafs.py"),
    shell:
        "python {SCRIPT:q}/plot_kafs.py --model {input.model:q} --record {input.record:q}"
        " --pdf {output.pdf:q} --png {output.png:q} >> {log:q} 2>&1"


rule plot_lr_range:
    input:
        csv=GRID.lr_range_files("csv"),
        json=GRID.lr_range_files("json"),
    output:
        pdf=report(
            f"{OUT}/plots/{{experiment}}/lr_range.pdf",
            caption="../report/lr_range.rst",
            category="Plots",
            labels={"experiment": "{experiment}", "plot": "learning-rate range test"},
        ),
        png=f"{OUT}/plots/{{experiment}}/lr_range.png",
    log:
        f"{OUT}/logs/report/{{experiment}}/lr_range.log",
    benchmark:
        f"{OUT}/benchmarks/report/{{experiment}}/lr_range.jsonl"
    conda:
        "../../envs/report.yaml"
    resources:
        mem_mb=2000,
        runtime="30m",
    params:
        code=code.of_step("plot_lr_range.py"),
    shell:
        "python {SCRIPT:q}/plot_lr_range.py --csv {input.csv:q} --json {input.json:q}"
        " --pdf {output.pdf:q} --png {output.png:q} >> {log:q} 2>&1"
