"""The results page: what stands on it, that it needs nothing else, and that no text is taken for HTML."""

import html.parser
import itertools
import json
import re

import pandas
import pytest
from kafnets.config.slices import WORST_CASE
from kafnets.report import json_tables, manifest, summary, tables
from kafnets.report.page import document, figures, html_tables, markup, networks, prose, reading
from kafnets.report.page.markup import Markup, element
from kafnets.report.typesetting import NOT_RUN, Cell, Column, Table
from kafnets.runtime.errors import UserError
from kafnets.runtime.files import write_json
from page_builder import CAPTIONS, TITLES, Built
from record_builders import Results

from tests.scripts import here

EMPTY = {"meta", "img", "br", "link", "input"}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return Built(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def text(built):
    return built.page()


class Parsed(html.parser.HTMLParser):
    """A page's elements, in their order: (tag, attributes, text within)."""

    def __init__(self, text):
        super().__init__()
        self.elements, self._open = [], []
        self.feed(text)
        self.close()
        assert not self._open, "every element ends"

    def handle_starttag(self, tag, attributes):
        entry = [tag, dict(attributes), ""]
        self.elements.append(entry)
        if tag not in EMPTY:
            self._open.append(entry)

    def handle_startendtag(self, tag, attributes):
        raise AssertionError(f"<{tag}/> is no HTML")

    def handle_endtag(self, tag):
        assert self._open.pop()[0] == tag, "elements end in the order in which they began"

    def handle_data(self, data):
        for entry in self._open:
            entry[2] += data

    def of(self, tag):
        return [(attributes, text) for name, attributes, text in self.elements if name == tag]

    @property
    def names(self):
        return [attributes["id"] for _, attributes, _ in self.elements if "id" in attributes]


@pytest.fixture(scope="module")
def parsed(text):
    return Parsed(text)


# -- the page


def test_what_stands_on_the_page(parsed):
    heads = [text for tag, _, text in parsed.elements if re.fullmatch("h[1-6]", tag)]
    assert heads[:3] == ["Results", "All activations", "The study"]
    for title in TITLES.values():
        assert heads.count(title) == 1
    assert {"Accuracy and robustness", "Attacks", "Differences", "Evaluation cards"} <= set(heads)
    assert {"Figures", "Networks", "Verdicts", "Training", "Learned activations", "Settings"} <= set(heads)
    assert len(parsed.of("details")) == 2 * 3 * 2
    levels = [int(tag[1]) for tag, *_ in parsed.elements if re.fullmatch("h[1-6]", tag)]
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_every_link_leads_somewhere(parsed, built):
    places = parsed.names
    assert len(places) == len(set(places)), "a name stands for one place"
    targets = [attributes["href"] for attributes, _ in parsed.of("a")]
    assert any(target.startswith("#") for target in targets)
    for target in targets:
        assert target[1:] in places if target.startswith("#") else target.startswith(str(built.folder))


def test_the_files_it_leads_to_are_relative_and_there(built):
    """Of weights, which the builder makes none, those of one network."""
    weights = built.folder / "models/vgg/relu/seed0/model.safetensors"
    weights.touch()
    try:
        assert here("render_page.py", *built.arguments) == (0, "")
        first = built.path.read_bytes()
        assert here("render_page.py", *built.arguments) == (0, "") and built.path.read_bytes() == first
    finally:
        weights.unlink()
    page = Parsed(built.path.read_text(encoding="utf-8"))
    links = [attributes["href"] for attributes, _ in page.of("a") if not attributes["href"].startswith("#")]
    there = [link for link in links if (built.folder / link).is_file()]
    assert [link for link in links if link not in there] == ["models/vgg/relu/seed0/model.safetensors"]
    assert {"models/vgg/kaf/seed0/record.json", "plots/vgg/gallery_kaf_seed0.png"} <= set(there)


def test_it_needs_nothing_else(parsed, text):
    """No file, no host: figures and scripts are part of it."""
    for tag, attributes, _ in parsed.elements:
        for name in ("src", "srcset", "data", "action", "background"):
            assert attributes.get(name, "data:").startswith("data:"), (tag, name)
        assert tag not in ("link", "iframe", "object", "embed", "base")
        assert not any(name.startswith("on") for name in attributes)
    assert "@import" not in text and "url(" not in text.split("<style>")[1].split("</style>")[0]
    (policy,) = [one["content"] for one, _ in parsed.of("meta") if "http-equiv" in one]
    assert policy.startswith("default-src 'none'")


def test_figures_are_whole_and_have_words(parsed, built):
    images = parsed.of("img")
    assert len(images) == 2 * (2 + 1)  # of each experiment, and the shapes of one network
    for attributes, _ in images:
        assert attributes["alt"] and attributes["src"].startswith("data:image/svg+xml,%3C?xml")
    captions = " ".join(text for _, text in parsed.of("figcaption"))
    assert "Accuracy against robustness of vgg: up and to the right is better." in captions
    assert "Accuracy and robustness (pgd) of resnet" in captions and "snakemake" not in captions


def test_of_many_networks_it_leads_to_the_shapes(built, monkeypatch):
    monkeypatch.setattr(reading, "MOST_BYTES", 1000)
    page = Parsed(built.page())
    assert len(page.of("img")) == 2 * 2
    links = [attributes["href"] for attributes, text in page.of("a") if text == "learned activations"]
    assert links == [str(built.folder / f"plots/{name}/kafs_kaf_seed0.png") for name in TITLES]


def test_the_numbers_are_those_of_the_tables(parsed, built):
    main = json_tables.read(built.folder / "tables" / "vgg.json")
    rows = [text for _, text in parsed.of("tr")]
    for row, record in zip(main.rows, main.records, strict=True):
        name = f"{row[0].text} {row[0].note}".strip()
        of_all, of_table, *_ = [one for one in rows if one.startswith(name) and row[1].text in one]
        assert TITLES["vgg"] in of_all and "551,000" in of_all and "551,000" in of_table
        assert f"{row[2].text} ± {row[2].deviation}" in of_table
        assert record["robustness"] in of_all


def test_marks_are_explained(parsed):
    elu = next(text for one, text in parsed.of("details") if one["id"] == "vgg-elu-seed0")
    assert "†" in elu and "catastrophic overfitting" in elu
    assert "§" in elu and "gradients exist" in elu and "12 of 13 checks passed" in elu


def test_a_network_says_what_it_was_made_of(built):
    one = built.experiments()[0].networks[-1]
    shown = Parsed(networks.section(one, str))
    facts = dict(zip(*([text for _, text in shown.of(tag)] for tag in ("dt", "dd")), strict=True))
    assert facts["training.adversary.eps"] == "8/255" and facts["training.epochs"] == "5"
    assert "seed" not in facts and facts["Weights, SHA-256"] == "sha of vgg/kaf/seed1"
    verdicts = [text for _, text in shown.of("tr") if text.startswith("pgd")]
    assert verdicts == ["pgd8/25520016166" + "95" + "33.00 26.9–39.83"]
    (drawing,) = shown.of("svg")
    assert "over 5 epochs" in drawing[0]["aria-label"] and len(shown.of("polyline")) == 3


def test_a_single_experiment_without_training_cards_study_or_figures(tmp_path):
    results = Results(tmp_path)
    results.add("relu", {"clean": 150, "pgd": 80}, published=True)
    (run,) = manifest.read_manifest(results.manifest())
    rows = summary.summarize([run])
    settings = {"title": "VGG", "activations": ["relu"], "reference": None, "headline": "pgd", "attacks": {}}
    settings["attacks"] = {"pgd": {"method": "pgd", "eps": "8/255"}}
    network = networks.Network(run, manifest.training_record(run), None, rows)
    one = document.Experiment("vgg", "VGG", "pgd", [tables.build(rows, "vgg", settings)], [network])
    page = Parsed(document.render([one]))
    heads = [text for tag, _, text in page.elements if re.fullmatch("h[1-6]", tag)]
    assert "All activations" not in heads and "Figures" not in heads and "Training" not in heads
    assert any(text.startswith(f"ReLU0551,000{NOT_RUN}75.00") for _, text in page.of("tr"))


def test_the_worst_case_has_a_column(built):
    one = built.experiments()[0].networks[0]
    worst = one.rows.iloc[:1].assign(attack=WORST_CASE, method=WORST_CASE, accuracy=0.25)
    rows = pandas.concat([one.rows, worst])
    shown = networks.overview([networks.Network(one.run, one.record, one.history, rows)], "VGG", "pgd")
    assert shown.columns[-1].head == "Worst case" and shown.rows[0][-1].text == "25.00"
    shown = networks.overview([networks.Network(one.run, one.record, one.history, rows)], "VGG", WORST_CASE)
    assert "Worst case" not in [column.head for column in shown.columns] and shown.rows[0][-1].text == "25.00"


# -- what is escaped


def test_nothing_of_a_configuration_is_html(text):
    assert "<b>" not in text and "ResNet &amp; &lt;b&gt;" in text
    assert '"co"' not in re.sub(r">[^<]*<", "><", text), "a quotation mark ends no attribute"


EVIL = "<script>alert(1)</script>\" onload='x' & `a` *b*"


def test_texts_and_attributes_are_escaped():
    made = element("p", EVIL, title=EVIL, hidden=True, class_="a", data_sort=None, aria_label=False)
    ((attributes, text),) = Parsed(made).of("p")
    assert text == EVIL and attributes == {"title": EVIL, "hidden": None, "class": "a"}
    assert markup.join(["a<", None, [Markup("<br>")]], "b") == "a&lt;<br>b"


@pytest.mark.parametrize("make", [prose.page, prose.paragraphs, prose.inline])
def test_prose_is_escaped(make):
    assert Parsed(make(f"{EVIL}\n\n| {EVIL} |\n")).of("script") == []


def test_links_of_prose_run_nothing():
    assert prose.inline("[a](javascript:alert) [b](study.csv)") == 'a <a href="study.csv">b</a>'


# -- tables


def test_a_table_as_json_is_the_same_again(built, tmp_path):
    for name in ("vgg", "vgg_attacks", "vgg_differences"):
        found = json_tables.read(built.folder / "tables" / f"{name}.json")
        (tmp_path / "again.json").write_text(json_tables.to_json(found), encoding="utf-8")
        assert json_tables.read(tmp_path / "again.json") == found and found.rows and found.records


@pytest.mark.parametrize("content", [{}, {"columns": [{"foot": ""}], "rows": [], "records": []}])
def test_what_is_no_table_is_refused(tmp_path, content):
    write_json(tmp_path / "a.json", content)
    with pytest.raises(UserError, match="not a table"):
        json_tables.read(tmp_path / "a.json")


def test_a_table_that_is_damaged_or_absent_is_refused(built, tmp_path):
    damaged = (built.folder / "tables" / "vgg.json").read_text(encoding="utf-8").replace("75.25", "85.25")
    (tmp_path / "a.json").write_text(damaged, encoding="utf-8")
    with pytest.raises(UserError, match="damaged"):
        json_tables.read(tmp_path / "a.json")
    with pytest.raises(UserError, match="no such file"):
        json_tables.read(tmp_path / "b.json")


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("12,345", "12345"),
        ("75.25", "75.25"),
        ("−0.50 [−1.0, +0.2]", "-0.50"),
        ("+1.50 [+0.2, +2.0]", "+1.50"),
        ("< 0.001", "0.001"),
        ("1e-3", "1e-3"),
        (NOT_RUN, ""),
        ("", ""),
        ("pgd", None),
        ("100.0 (96.3–100.0)", "100.0"),
        ("8/255", "8"),
        ("75.25§", "75.25"),
        ("1-Lipschitz CNN", None),
        ("10-Lipschitz", None),
        ("3 layers", None),
        ("2D", None),
    ],
)
def test_by_what_a_cell_is_sorted(text, key):
    assert html_tables.sort_key(text) == key
    if key:
        float(key)


