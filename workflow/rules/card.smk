# The evaluation card of each network of the experiments in card.run, and the pictures drawn from it.
#   in:  {OUT}/models/.../model.safetensors, of other activations too, {OUT}/data/{dataset}.safetensors
#   out: {OUT}/cards/{experiment}/{activation}/ seed{seed}.json (figures, checks), seed{seed}.safetensors (pictures),
#        {OUT}/cards/{experiment}.{csv,md}, {OUT}/plots/{experiment}/*.{pdf,png}


localrules:
    render_cards,
    plot_radii,
    plot_depth,
    plot_saliency,
    plot_landscapes,
    plot_gallery,
    plot_layers,


rule card:
    input:
        model=f"{OUT}/models/{{experiment}}/{{activation}}/seed{{seed}}/model.safetensors",
        model_record=f"{OUT}/models/{{experiment}}/{{activation}}/seed{{seed}}/record.json",
        sources=lambda wildcards: card_sources(wildcards, "model"),
        source_records=lambda wildcards: card_sources(wildcards, "record"),
        data=prepared_data,
        data_record=prepared_record,
        script=f"{SCRIPT}/card.py",
    output:
        record=f"{OUT}/cards/{{experiment}}/{{activation}}/seed{{seed}}.json",
        tensors=f"{OUT}/cards/{{experiment}}/{{activation}}/seed{{seed}}.safetensors",
    log:
        f"{OUT}/logs/card/{{experiment}}/{{activation}}/seed{{seed}}.log",
    benchmark:
        f"{OUT}/benchmarks/card/{{experiment}}/{{activation}}/seed{{seed}}.jsonl"
    conda:
        "../../envs/train.yaml"
    threads: 1
    resources:
        device=DEVICE,
        batch_size=config["evaluation"]["batch_size"],
        gpu=int(GPU),
        mem_mb=6000,
        runtime="6h",
    params:
        **as_params(lambda wildcards: card_settings(config, **wildcards), "card"),
        settings=lambda wildcards, output: json.dumps(
            card_settings(config, **wildcards)
        ),
        code=CARD_CODE,
    shell:
        "exec python {input.script} --settings {params.settings:q} --model {input.model:q}"
        " --model-record {input.model_record:q} --data {input.data:q} --sources {input.sources:q}"
        " --source-records {input.source_records:q}"
        " --record {output.record:q} --tensors {output.tensors:q} --batch-size {resources.batch_size}"
        " --device {resources.device} --threads {threads} > {log:q} 2>&1"


rule render_cards:
    input:
        cards=cards,
        script=f"{SCRIPT}/render_cards.py",
        library=REPORT_LIBRARY
        + library(*CARD_READING, "diagnostics/table.py", "diagnostics/checks.py"),
    output:
        csv=report(
            f"{OUT}/cards/{{experiment}}.csv",
            caption="../report/cards.rst",
            category="Tables",
            labels={"experiment": "{experiment}", "table": "evaluation cards"},
        ),
        md=f"{OUT}/cards/{{experiment}}.md",
    log:
        f"{OUT}/logs/report/cards_{{experiment}}.log",
    benchmark:
        f"{OUT}/benchmarks/report/cards_{{experiment}}.jsonl"
    conda:
        "../../envs/report.yaml"
    resources:
        mem_mb=2000,
        runtime="30m",
    params:
        title=lambda wildcards: config["experiments"][wildcards.experiment]["title"],
    shell:
        "python {input.script} --cards {input.cards:q} --title {params.title:q}"
        " --csv {output.csv:q} --md {output.md:q} > {log:q} 2>&1"


rule plot_radii:
    input:
        cards=cards,
        script=f"{SCRIPT}/plot_radii.py",
        library=PLOT_BASE + library(*CARD_READING, "plots/radii.py"),
    output:
        pdf=report(
            f"{OUT}/plots/{{experiment}}/radii.pdf",
            caption="../report/radii.rst",
            category="Plots",
            labels={
                "experiment": "{experiment}",
                "plot": "robustness against the radius",
            },
        ),
        png=f"{OUT}/plots/{{experiment}}/radii.png",
    log:
        f"{OUT}/logs/report/{{experiment}}/radii.log",
    benchmark:
        f"{OUT}/benchmarks/report/{{experiment}}/radii.jsonl"
    conda:
        "../../envs/report.yaml"
    resources:
        mem_mb=2000,
        runtime="30m",
    shell:
        "python {input.script} --cards {input.cards:q}"
        " --pdf {output.pdf:q} --png {output.png:q} > {log:q} 2>&1"


rule plot_depth:
    input:
        cards=first_cards,
        script=f"{SCRIPT}/plot_depth.py",
        library=PLOT_BASE + library(*CARD_READING, "plots/depth.py"),
    output:
        pdf=report(
            f"{OUT}/plots/{{experiment}}/depth.pdf",
            caption="../report/depth.rst",
            category="Plots",
            labels={
                "experiment": "{experiment}",
                "plot": "the layers, clean and attacked",
            },
        ),
        png=f"{OUT}/plots/{{experiment}}/depth.png",
    log:
        f"{OUT}/logs/report/{{experiment}}/depth.log",
    benchmark:
        f"{OUT}/benchmarks/report/{{experiment}}/depth.jsonl"
    conda:
        "../../envs/report.yaml"
    resources:
        mem_mb=2000,
        runtime="30m",
    shell:
        "python {input.script} --cards {input.cards:q}"
        " --pdf {output.pdf:q} --png {output.png:q} > {log:q} 2>&1"


