# One attack on one network.
#   in:  {OUT}/models/.../model.safetensors, {OUT}/data/{dataset}.safetensors; for attacks that craft examples on
#        other models, those of the experiment's other activations, same seed
#   out: {OUT}/evaluations/{experiment}/{activation}/seed{seed}/ {attack}.json, {attack}.safetensors (verdicts)
#        (resume-*.ckpt there is the state of an unfinished attack, as in train.smk)


rule evaluate:
    input:
        model=f"{OUT}/models/{{experiment}}/{{activation}}/seed{{seed}}/model.safetensors",
        model_record=f"{OUT}/models/{{experiment}}/{{activation}}/seed{{seed}}/record.json",
        sources=lambda wildcards: GRID.source_files(wildcards, "model"),
        source_records=lambda wildcards: GRID.source_files(wildcards, "record"),
        data=prepared_data,
        data_record=GRID.prepared_record,
    output:
        record=f"{OUT}/evaluations/{{experiment}}/{{activation}}/seed{{seed}}/{{attack}}.json",
        verdicts=f"{OUT}/evaluations/{{experiment}}/{{activation}}/seed{{seed}}/{{attack}}.safetensors",
    log:
        f"{OUT}/logs/evaluate/{{experiment}}/{{activation}}/seed{{seed}}/{{attack}}.log",
    benchmark:
        f"{OUT}/benchmarks/evaluate/{{experiment}}/{{activation}}/seed{{seed}}/{{attack}}.jsonl"
    conda:
        "../../envs/train.yaml"
    threads: 1
    resources:
        device=DEVICE,
        batch_size=config["evaluation"]["batch_size"],
        gpu=int(GPU),
        # attacks that give way to others after every pass
        together=lambda wildcards: TOGETHER if gives_way(wildcards.attack) else "none",
        mem_mb=6000,
        runtime="6h",
    params:
        settings=lambda wildcards: json.dumps(evaluation_settings(config, **wildcards)),
        code=GRID.evaluation_code,
    shell:
        f"exec python {SCRIPT}/together.py {{resources.together:q}} evaluate.py"
        " --settings {params.settings:q} --model {input.model:q}"
        " --model-record {input.model_record:q} --sources {input.sources:q}"
        " --source-records {input.source_records:q} --data {input.data:q}"
        " --record {output.record:q} --verdicts {output.verdicts:q} --batch-size {resources.batch_size}"
        " --code {params.code:q} --device {resources.device} --threads {threads} >> {log:q} 2>&1"
