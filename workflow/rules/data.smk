# Data sets, prepared once.
#   in:  the official files (downloaded, or data.<name>.source), a folder or file of the user's own
#        (datasets.<name>.source), or what a Python package bundles
#   out: {OUT}/data/{dataset}.safetensors (uint8 images, labels) and {dataset}.json (its checksum)
# On a cluster these run on the submitting host: it has the internet, and nothing waits in a queue for seconds
# of work.


rule download_cifar10:
    output:
        ARCHIVE,
    log:
        f"{OUT}/logs/data/download_cifar10.log",
    benchmark:
        f"{OUT}/benchmarks/data/download_cifar10.jsonl"
    localrule: True
    conda:
        "../../envs/train.yaml"
    resources:
        mem_mb=2000,
        runtime="1h",
    shell:
        f"python {SCRIPT}/download_cifar10.py" " --output {output:q} >> {log:q} 2>&1"


rule download_data:
    output:
        f"{OUT}/data/raw/{{file}}",
    log:
        f"{OUT}/logs/data/download_{{file}}.log",
    benchmark:
        f"{OUT}/benchmarks/data/download_{{file}}.jsonl"
    wildcard_constraints:
        file=one_of(DOWNLOADED),
    localrule: True
    conda:
        "../../envs/train.yaml"
    resources:
        mem_mb=2000,
        runtime="1h",
    shell:
        f"python {SCRIPT}/download_data.py"
        " --file {wildcards.file:q} --output {output:q} >> {log:q} 2>&1"


rule prepare_data:
    input:
        raw=GRID.raw_data,
    output:
        data=f"{OUT}/data/{{dataset}}.safetensors",
        record=f"{OUT}/data/{{dataset}}.json",
    log:
        f"{OUT}/logs/data/prepare_{{dataset}}.log",
    benchmark:
        f"{OUT}/benchmarks/data/prepare_{{dataset}}.jsonl"
    localrule: True
    conda:
        "../../envs/train.yaml"
    resources:
        mem_mb=4000,
        runtime="30m",
    params:
        code=GRID.data_code,
        source=lambda wildcards, input: source_option(input.raw),
    shell:
        f"python {SCRIPT}/prepare_data.py"
        " --dataset {wildcards.dataset} {params.source:q}"
        " --output {output.data:q} --record {output.record:q} >> {log:q} 2>&1"
