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
        manifest=MANIFEST,
        seal=MANIFEST + SEAL,
    log:
        f"{OUT}/logs/report/list_cells.log",
    params:
        # of a text of a line a cell, which as a param would be printed whole
        cells=f"cells: of checksum {checksum(manifest())}",
    run:
        write_sealed(output.manifest, manifest())
        Path(log[0]).write_text(f"{output.manifest}: {len(CELLS)} lines\n")


# What is there so far. It has no output and no benchmark, so it looks each time; and no record is an input, so it
# makes none.
rule partial:
    input:
        manifest=MANIFEST,
        published=PUBLISHED,
        script=f"{SCRIPT}/partial.py",
        library=REPORT_LIBRARY,
    log:
        f"{OUT}/logs/report/partial.log",
    conda:
        "../../envs/report.yaml"
    params:
        settings=json.dumps(
            {name: table_settings(config, name) for name in config["run"]}
        ),
        folder=f"{OUT}/partial",
    shell:
        "python {input.script} --manifest {input.manifest:q} --settings {params.settings:q}"
        " --published {input.published:q} --output {params.folder:q} 2> {log:q}"


rule aggregate:
    input:
        manifest=MANIFEST,
        training=[path for cell in CELLS for path in training_files(cell).values()],
        evaluations=EVALUATION_RECORDS,
        script=f"{SCRIPT}/aggregate.py",
        library=REPORT_LIBRARY,
    output:
        summary=report(
            SUMMARY,
            caption="../report/summary.rst",
            category="Numbers",
            labels={"table": "all runs and attacks"},
        ),
        seal=SUMMARY + SEAL,
    log:
        f"{OUT}/logs/report/aggregate.log",
    benchmark:
        f"{OUT}/benchmarks/report/aggregate.jsonl"
    conda:
        "../../envs/report.yaml"
    resources:
        mem_mb=2000,
        runtime="30m",
    shell:
        "python {input.script} --manifest {input.manifest:q} --output {output.summary:q} > {log:q} 2>&1"


rule render_tables:
    input:
        summary=SUMMARY,
        manifest=MANIFEST,
        verdicts=compared_verdicts,
        published=PUBLISHED,
        cards=cards,
        script=f"{SCRIPT}/render_tables.py",
        library=REPORT_LIBRARY + library(*CARD_READING),
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
        **as_params(settings_of_tables),
        settings=lambda wildcards, output: json.dumps(settings_of_tables(wildcards)),
        folder=lambda wildcards, output: os.path.dirname(output[0]),
    shell:
        "python {input.script} --summary {input.summary:q} --manifest {input.manifest:q}"
        " --experiment {wildcards.experiment} --settings {params.settings:q}"
        " --published {input.published:q} --cards {input.cards:q}"
        " --output {params.folder:q} > {log:q} 2>&1"


rule plot_tradeoff:
    input:
        summary=SUMMARY,
        published=PUBLISHED,
        script=f"{SCRIPT}/plot_tradeoff.py",
        library=PLOT_BASE
        + library(
            "plots/tradeoff.py",
            "marks.py",
            "diagnostics/table.py",
            "diagnostics/checks.py",
        ),
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
        **as_params(settings_of_tables),
        settings=lambda wildcards, output: json.dumps(settings_of_tables(wildcards)),
    shell:
        "python {input.script} --summary {input.summary:q} --experiment {wildcards.experiment}"
        " --settings {params.settings:q} --published {input.published:q}"
        " --pdf {output.pdf:q} --png {output.png:q} > {log:q} 2>&1"


rule plot_history:
    input:
        manifest=MANIFEST,
        histories=histories,
        script=f"{SCRIPT}/plot_history.py",
        library=PLOT_BASE + library("plots/history.py"),
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
    shell:
        "python {input.script} --manifest {input.manifest:q} --experiment {wildcards.experiment}"
        " --pdf {output.pdf:q} --png {output.png:q} > {log:q} 2>&1"


rule plot_iterations:
    input:
        manifest=MANIFEST,
        records=iterated_records,
        script=f"{SCRIPT}/plot_iterations.py",
        library=PLOT_BASE + library("plots/iterations.py"),
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
        attack=iterated_attack(config),
    shell:
        "python {input.script} --manifest {input.manifest:q} --experiment {wildcards.experiment} --attack {params.attack}"
        " --pdf {output.pdf:q} --png {output.png:q} > {log:q} 2>&1"


rule plot_classes:
    input:
        manifest=MANIFEST,
        verdicts=compared_verdicts,
        data=prepared_data,
        data_record=prepared_record,
        script=f"{SCRIPT}/plot_classes.py",
        library=PLOT_BASE
        + library("plots/classes.py", "data/__init__.py", "data/dataset.py"),
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
        attack=config["evaluation"]["headline"],
    shell:
        "python {input.script} --manifest {input.manifest:q} --experiment {wildcards.experiment} --attack {params.attack}"
        " --data {input.data:q} --pdf {output.pdf:q} --png {output.png:q} > {log:q} 2>&1"


rule plot_schedule:
    input:
        script=f"{SCRIPT}/plot_schedule.py",
        library=PLOT_BASE + library("plots/schedule.py", "training/schedule.py"),
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
        **as_params(settings_of_schedules),
        settings=lambda wildcards, output: json.dumps(settings_of_schedules(wildcards)),
    shell:
        "python {input.script} --settings {params.settings:q}"
        " --pdf {output.pdf:q} --png {output.png:q} > {log:q} 2>&1"


rule plot_kafs:
    input:
        model=f"{OUT}/models/{{experiment}}/{{activation}}/seed{{seed}}/model.safetensors",
        record=f"{OUT}/models/{{experiment}}/{{activation}}/seed{{seed}}/record.json",
        script=f"{SCRIPT}/plot_kafs.py",
        library=PLOT_BASE + library("plots/kafs.py"),
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
    shell:
        "python {input.script} --model {input.model:q} --record {input.record:q}"
        " --pdf {output.pdf:q} --png {output.png:q} > {log:q} 2>&1"


rule plot_lr_range:
    input:
        csv=lr_range_files("csv"),
        json=lr_range_files("json"),
        script=f"{SCRIPT}/plot_lr_range.py",
        library=PLOT_BASE + library("plots/lr_range.py"),
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
    shell:
        "python {input.script} --csv {input.csv:q} --json {input.json:q}"
        " --pdf {output.pdf:q} --png {output.png:q} > {log:q} 2>&1"
