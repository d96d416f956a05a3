# The networks that the thesis's author published, instead of trained ones.
#   in:  the author's archives (downloaded and converted), or the converted files in data.published.source
#   out: {OUT}/models/{experiment}/{activation}/seed0/ model.safetensors, record.json

IMPORT_CODE = code(
    [f"{SCRIPT}/import_published.py"]
    + BASE_LIBRARY
    + MODEL_LIBRARY
    + library("published.py")
)


localrules:
    download_published,
    convert_published,
    import_published,


rule download_published:
    input:
        script=f"{SCRIPT}/download_published.py",
    output:
        f"{OUT}/data/raw/published/{{activation}}.zip",
    log:
        f"{OUT}/logs/data/download_published_{{activation}}.log",
    benchmark:
        f"{OUT}/benchmarks/data/download_published_{{activation}}.jsonl"
    conda:
        "../../envs/train.yaml"
    resources:
        mem_mb=1000,
        runtime="1h",
    params:
        archive=published_archive,
    shell:
        "python {input.script:q} {params.archive:q} --output {output:q} > {log:q} 2>&1"


rule convert_published:
    input:
        archive=f"{OUT}/data/raw/published/{{activation}}.zip",
        script=f"{SCRIPT}/convert_published.py",
        library=library(
            "published.py", "registry.py", "files.py", "errors.py", "cli.py"
        ),
    output:
        f"{OUT}/data/published/{{activation}}.safetensors",
    log:
        f"{OUT}/logs/data/convert_published_{{activation}}.log",
    benchmark:
        f"{OUT}/benchmarks/data/convert_published_{{activation}}.jsonl"
    conda:
        "../../envs/convert.yaml"
    resources:
        mem_mb=4000,
        runtime="30m",
    params:
        sha256=lambda wildcards: config["data"]["published"]["archives"][
            wildcards.activation
        ]["sha256"],
    shell:
        "python {input.script:q} --row {wildcards.activation} --archive {input.archive:q}"
        " --sha256 {params.sha256:q} --output {output:q} > {log:q} 2>&1"


rule import_published:
    input:
        weights=published_weights,
        script=f"{SCRIPT}/import_published.py",
    output:
        model=f"{OUT}/models/{{experiment}}/{{activation}}/seed{{seed}}/model.safetensors",
        record=f"{OUT}/models/{{experiment}}/{{activation}}/seed{{seed}}/record.json",
    log:
        f"{OUT}/logs/published/{{experiment}}/{{activation}}/seed{{seed}}.log",
    benchmark:
        f"{OUT}/benchmarks/published/{{experiment}}/{{activation}}/seed{{seed}}.jsonl"
    wildcard_constraints:
        experiment=one_of(PUBLISHED_EXPERIMENTS),
    conda:
        "../../envs/train.yaml"
    resources:
        mem_mb=2000,
        runtime="30m",
    params:
        settings=lambda wildcards: json.dumps(training_settings(config, **wildcards)),
        code=code_of_cell(IMPORT_CODE),
    shell:
        "python {input.script:q} --settings {params.settings:q} --weights {input.weights:q}"
        " --model {output.model:q} --record {output.record:q} --code {params.code:q} > {log:q} 2>&1"
