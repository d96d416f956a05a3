"""What a step depends on: the files that its imports lead to, against what its script really loads."""

import copy
import json
import subprocess
import sys

import pytest
from kafnets import registry
from kafnets.config import certification, slices
from kafnets.pipeline import code
from kafnets.pipeline.grid import Grid
from kafnets.runtime.files import write_sealed

from tests import scripts
from tests.loaded import Runner

# -- the closure of the imports, and what is loaded


def configuration(folder):
    """The tiny one with every attack of the registry."""
    config = copy.deepcopy(scripts.config())
    config["output"] = str(folder)
    config["seeds"] = [0]
    config["evaluation"].update(run=["clean"], headline="clean")
    config["experiments"]["tiny"]["training"]["epochs"] = 1
    config["experiments"]["tiny"]["test_examples"] = 4
    config["card"].update(run=["tiny"], examples=4, sources=1)
    given = {"eps": "8/255", "step": "4/255", "iterations": 1, "restarts": 1, "queries": 2, "search_steps": 1}
    for method, entry in registry.ATTACKS.items():
        wanted = {name: given[name] for name in (*entry.required, *entry.optional) if name in given}
        config["evaluation"]["attacks"][method] = {"method": method, **wanted}
    return config


class Place:
    """A folder in which the scripts run as the workflow calls them."""

    def __init__(self, runner, folder):
        self.runner, self.config = runner, configuration(folder / "results")
        self.grid, self.log = Grid(self.config), folder / "log"
        self.data = folder / "digits.safetensors"
        prepared = ("--output", self.data, "--record", folder / "digits.json")
        self.digits = self.run("prepare_data.py", "--dataset", "digits", *prepared)
        self.trained = {name: self.train(name) for name in ("relu", "kaf")}
        for activation in self.trained:
            self.evaluate(activation, "clean")
        write_sealed(self.grid.manifest_file, self.grid.manifest())
        self.aggregated = self.run(
            *("aggregate.py", "--manifest", self.grid.manifest_file, "--output", self.grid.summary)
        )

    def run(self, script, *arguments):
        return self.runner.run(self.log, script, *arguments)

    def files(self, activation):
        return self.grid.training_files(("tiny", activation, 0))

    def train(self, activation):
        settings = slices.training_settings(self.config, "tiny", activation, 0)
        outputs = [part for name, path in self.files(activation).items() for part in (f"--{name}", path)]
        inputs = ("--settings", json.dumps(settings), "--data", self.data, "--device", "cpu")
        return self.run("train.py", *inputs, *outputs)

    def evaluate(self, activation, attack):
        settings = slices.evaluation_settings(self.config, "tiny", activation, 0, attack)
        files = self.grid.evaluation_files(("tiny", activation, 0), attack)
        sources = [self.files(name)["model"] for name in settings.get("sources", ())]
        return self.run(
            *("evaluate.py", "--settings", json.dumps(settings), "--data", self.data, "--device", "cpu"),
            *("--model", self.files(activation)["model"], "--sources", *sources),
            *("--record", files["record"], "--verdicts", files["verdicts"]),
        )

    def card(self, activation, *sources):
        model, others = self.files(activation), [self.files(name) for name in sources]
        files = self.grid.card_files(("tiny", activation, 0))
        return self.run(
            *("card.py", "--settings", json.dumps(slices.card_settings(self.config, "tiny", activation, 0))),
            *("--model", model["model"], "--model-record", model["record"], "--data", self.data),
            *("--sources", *(other["model"] for other in others)),
            *("--source-records", *(other["record"] for other in others)),
            *("--record", files["record"], "--tensors", files["tensors"], "--device", "cpu"),
        )


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    with Runner() as runner:
        yield Place(runner, tmp_path_factory.mktemp("place"))


# In a closure and not loaded by these runs on a CPU.
ELSEWHERE = {
    "kafnets.activations.kaf.gpu": "imported where a KAF is computed on a GPU",
    "kafnets.activations.kaf.triton_kernels": "of gpu",
    "kafnets.evaluation.pointwise_kernels": "imported where a GPU computes in float16",
    "kafnets.activations.kaf.triton_functions": "of gpu",
    "kafnets.activations.inlined": "of gpu, and of models.fused on a GPU",
    "kafnets.models.fused.triton_activations": "of models.fused on a GPU",
    "kafnets.models.fused.triton_kernels": "of models.fused on a GPU",
    "kafnets.models.fused.triton_launch": "of models.fused on a GPU",
    "kafnets.models.fused": "imported where a network is trained",
    "kafnets.models.fused.rewriting": "of fused",
    "kafnets.models.fused.layers": "of fused",
    "kafnets.models.fused.operators": "of fused",
    "kafnets.models.fused.cpu": "of fused",
    "kafnets.models.fused.gpu": "of fused",
    "kafnets.models.fused.trial": "of fused",
}