def test_rows_that_are_bounds_stay_on_top_and_groups_have_heads():
    columns = (Column("A"), Column("x", "One"), Column("y", "Two"), Column("z", "Two"))
    rows = tuple(
        (Cell(name), *[Cell("1", True, True, "2", "3–4", "§")] * 3) for name in ("at most", "a", "b")
    )
    shown = Table("t", "T", "", columns, rows, ({"a": 1}, {"a": 2}))
    page = Parsed(html_tables.table(shown, links=["#a", "#b"]))
    bodies = page.of("tbody")
    assert [one.get("class") for one, _ in bodies] == ["fixed", None] and "at most" in bodies[0][1]
    assert [one["href"] for one, _ in page.of("a")] == ["#a", "#b"]
    groups = [(one["colspan"], text) for one, text in page.of("th") if one.get("scope") == "colgroup"]
    assert groups == [("1", "One"), ("2", "Two")]
    assert page.of("strong") and page.of("u") and page.of("td")[-1][1] == "1 ± 2 3–4 §"


# -- prose


def test_a_page_of_markdown():
    made = Parsed(
        prose.page(
            "# A\n\nOne `x_y`\n*two* **three**.\n\n- four\n  five\n- six\n"
            "| a | b |\n| - | -: |\n| c | **1** |\n"
            "## B\n![F](plots/a/b.png)\n![G](plots/a/c.png)\n",
            link=lambda target: f"#{target}",
        )
    )
    assert [(tag, text) for tag, _, text in made.elements if tag in ("h2", "h3", "p", "li")] == [
        ("h2", "A"),
        ("p", "One x_y two three."),
        ("li", "four five"),
        ("li", "six"),
        ("h3", "B"),
        ("li", "Figure: F"),
        ("li", "Figure: G"),
    ]
    assert [text for _, text in made.of("code")] == ["x_y"] and made.of("td") == [({"data-sort": "1"}, "1")]
    assert [one["href"] for one, _ in made.of("a")] == ["#plots/a/b.png", "#plots/a/c.png"]