rule plot_saliency:
    input:
        cards=saliency_cards,
        tensors=lambda wildcards: saliency_cards(wildcards, "tensors"),
        script=f"{SCRIPT}/plot_saliency.py",
        library=PLOT_BASE + library(*CARD_READING, "plots/pictures.py"),
    output:
        pdf=report(
            f"{OUT}/plots/{{experiment}}/saliency.pdf",
            caption="../report/saliency.rst",
            category="Plots",
            labels={
                "experiment": "{experiment}",
                "plot": "input gradients",
            },
        ),
        png=f"{OUT}/plots/{{experiment}}/saliency.png",
    log:
        f"{OUT}/logs/report/{{experiment}}/saliency.log",
    benchmark:
        f"{OUT}/benchmarks/report/{{experiment}}/saliency.jsonl"
    conda:
        "../../envs/report.yaml"
    resources:
        mem_mb=2000,
        runtime="30m",
    shell:
        "python {input.script} --cards {input.cards:q}"
        " --pdf {output.pdf:q} --png {output.png:q} > {log:q} 2>&1"


rule plot_landscapes:
    input:
        cards=first_cards,
        tensors=lambda wildcards: first_cards(wildcards, "tensors"),
        script=f"{SCRIPT}/plot_landscapes.py",
        library=PLOT_BASE + library(*CARD_READING, "plots/pictures.py"),
    output:
        pdf=report(
            f"{OUT}/plots/{{experiment}}/landscapes.pdf",
            caption="../report/landscapes.rst",
            category="Plots",
            labels={
                "experiment": "{experiment}",
                "plot": "the loss around images",
            },
        ),
        png=f"{OUT}/plots/{{experiment}}/landscapes.png",
    log:
        f"{OUT}/logs/report/{{experiment}}/landscapes.log",
    benchmark:
        f"{OUT}/benchmarks/report/{{experiment}}/landscapes.jsonl"
    conda:
        "../../envs/report.yaml"
    resources:
        mem_mb=2000,
        runtime="30m",
    shell:
        "python {input.script} --cards {input.cards:q}"
        " --pdf {output.pdf:q} --png {output.png:q} > {log:q} 2>&1"


rule plot_gallery:
    input:
        card=f"{OUT}/cards/{{experiment}}/{{activation}}/seed{{seed}}.json",
        tensors=f"{OUT}/cards/{{experiment}}/{{activation}}/seed{{seed}}.safetensors",
        script=f"{SCRIPT}/plot_gallery.py",
        library=PLOT_BASE + library(*CARD_READING, "plots/pictures.py"),
    output:
        pdf=report(
            f"{OUT}/plots/{{experiment}}/gallery_{{activation}}_seed{{seed}}.pdf",
            caption="../report/gallery.rst",
            category="Plots",
            labels={
                "experiment": "{experiment}",
                "plot": "attacked images, {activation}, seed {seed}",
            },
        ),
        png=f"{OUT}/plots/{{experiment}}/gallery_{{activation}}_seed{{seed}}.png",
    log:
        f"{OUT}/logs/report/{{experiment}}/gallery_{{activation}}_seed{{seed}}.log",
    benchmark:
        f"{OUT}/benchmarks/report/{{experiment}}/gallery_{{activation}}_seed{{seed}}.jsonl"
    conda:
        "../../envs/report.yaml"
    resources:
        mem_mb=2000,
        runtime="30m",
    shell:
        "python {input.script} --card {input.card:q}"
        " --pdf {output.pdf:q} --png {output.png:q} > {log:q} 2>&1"


rule plot_layers:
    input:
        card=f"{OUT}/cards/{{experiment}}/{{activation}}/seed{{seed}}.json",
        tensors=f"{OUT}/cards/{{experiment}}/{{activation}}/seed{{seed}}.safetensors",
        script=f"{SCRIPT}/plot_layers.py",
        library=PLOT_BASE + library(*CARD_READING, "plots/layers.py"),
    output:
        pdf=report(
            f"{OUT}/plots/{{experiment}}/layers_{{activation}}_seed{{seed}}.pdf",
            caption="../report/layers.rst",
            category="Plots",
            labels={
                "experiment": "{experiment}",
                "plot": "distributions of {activation}, seed {seed}",
            },
        ),
        png=f"{OUT}/plots/{{experiment}}/layers_{{activation}}_seed{{seed}}.png",
    log:
        f"{OUT}/logs/report/{{experiment}}/layers_{{activation}}_seed{{seed}}.log",
    benchmark:
        f"{OUT}/benchmarks/report/{{experiment}}/layers_{{activation}}_seed{{seed}}.jsonl"
    conda:
        "../../envs/report.yaml"
    resources:
        mem_mb=2000,
        runtime="30m",
    shell:
        "python {input.script} --card {input.card:q}"
        " --pdf {output.pdf:q} --png {output.png:q} > {log:q} 2>&1"