def check(loaded, script, *entries):
    """What a script has loaded is in its closure, and that holds nothing else."""
    found = {name for name, path in code.files(script, code.modules_of(entries)) if path.suffix == ".py"}
    closure = found - {script.removesuffix(".py")}
    said = {name for name in loaded if name.split(".")[1:2] in (["registry"], ["entry"], ["entries"])}
    assert loaded - said <= closure, "loaded, but no change of it would make the result stale"
    assert closure - loaded <= ELSEWHERE.keys(), "not loaded, but a change of it makes the result stale"


RESNET = registry.ARCHITECTURES["resnet8"]


@pytest.mark.parametrize("activation", ["relu", "kaf"])
def test_the_code_of_a_training(place, activation):
    loaded = place.trained[activation]
    check(loaded, "train.py", RESNET, registry.ACTIVATIONS[activation], registry.ADVERSARIES["fbf"])
    assert any("kaf" in name.split(".") for name in loaded) == (activation == "kaf")
    assert not any(name.startswith(("kafnets.config", "kafnets.report")) for name in loaded)


@pytest.mark.parametrize("method", registry.ATTACKS)
def test_the_code_of_an_evaluation(place, method):
    entry = registry.ATTACKS[method]
    networks = [registry.ACTIVATIONS[name] for name in ("relu", *(["kaf"] if entry.sources else []))]
    check(place.evaluate("relu", method), "evaluate.py", RESNET, *networks, entry)


def test_the_code_of_a_data_set(place):
    check(place.digits, "prepare_data.py", registry.DATASETS["digits"])


def test_the_code_of_cards_tables_and_plots(place, tmp_path):
    networks = [RESNET, registry.ACTIVATIONS["relu"], registry.ACTIVATIONS["kaf"]]
    check(place.card("kaf", "relu"), "card.py", *networks)
    cards = place.grid.card_files(("tiny", "kaf", 0))["record"]
    check(place.aggregated, "aggregate.py")
    summary, settings = place.grid.summary, json.dumps(slices.table_settings(place.config, "tiny"))
    tables = ("--manifest", place.grid.manifest_file, "--cards", cards, "--output", tmp_path)
    of_summary = ("--summary", summary, "--experiment", "tiny", "--settings", settings)
    check(place.run("render_tables.py", *of_summary, *tables), "render_tables.py")
    drawn = ("--pdf", tmp_path / "plot.pdf", "--png", tmp_path / "plot.png")
    check(place.run("plot_tradeoff.py", *of_summary, *drawn), "plot_tradeoff.py")
    check(place.run("plot_radii.py", "--cards", cards, *drawn), "plot_radii.py")
    kaf = place.files("kaf")
    shapes = place.run("plot_kafs.py", "--model", kaf["model"], "--record", kaf["record"], *drawn)
    check(shapes, "plot_kafs.py", RESNET, registry.ACTIVATIONS["kaf"])
    one = {
        "title": "t",
        "headline": "clean",
        "tables": ["tiny.json"],
        "figures": [],
        "drawn": {},
        "cards": False,
    }
    page = json.dumps({"experiments": {"tiny": one}, "kinds": {}, "card": {}})
    of_page = ("--settings", page, "--folder", tmp_path, "--summary", summary, "--captions")
    written = ("--manifest", place.grid.manifest_file, "--output", tmp_path / "results.html")
    check(place.run("render_page.py", *of_page, *written), "render_page.py")
    names = {name.rpartition("/")[2] for name, _ in code.files("render_page.py")}
    assert {"page.css", "page.js"} <= names, "how it looks counts too"
    schedule = json.dumps({"activations": {"relu": place.config["experiments"]["tiny"]["training"] | RATES}})
    check(place.run("plot_schedule.py", "--settings", schedule, *drawn), "plot_schedule.py")


RATES = {"learning_rate": [0.01, 0.1]}
BALL = {"eps": "8/255", "step": "4/255", "iterations": 1}


