# The evaluation card of each network of the experiments in card.run; the pictures drawn from it are in plots.smk.
#   in:  {OUT}/models/.../model.safetensors, of other activations too, {OUT}/data/{dataset}.safetensors
#   out: {OUT}/cards/{experiment}/{activation}/ seed{seed}.json (figures, checks), seed{seed}.safetensors (pictures),
#        {OUT}/cards/{experiment}.{csv,md,json}


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
        code=GRID.card_code,
    shell:
        f"exec python {SCRIPT}/card.py"
        " --settings {params.settings:q} --model {input.model:q}"
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
        json=f"{OUT}/cards/{{experiment}}.json",
    log:
        f"{OUT}/logs/report/cards_{{experiment}}.log",
    benchmark:
        f"{OUT}/benchmarks/report/cards_{{experiment}}.jsonl"
    localrule: True
    conda:
        "../../envs/report.yaml"
    resources:
        mem_mb=2000,
        runtime="30m",
    params:
        code=code_of("render_cards.py"),
        title=lambda wildcards: config["experiments"][wildcards.experiment]["title"],
    shell:
        f"python {SCRIPT}/render_cards.py"
        " --cards {input.cards:q} --title {params.title:q}"
        " --csv {output.csv:q} --md {output.md:q} --json {output.json:q} >> {log:q} 2>&1"
