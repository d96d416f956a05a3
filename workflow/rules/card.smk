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
        sources=lambda wildcards: GRID.card_sources(wildcards, "model"),
        source_records=lambda wildcards: GRID.card_sources(wildcards, "record"),
        data=prepared_data,
        data_record=GRID.prepared_record,
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
        code=GRID.card_code,
    shell:
        "exec python {SCRIPT:q}/card.py --settings {params.settings:q} --model {input.model:q}"
        " --model-record {input.model_record:q} --data {input.data:q} --sources {input.sources:q}"
        " --source-records {input.source_records:q}"
        " --record {output.record:q} --tensors {output.tensors:q} --batch-size {resources.batch_size}"
        " --code {params.code:q} --device {resources.device} --threads {threads} >> {log:q} 2>&1"


rule render_cards:
    input:
        cards=GRID.cards,
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
        code=code.of_step("render_cards.py"),
        title=lambda wildcards: config["experiments"][wildcards.experiment]["title"],
    shell:
        "python {SCRIPT:q}/render_cards.py --cards {input.cards:q} --title {params.title:q}"
        " --csv {output.csv:q} --md {output.md:q} >> {log:q} 2>&1"


rule plot_radii:
    input:
        cards=GRID.cards,
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
    params:
        code=code.of_step("plot_radii.py"),
    shell:
        "python {SCRIPT:q}/plot_radii.py --cards {input.cards:q}"
        " --pdf {output.pdf:q} --png {output.png:q} >> {log:q} 2>&1"


rule plot_depth:
    input:
        cards=GRID.first_cards,
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
    params:
        code=code.of_step("plot_depth.py"),
    shell:
        "python {SCRIPT:q}/plot_depth.py --cards {input.cards:q}"
        " --pdf {output.pdf:q} --png {output.png:q} >> {log:q} 2>&1"


rule plot_saliency:
    input:
        cards=GRID.saliency_cards,
        tensors=lambda wildcards: GRID.saliency_cards(wildcards, "tensors"),
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
    params:
        code=code.of_step("plot_saliency.py"),
    shell:
        "python {SCRIPT:q}/plot_saliency.py --cards {input.cards:q}"
        " --pdf {output.pdf:q} --png {output.png:q} >> {log:q} 2>&1"


rule plot_landscapes:
    input:
        cards=GRID.first_cards,
        tensors=lambda wildcards: GRID.first_cards(wildcards, "tensors"),
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
    params:
        code=code.of_step("plot_landscapes.py"),
    shell:
        "python {SCRIPT:q}/plot_landscapes.py --cards {input.cards:q}"
        " --pdf {output.pdf:q} --png {output.png:q} >> {log:q} 2>&1"


rule plot_gallery:
    input:
        card=f"{OUT}/cards/{{experiment}}/{{activation}}/seed{{seed}}.json",
        tensors=f"{OUT}/cards/{{experiment}}/{{activation}}/seed{{seed}}.safetensors",
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
    params:
        code=code.of_step("plot_gallery.py"),
    shell:
        "python {SCRIPT:q}/plot_gallery.py --card {input.card:q}"
        " --pdf {output.pdf:q} --png {output.png:q} >> {log:q} 2>&1"


rule plot_layers:
    input:
        card=f"{OUT}/cards/{{experiment}}/{{activation}}/seed{{seed}}.json",
        tensors=f"{OUT}/cards/{{experiment}}/{{activation}}/seed{{seed}}.safetensors",
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
    params:
        code=code.of_step("plot_layers.py"),
    shell:
        "python {SCRIPT:q}/plot_layers.py --card {input.card:q}"
        " --pdf {output.pdf:q} --png {output.png:q} >> {log:q} 2>&1"