@pytest.mark.parametrize(
    ("method", "attack"),
    [("kaf_statistics", "orthogonal_pgd"), ("metzen", "fmn"), ("confidence", "cw_detector")],
)
def test_the_code_of_a_detector(place, tmp_path, method, attack):
    """Of its training, of an attack on it, and of the tables and the plot."""
    detector, judged = registry.DETECTORS[method], registry.DETECTION_ATTACKS[attack]
    kaf = place.files("kaf")
    cell = {"experiment": "tiny", "activation": "kaf", "seed": 0, "detector": method, "attack": attack}
    settings = {name: value for name, value in BALL.items() if name in detector.schemas()}
    settings = {"detector_settings": {"method": method, **settings}, "train_examples": 4}
    network = (
        "--model",
        kaf["model"],
        "--model-record",
        kaf["record"],
        "--data",
        place.data,
        "--device",
        "cpu",
    )
    files = ("--detector", tmp_path / "d.safetensors"), tmp_path / "d.json"
    made = ("--settings", json.dumps(cell | settings), *network, *files[0], "--record", files[1])
    networks = RESNET, registry.ACTIVATIONS["kaf"]
    check(place.run("train_detector.py", *made), "train_detector.py", *networks, detector)
    its = {"search_steps": 1, **BALL}
    its = {name: value for name, value in its.items() if name in judged.schemas()}
    settings = {"attack_settings": {"method": attack, **its}, "examples": 4, "held_out": 100}
    record = tmp_path / f"{attack}.json"
    made = ("--settings", json.dumps(cell | settings), *network, *files[0], "--detector-record", files[1])
    loaded = place.run("detect.py", *made, "--record", record, "--csv", record.with_suffix(".csv"))
    check(loaded, "detect.py", *networks, detector, judged)
    shown = {"detectors": {method: {"method": method}}, "attacks": {attack: {"method": attack, **its}}}
    shown = json.dumps({"title": "tiny", **shown, "static": attack, "merged": [attack]})
    tables = ("--records", record, "--settings", shown)
    check(place.run("render_detection.py", *tables, "--output", tmp_path / "t"), "render_detection.py")
    drawn = ("--pdf", tmp_path / "plot.pdf", "--png", tmp_path / "plot.png")
    check(place.run("plot_detection.py", *tables, *drawn), "plot_detection.py")


def test_the_code_of_certificates(place, tmp_path):
    config = copy.deepcopy(place.config)
    smooth = {"method": "smoothing", "sigma": 0.25, "samples": 20, "selection_samples": 5}
    config["certification"] = {"run": ["smooth"], "examples": 4, "certificates": {"smooth": smooth}}
    grid, settings = Grid(config), certification.certified_settings(config, "tiny")
    files, model = grid.certification_files(("tiny", "kaf", 0), "smooth"), place.files("kaf")
    of_cell = certification.certification_settings(config, "tiny", "kaf", 0, "smooth")
    loaded = place.run(
        *("certify.py", "--settings", json.dumps(of_cell), "--data", place.data, "--device", "cpu"),
        *("--model", model["model"], "--model-record", model["record"], "--threads", "1"),
        *("--record", files["record"], "--csv", files["csv"], "--batch-size", "20"),
    )
    kaf = registry.ACTIVATIONS["kaf"]
    check(loaded, "certify.py", RESNET, kaf, registry.CERTIFICATES["smoothing"])
    of_table = ("--settings", json.dumps(settings), "--records", files["record"])
    texts = [
        part for kind in ("csv", "md", "tex", "json") for part in (f"--{kind}", tmp_path / f"table.{kind}")
    ]
    check(place.run("render_certificates.py", *of_table, *texts), "render_certificates.py")
    drawn = ("--pdf", tmp_path / "plot.pdf", "--png", tmp_path / "plot.png")
    check(place.run("plot_certified_radii.py", *of_table, *drawn), "plot_certified_radii.py")
    summary = ("--summary", place.grid.summary, "--experiment", "tiny")
    check(place.run("plot_certified_accuracy.py", *of_table, *summary, *drawn), "plot_certified_accuracy.py")


# -- what counts as a change


