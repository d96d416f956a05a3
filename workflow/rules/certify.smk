# The certificates of the networks of each experiment, those in certification.run; their plots are in plots.smk.
#   in:  {OUT}/models/.../model.safetensors, {OUT}/data/{dataset}.safetensors
#   out: {OUT}/certificates/{experiment}/{activation}/seed{seed}/ {certificate}.json, {certificate}.csv (a row an image),
#        {OUT}/certificates/{experiment}.{csv,md,tex,json}
#        (resume-*.ckpt there is the state of an unfinished certification, as in train.smk)


rule certify:
    input:
        model=f"{OUT}/models/{{experiment}}/{{activation}}/seed{{seed}}/model.safetensors",
        model_record=f"{OUT}/models/{{experiment}}/{{activation}}/seed{{seed}}/record.json",
        data=prepared_data,
        data_record=GRID.prepared_record,
    output:
        record=f"{OUT}/certificates/{{experiment}}/{{activation}}/seed{{seed}}/{{certificate}}.json",
        csv=f"{OUT}/certificates/{{experiment}}/{{activation}}/seed{{seed}}/{{certificate}}.csv",
    log:
        f"{OUT}/logs/certify/{{experiment}}/{{activation}}/seed{{seed}}/{{certificate}}.log",
    benchmark:
        f"{OUT}/benchmarks/certify/{{experiment}}/{{activation}}/seed{{seed}}/{{certificate}}.jsonl"
    conda:
        "../../envs/train.yaml"
    threads: 1
    resources:
        device=DEVICE,
        batch_size=config["evaluation"]["batch_size"],
        gpu=int(GPU),
        mem_mb=6000,
        runtime="12h",
    params:
        **as_params(
            lambda wildcards: certification_settings(config, **wildcards), "arguments"
        ),
        code=GRID.certification_code,
    shell:
        f"exec python {SCRIPT}/certify.py"
        " --settings {params.settings:q} --model {input.model:q}"
        " --model-record {input.model_record:q} --data {input.data:q}"
        " --record {output.record:q} --csv {output.csv:q} --batch-size {resources.batch_size}"
        " --code {params.code:q} --device {resources.device} --threads {threads} >> {log:q} 2>&1"


rule render_certificates:
    input:
        records=GRID.certificates,
        images=GRID.certified_images,
    output:
        csv=report(
            f"{OUT}/certificates/{{experiment}}.csv",
            caption="../report/certificates.rst",
            category="Tables",
            labels={"experiment": "{experiment}", "table": "certificates"},
        ),
        md=f"{OUT}/certificates/{{experiment}}.md",
        tex=f"{OUT}/certificates/{{experiment}}.tex",
        json=f"{OUT}/certificates/{{experiment}}.json",
    log:
        f"{OUT}/logs/report/certificates_{{experiment}}.log",
    benchmark:
        f"{OUT}/benchmarks/report/certificates_{{experiment}}.jsonl"
    localrule: True
    conda:
        "../../envs/report.yaml"
    resources:
        mem_mb=2000,
        runtime="30m",
    params:
        **as_params(GRID.certified_settings),
        code=code_of("render_certificates.py"),
    shell:
        f"python {SCRIPT}/render_certificates.py"
        " --settings {params.settings:q} --records {input.records:q}"
        " --csv {output.csv:q} --md {output.md:q} --tex {output.tex:q} --json {output.json:q} >> {log:q} 2>&1"
