# One network per experiment, activation and seed.
#   in:  {OUT}/data/{dataset}.safetensors
#   out: {OUT}/models/{experiment}/{activation}/seed{seed}/ model.safetensors, history.csv, record.json
#        (resume-*.ckpt there is the state of an unfinished run: not an output, so that it outlives a failure)


rule train:
    input:
        data=prepared_data,
        data_record=GRID.prepared_record,
    output:
        model=f"{OUT}/models/{{experiment}}/{{activation}}/seed{{seed}}/model.safetensors",
        history=f"{OUT}/models/{{experiment}}/{{activation}}/seed{{seed}}/history.csv",
        record=f"{OUT}/models/{{experiment}}/{{activation}}/seed{{seed}}/record.json",
    log:
        f"{OUT}/logs/train/{{experiment}}/{{activation}}/seed{{seed}}.log",
    benchmark:
        f"{OUT}/benchmarks/train/{{experiment}}/{{activation}}/seed{{seed}}.jsonl"
    wildcard_constraints:
        experiment=one_of(GRID.trained),
    conda:
        "../../envs/train.yaml"
    threads: 1
    resources:
        device=DEVICE,
        gpu=int(GPU),
        together=TOGETHER,
        mem_mb=6000,
        runtime="12h",
    params:
        **as_params(lambda wildcards: GRID.training_settings(**wildcards), "training"),
        code=GRID.training_code("train.py"),
    shell:
        f"exec python {SCRIPT}/together.py {{resources.together:q}} train.py"
        " --settings {params.settings:q} --data {input.data:q}"
        " --model {output.model:q} --history {output.history:q} --record {output.record:q}"
        " --code {params.code:q} --device {resources.device} --threads {threads} >> {log:q} 2>&1"


rule lr_range_test:
    input:
        data=prepared_data,
        data_record=GRID.prepared_record,
    output:
        csv=f"{OUT}/lr_range/{{experiment}}/{{activation}}.csv",
        json=f"{OUT}/lr_range/{{experiment}}/{{activation}}.json",
    log:
        f"{OUT}/logs/lr_range/{{experiment}}/{{activation}}.log",
    benchmark:
        f"{OUT}/benchmarks/lr_range/{{experiment}}/{{activation}}.jsonl"
    conda:
        "../../envs/train.yaml"
    threads: 1
    resources:
        device=DEVICE,
        gpu=int(GPU),
        mem_mb=6000,
        runtime="2h",
    params:
        **as_params(
            lambda wildcards: lr_range_settings(config, **wildcards), "training"
        ),
        code=GRID.training_code("lr_range.py"),
    shell:
        f"exec python {SCRIPT}/lr_range.py"
        " --settings {params.settings:q} --data {input.data:q}"
        " --csv {output.csv:q} --json {output.json:q}"
        " --code {params.code:q} --device {resources.device} --threads {threads} >> {log:q} 2>&1"