def checksum(folder, files, module="mine.work"):
    """Of a step that runs `module`, of a user's own files in `folder`."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return code.checksum("print_tables.py", (module,), (folder,))


@pytest.fixture
def of(tmp_path):
    """The checksum of `files`, each time in a folder of its own: where the files are does not count."""

    def of(files, module="mine.work"):
        return checksum(tmp_path / f"{len(list(tmp_path.iterdir()))}", files, module)

    return of


TEXT = '''"""A module."""

import math


def area(radius, *, scale=1.5, **others):
    """In units of `scale`."""
    return scale * math.pi * radius**2  # a circle's


class Square:
    """Four corners."""

    def __init__(self, side):
        """Its side."""
        self.side = side
'''


@pytest.mark.parametrize(
    ("old", "new", "counts"),
    [
        ('"""A module."""', '"""Another."""', False),
        ('"""A module."""\n', "", False),
        ('"""Four corners."""', '"""4."""', False),
        ("  # a circle's", "", False),
        ("import math\n", "# needed\nimport math\n", False),
        ("radius, *, scale=1.5, **others", "radius,\n    *,\n    scale=1.50,\n    **others,\n", False),
        ("return scale * math.pi * radius**2", "return (scale * math.pi) * (radius ** 2)", False),
        ("1.5", "1.25", True),
        ("radius**2", "radius**2.0", True),
        ("scale * math", "scale / math", True),
        ("math.pi * radius**2", "(math.pi * radius) ** 2", True),
        ("self.side = side", "self.size = side", True),
        ("**others", "**rest", True),
        ("*, ", "", True),
        ("import math\n", "import math\n\nmath.tau\n", True),
        ('        """Its side."""\n        self.side = side', '        self.side = """Its side."""', True),
        ("import math", "import math as cmath", True),
        (
            "radius, *, scale=1.5, **others)",
            "radius: float, *, scale: float = 1.5, **others: int) -> float",
            False,
        ),
        ("self, side", 'self, side: "Length"', False),
        ("def area(radius,", "@math.read\ndef area(radius: float,", True),
    ],
)
def test_what_of_a_python_file_counts(of, old, new, counts):
    assert old in TEXT
    assert (of({"mine/work.py": TEXT}) != of({"mine/work.py": TEXT.replace(old, new)})) == counts


def test_types_count_where_a_decorator_may_read_them(of):
    """As Triton does: a tl.constexpr is another program."""
    plain, typed = (f"@read\ndef f(x{kind}):\n    return x\n" for kind in ("", ": int"))
    assert of({"mine/work.py": plain}) != of({"mine/work.py": typed})
    plain, typed = (f"class C:\n    x{kind} = 1\n" for kind in ("", ": int"))
    assert of({"mine/work.py": plain}) != of({"mine/work.py": typed})  # of a dataclass it is a field


def test_other_programs_have_other_checksums(of):
    values = [
        "'a.b'",
        "f(1, 2)",
        "f((1, 2))",
        "f([1], 2)",
        "[[1], 2]",
        "[[1, 2]]",
        "Name",
        "'Name'",
        "1",
        "1.0",
    ]
    values += ["True", "'1'", "b'1'", "None", "'None'", "...", "{**y}", "{None: y}", "[None]", "[None, None]"]
    values += [
        "(yield)",
        "(yield None)",
        "a[b]",
        "a[b,]",
        "a[b:]",
        "a[:b]",
        "a[::b]",
        "-1",
        "- -1",
        "lambda: 1",
    ]
    programs = [f"def g():\n    x = {value}\n" for value in values]
    programs += ["x: int\n", "x = 1\nx\n", "x = x = 1\n", "def x(): pass\n", "async def x(): pass\n"]
    assert len({of({"mine/work.py": text}) for text in programs}) == len(programs)


@pytest.mark.parametrize(
    "statement",
    [
        "from . import other",
        "from .other import thing",
        "from .other import *",
        "from .. import pack",
        "import pack.other",
        "import pack.other as o",
        "from pack import other as o",
        "def late():\n    from .other import thing",
        "try:\n    import fast\nexcept ImportError:\n    from . import other",
        "if True:\n    class Late:\n        import pack.other",
    ],
)
def test_what_is_imported_counts(of, statement):
    package = {"pack/__init__.py": "", "pack/work.py": statement, "pack/other.py": "thing = 1"}
    if ".." in statement:  # one level deeper
        package = {"pack/__init__.py": "", "pack/in/work.py": statement, "pack/in/__init__.py": ""}
        before = of({**package, "pack/__init__.py": "thing = 1"}, "pack.in.work")
        assert before != of({**package, "pack/__init__.py": "thing = 2"}, "pack.in.work")
        return
    before = of(package, "pack.work")
    assert of(package, "pack.work") == before
    assert of({**package, "pack/other.py": "thing = 2"}, "pack.work") != before
    # what these import counts too, and the package itself
    assert of({**package, "pack/__init__.py": "import sys"}, "pack.work") != before
    further = {**package, "pack/other.py": "import further", "further.py": "1"}
    assert of(further, "pack.work") != of({**further, "further.py": "2"}, "pack.work")


def test_a_new_file_counts_once_it_is_imported(of):
    files = {"mine/work.py": "import math\n", "mine/__init__.py": ""}
    assert of(files) == of({**files, "mine/new.py": "x = 1\n"})
    files["mine/work.py"] += "from . import new\n"
    assert of(files) != of({**files, "mine/new.py": "x = 1\n"})


def test_files_that_code_reads_count_as_they_are(of):
    files = {"mine/work.py": "SOURCE = 'kernel.cpp'\n", "mine/kernel.cpp": "int x; // a"}
    before = of(files)
    assert of({**files, "mine/kernel.cpp": "int x; // b"}) != before
    assert of({**files, "mine/other.cpp": "int x;"}) == before
    kernel = "kafnets.activations.kaf.cpu/piecewise.cpp"
    assert kernel in dict(code.files("train.py", code.modules_of([registry.ACTIVATIONS["kaf"]])))
    assert kernel not in dict(code.files("train.py", code.modules_of([RESNET])))


def test_the_library_comes_before_a_users_folder(of):
    assert of({"mine/work.py": "import kafnets.chance", "kafnets/chance.py": "1"}) == of(
        {"mine/work.py": "import kafnets.chance", "kafnets/chance.py": "2"}
    )


def test_what_a_record_tells_and_which_names_are_exported_does_not_count(monkeypatch):
    """A change of these two files, and of no other, leaves a training as it was made."""
    before, checksum_of = code.checksum("train.py"), code._checksum_of

    def after(*edited):
        changed = {code.SCRIPTS / "kafnets" / name for name in edited}
        monkeypatch.setattr(
            code, "_checksum_of", lambda path: "edited" if path in changed else checksum_of(path)
        )
        return code.checksum("train.py")

    assert after("__init__.py", "runtime/records.py") == before
    assert after("runtime/files.py") != before and after("models/__init__.py") != before


@pytest.mark.parametrize("name", code._REWRITTEN)
def test_a_file_that_was_rewritten_counts_once_it_is_edited_again(name, monkeypatch):
    """As it stands it is taken for what it was; edited, its entry is to be removed."""
    path = code._file_of(name)
    now, before = code._REWRITTEN[name]
    assert code._checksum_of(path) == now
    script = {"kafnets.certification.entry": "certify.py"}.get(
        name, "train.py" if "." in name else f"{name}.py"
    )
    # what is looked up by name, and not imported, is given
    modules = ["kafnets.runtime.compiled", *([name] if "." in name else ())]
    checksum_of, found = code._checksum_of, code.checksum(script, modules)
    for checksum, same in ((before, True), ("edited", False)):
        monkeypatch.setattr(
            code, "_checksum_of", lambda one, c=checksum: c if one == path else checksum_of(one)
        )
        assert (code.checksum(script, modules) == found) is same


def test_what_the_registry_says_of_a_name_counts():
    kaf, elu = registry.ACTIVATIONS["kaf"], registry.ACTIVATIONS["kaf_elu"]
    assert code.of_step("train.py", [kaf]) != code.of_step("train.py", [elu])
    assert code.of_step("train.py", [kaf, RESNET]) == code.of_step("train.py", [RESNET, kaf])


def test_every_process_of_snakemake_computes_them_quickly():
    """In a new process: of all scripts, and of those of a grid of all activations and attacks."""
    program = """
import sys, time
from kafnets import registry
from kafnets.pipeline import code
start = time.process_time()
for path in code.SCRIPTS.glob("*.py"):
    code.of_step(path.name)
for entry in registry.ATTACKS.values():
    code.of_step("evaluate.py", [entry, registry.ACTIVATIONS["kaf"]])
for entry in registry.ACTIVATIONS.values():
    code.of_step("train.py", [entry, *registry.ARCHITECTURES.values(), registry.ADVERSARIES["fbf"]])
print(time.process_time() - start)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=scripts.SCRIPTS, capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 1.0  # 0.2 on a machine that does nothing else
