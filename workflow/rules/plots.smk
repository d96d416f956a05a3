# The plots of an experiment, all by one pattern: a new one is an entry in PLOTS, its script plot_{kind}.py and what
# the report says of it, workflow/report/{kind}.rst.
#   in:  records, verdicts, histories, cards, networks: those that an entry's `input` names
#   out: {OUT}/plots/{experiment}/{kind}.{pdf,png,svg}, of a network {kind}_{activation}_seed{seed}.{pdf,png,svg}

CELL = "{experiment}/{activation}/seed{seed}"
OF_CELL = "_{activation}_seed{seed}"
EXPERIMENT = "--manifest {input.manifest:q} --experiment {wildcards.experiment}"
CARD = {
    "card": f"{OUT}/cards/{CELL}.json",
    "tensors": f"{OUT}/cards/{CELL}.safetensors",
}
# Of a kind of plot: `label`, its name in the report; `input` and `params` of its rule; `options` of its script beside
# --pdf and --png; `of`, the end of its files' names where there is one a network; `environment`, if it needs torch; `code`, if it makes
# networks.
PLOTS = {
    "tradeoff": {
        "label": "accuracy against robustness",
        "input": {"summary": GRID.summary, "published": PUBLISHED},
        "params": as_params(GRID.table_settings),
        "options": "--summary {input.summary:q} --experiment {wildcards.experiment}"
        " --settings {params.settings:q} --published {input.published:q}",
    },
    "history": {
        "label": "training curves",
        "input": {"manifest": GRID.manifest_file, "histories": GRID.histories},
        "options": EXPERIMENT,
    },
    "iterations": {
        "label": "robustness against iterations",
        "input": {"manifest": GRID.manifest_file, "records": GRID.iterated_records},
        "params": {"attack": iterated_attack(config)},
        "options": f"{EXPERIMENT} --attack {{params.attack}}",
    },
    "classes": {
        "label": "robustness of each class",
        "input": {
            "manifest": GRID.manifest_file,
            "verdicts": GRID.compared_verdicts,
            "data": prepared_data,
            "data_record": GRID.prepared_record,
        },
        "params": {"attack": config["evaluation"]["headline"]},
        "options": f"{EXPERIMENT} --attack {{params.attack}} --data {{input.data:q}}",
        "environment": "train",
    },
    "schedule": {
        "label": "learning rates",
        "params": as_params(GRID.schedule_settings),
        "options": "--settings {params.settings:q}",
    },
    "kafs": {
        "of": OF_CELL,
        "label": "shapes of {activation}, seed {seed}",
        "input": {
            "model": f"{OUT}/models/{CELL}/model.safetensors",
            "record": f"{OUT}/models/{CELL}/record.json",
        },
        "options": "--model {input.model:q} --record {input.record:q}",
        "environment": "train",
        "code": GRID.network_code("plot_kafs.py"),
    },
    "lr_range": {
        "label": "learning-rate range test",
        "input": {
            "csv": GRID.lr_range_files("csv"),
            "json": GRID.lr_range_files("json"),
        },
        "options": "--csv {input.csv:q} --json {input.json:q}",
    },
    "radii": {
        "label": "robustness against the radius",
        "input": {"cards": GRID.cards},
        "options": "--cards {input.cards:q}",
    },
    "detection": {
        "label": "what detectors reject",
        "input": {
            "records": DETECTIONS.judged,
            "scores": lambda wildcards: DETECTIONS.judged(wildcards, "csv"),
        },
        "params": as_params(DETECTIONS.table_settings, "attacks"),
        "options": "--records {input.records:q} --settings {params.settings:q}",
    },
    "depth": {
        "label": "the layers, clean and attacked",
        "input": {"cards": GRID.first_cards},
        "options": "--cards {input.cards:q}",
    },
    "saliency": {
        "label": "input gradients",
        "input": {
            "cards": GRID.saliency_cards,
            "tensors": lambda wildcards: GRID.saliency_cards(wildcards, "tensors"),
        },
        "options": "--cards {input.cards:q}",
    },
    "landscapes": {
        "label": "the loss around images",
        "input": {
            "cards": GRID.first_cards,
            "tensors": lambda wildcards: GRID.first_cards(wildcards, "tensors"),
        },
        "options": "--cards {input.cards:q}",
    },
    "certified_radii": {
        "label": "certified accuracy against the radius",
        "input": {"records": GRID.certificates, "images": GRID.certified_images},
        "params": as_params(GRID.certified_settings),
        "options": "--settings {params.settings:q} --records {input.records:q}",
    },
    "certified_accuracy": {
        "label": "accuracy: clean, attacked, certified",
        "input": {
            "records": GRID.certificates,
            "images": GRID.certified_images,
            "summary": GRID.summary,
        },
        "params": as_params(GRID.certified_settings),
        "options": "--settings {params.settings:q} --records {input.records:q}"
        " --summary {input.summary:q} --experiment {wildcards.experiment}",
    },
    "gallery": {
        "of": OF_CELL,
        "label": "attacked images, {activation}, seed {seed}",
        "input": CARD,
        "options": "--card {input.card:q}",
    },
    "layers": {
        "of": OF_CELL,
        "label": "distributions of {activation}, seed {seed}",
        "input": CARD,
        "options": "--card {input.card:q}",
    },
}


# Jobs of seconds: on a cluster they run on the submitting host.
def plot_rule(kind, plot):
    # A function, because a shell command is put together when its job runs: in a loop all would be the last one's.
    name = f"{{experiment}}/{kind}{plot.get('of', '')}"

    rule:
        name:
            f"plot_{kind}"
        input:
            **plot.get("input", {}),
        output:
            # browsers show it where they offer the others to be saved
            svg=report(
                f"{OUT}/plots/{name}.svg",
                caption=f"../report/{kind}.rst",
                category="Plots",
                labels={"experiment": "{experiment}", "plot": plot["label"]},
            ),
            png=f"{OUT}/plots/{name}.png",
            pdf=f"{OUT}/plots/{name}.pdf",
        log:
            f"{OUT}/logs/report/{name}.log",
        benchmark:
            f"{OUT}/benchmarks/report/{name}.jsonl"
        localrule: True
        conda:
            f"../../envs/{plot.get('environment', 'report')}.yaml"
        resources:
            mem_mb=2000,
            runtime="30m",
        params:
            **plot.get("params", {}),
            code=plot.get("code", code_of(f"plot_{kind}.py")),
        shell:
            f"python {SCRIPT}/plot_{kind}.py {plot['options']}"
            " --pdf {output.pdf:q} --png {output.png:q} >> {log:q} 2>&1"


for kind, plot in PLOTS.items():
    plot_rule(kind, plot)
