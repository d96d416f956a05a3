# Detectors beside the networks of the experiments in detection.run, and each under each attack.
#   in:  {OUT}/models/.../model.safetensors, {OUT}/data/{dataset}.safetensors
#   out: {OUT}/detectors/{experiment}/{activation}/seed{seed}/ {detector}.safetensors, {detector}.json
#        (resume-*.ckpt there is the state of an unfinished training, as in train.smk),
#        {OUT}/detections/{experiment}/{activation}/seed{seed}/{detector}/ {attack}.json, {attack}.csv (scores),
#        {OUT}/detections/{experiment}{,_attacks}.{csv,md,tex,json}
# The plot drawn from them is in plots.smk.


rule train_detector:
    input:
        model=f"{OUT}/models/{{experiment}}/{{activation}}/seed{{seed}}/model.safetensors",
        model_record=f"{OUT}/models/{{experiment}}/{{activation}}/seed{{seed}}/record.json",
        data=prepared_data,
        data_record=GRID.prepared_record,
    output:
        detector=f"{OUT}/detectors/{{experiment}}/{{activation}}/seed{{seed}}/{{detector}}.safetensors",
        record=f"{OUT}/detectors/{{experiment}}/{{activation}}/seed{{seed}}/{{detector}}.json",
    log:
        f"{OUT}/logs/detect/{{experiment}}/{{activation}}/seed{{seed}}/{{detector}}.log",
    benchmark:
        f"{OUT}/benchmarks/detect/{{experiment}}/{{activation}}/seed{{seed}}/{{detector}}.jsonl"
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
        **as_params(DETECTIONS.detector_settings, "detector_settings"),
        code=DETECTIONS.detector_code,
    shell:
        f"exec python {SCRIPT}/train_detector.py"
        " --settings {params.settings:q} --model {input.model:q}"
        " --model-record {input.model_record:q} --data {input.data:q}"
        " --detector {output.detector:q} --record {output.record:q} --batch-size {resources.batch_size}"
        " --code {params.code:q} --device {resources.device} --threads {threads} >> {log:q} 2>&1"


rule detect:
    input:
        model=f"{OUT}/models/{{experiment}}/{{activation}}/seed{{seed}}/model.safetensors",
        model_record=f"{OUT}/models/{{experiment}}/{{activation}}/seed{{seed}}/record.json",
        detector=f"{OUT}/detectors/{{experiment}}/{{activation}}/seed{{seed}}/{{detector}}.safetensors",
        detector_record=f"{OUT}/detectors/{{experiment}}/{{activation}}/seed{{seed}}/{{detector}}.json",
        data=prepared_data,
        data_record=GRID.prepared_record,
    output:
        record=f"{OUT}/detections/{{experiment}}/{{activation}}/seed{{seed}}/{{detector}}/{{attack}}.json",
        csv=f"{OUT}/detections/{{experiment}}/{{activation}}/seed{{seed}}/{{detector}}/{{attack}}.csv",
    log:
        f"{OUT}/logs/detect/{{experiment}}/{{activation}}/seed{{seed}}/{{detector}}/{{attack}}.log",
    benchmark:
        f"{OUT}/benchmarks/detect/{{experiment}}/{{activation}}/seed{{seed}}/{{detector}}/{{attack}}.jsonl"
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
        **as_params(DETECTIONS.judged_settings, "attack_settings"),
        code=DETECTIONS.judged_code,
    shell:
        f"exec python {SCRIPT}/detect.py"
        " --settings {params.settings:q} --model {input.model:q}"
        " --model-record {input.model_record:q} --detector {input.detector:q}"
        " --detector-record {input.detector_record:q} --data {input.data:q}"
        " --record {output.record:q} --csv {output.csv:q} --batch-size {resources.batch_size}"
        " --code {params.code:q} --device {resources.device} --threads {threads} >> {log:q} 2>&1"


rule render_detection:
    input:
        records=DETECTIONS.judged,
        scores=lambda wildcards: DETECTIONS.judged(wildcards, "csv"),
    output:
        report(
            f"{OUT}/detections/{{experiment}}.csv",
            caption="../report/detection.rst",
            category="Tables",
            labels={"experiment": "{experiment}", "table": "detectors"},
        ),
        report(
            f"{OUT}/detections/{{experiment}}_attacks.csv",
            caption="../report/detection.rst",
            category="Tables",
            labels={"experiment": "{experiment}", "table": "detectors, every attack"},
        ),
        multiext(f"{OUT}/detections/{{experiment}}", ".md", ".tex", ".json"),
        multiext(f"{OUT}/detections/{{experiment}}_attacks", ".md", ".tex", ".json"),
    log:
        f"{OUT}/logs/report/detection_{{experiment}}.log",
    benchmark:
        f"{OUT}/benchmarks/report/detection_{{experiment}}.jsonl"
    wildcard_constraints:
        experiment=one_of(DETECTIONS.experiments),
    localrule: True
    conda:
        "../../envs/report.yaml"
    resources:
        mem_mb=2000,
        runtime="30m",
    params:
        **as_params(DETECTIONS.table_settings, "attacks"),
        code=code_of("render_detection.py"),
        path=lambda wildcards, output: output[0].removesuffix(".csv"),
    shell:
        f"python {SCRIPT}/render_detection.py"
        " --records {input.records:q} --settings {params.settings:q}"
        " --output {params.path:q} >> {log:q} 2>&1"
