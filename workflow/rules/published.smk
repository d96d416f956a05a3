# Networks that are given instead of trained: those that the thesis's author published, and a user's own.
#   in:  the author's archives (downloaded and converted), or the converted files in data.published.source; or the files
#        that `networks` of the configuration names
#   out: {OUT}/models/{experiment}/{activation}/seed0/ model.safetensors, record.json


rule download_published:
    output:
        f"{OUT}/data/raw/published/{{activation}}.zip",
    log:
        f"{OUT}/logs/data/download_published_{{activation}}.log",
    benchmark:
        f"{OUT}/benchmarks/data/download_published_{{activation}}.jsonl"
    localrule: True
    conda:
        "../../envs/train.yaml"
    resources:
        mem_mb=1000,
        runtime="1h",
    params:
        archive=published_archive,
    shell:
        f"python {SCRIPT}/download_published.py"
        " {params.archive:q} --output {output:q} >> {log:q} 2>&1"


rule convert_published:
    input:
        archive=f"{OUT}/data/raw/published/{{activation}}.zip",
    output:
        f"{OUT}/data/published/{{activation}}.safetensors",
    log:
        f"{OUT}/logs/data/convert_published_{{activation}}.log",
    benchmark:
        f"{OUT}/benchmarks/data/convert_published_{{activation}}.jsonl"
    localrule: True
    conda:
        "../../envs/train.yaml"
    resources:
        mem_mb=4000,
        runtime="30m",
    params:
        code=code_of("convert_published.py"),
        sha256=lambda wildcards: config["data"]["published"]["archives"][
            wildcards.activation
        ]["sha256"],
    shell:
        f"python {SCRIPT}/convert_published.py"
        " --row {wildcards.activation} --archive {input.archive:q}"
        " --sha256 {params.sha256:q} --output {output:q} >> {log:q} 2>&1"


rule import_published:
    input:
        weights=published_weights,
    output:
        model=f"{OUT}/models/{{experiment}}/{{activation}}/seed{{seed}}/model.safetensors",
        record=f"{OUT}/models/{{experiment}}/{{activation}}/seed{{seed}}/record.json",
    log:
        f"{OUT}/logs/published/{{experiment}}/{{activation}}/seed{{seed}}.log",
    benchmark:
        f"{OUT}/benchmarks/published/{{experiment}}/{{activation}}/seed{{seed}}.jsonl"
    wildcard_constraints:
        experiment=one_of(GRID.published),
    localrule: True
    conda:
        "../../envs/train.yaml"
    resources:
        mem_mb=2000,
        runtime="30m",
    params:
        settings=lambda wildcards: json.dumps(training_settings(config, **wildcards)),
        code=GRID.training_code("import_published.py"),
    shell:
        f"python {SCRIPT}/import_published.py"
        " --settings {params.settings:q} --weights {input.weights:q}"
        " --model {output.model:q} --record {output.record:q} --code {params.code:q} >> {log:q} 2>&1"


rule import_network:
    input:
        weights=lambda wildcards: registry.ARCHITECTURES[wildcards.activation].weights,
    output:
        model=f"{OUT}/models/{{experiment}}/{{activation}}/seed{{seed}}/model.safetensors",
        record=f"{OUT}/models/{{experiment}}/{{activation}}/seed{{seed}}/record.json",
    log:
        f"{OUT}/logs/networks/{{experiment}}/{{activation}}/seed{{seed}}.log",
    benchmark:
        f"{OUT}/benchmarks/networks/{{experiment}}/{{activation}}/seed{{seed}}.jsonl"
    wildcard_constraints:
        experiment=one_of(GRID.own),
    localrule: True
    conda:
        "../../envs/train.yaml"
    resources:
        mem_mb=4000,
        runtime="30m",
    params:
        settings=lambda wildcards: json.dumps(training_settings(config, **wildcards)),
        code=GRID.training_code("import_network.py"),
    shell:
        f"python {SCRIPT}/import_network.py"
        " --settings {params.settings:q} --weights {input.weights:q}"
        " --model {output.model:q} --record {output.record:q} --code {params.code:q} >> {log:q} 2>&1"