@pytest.mark.parametrize("path", sorted(CAPTIONS.glob("*.rst")), ids=lambda path: path.stem)
def test_every_caption_of_a_figure_is_known(path):
    if not (CAPTIONS.parents[0] / "scripts" / f"plot_{path.stem}.py").exists():
        return  # of a table, which has a caption of its own
    cell = {"experiment": "vgg", "activation": "kaf", "seed": 0}
    card = {"eps": "8/255", "radius_iterations": 20, "most_iterations": 150}
    known = {"wildcards": cell, "params": {"attack": "pgd"}, "config": {"card": card}}
    said = figures.caption(path.read_text(encoding="utf-8"), known)
    assert "{" not in said and len(said) > 50


def test_a_place_that_is_not_known_is_refused():
    with pytest.raises(UserError, match=r"snakemake.params.nothing .* write a name"):
        figures.caption("{{ snakemake.params.nothing }}", {"params": {}})


# -- the script


@pytest.mark.parametrize("change", [{"tables": ["tables/nothing.json"]}, {"figures": ["history"]}])
def test_what_is_missing_is_said_in_one_line(built, tmp_path, change):
    settings = json.loads(json.dumps(built.settings))
    settings["experiments"]["vgg"] |= change
    settings["kinds"]["history"] = {"label": "training curves", "params": {}}
    place = built.arguments.index("--captions") + 1
    given = [*built.arguments[:place], CAPTIONS / "history.rst", *built.arguments[place:-1]]
    code, said = here("render_page.py", "--settings", json.dumps(settings), *given[2:], tmp_path / "a.html")
    assert code == 2 and said.count("\n") == 1 and re.search(r"(nothing.json|history.svg): ", said)
    assert not (tmp_path / "a.html").exists()
