"""Builds the documentation's site: README.md, what it leads to, and the API of the docstrings.

    python docs/site/build.py --output build/docs

Every page keeps its place, so that links between pages hold; what a page links to that is no page is copied
beside it. Needs the packages of requirements-docs.txt, and the library's own, whose docstrings it reads.
"""

import argparse
import json
import os
import posixpath
import re
import shutil
import subprocess
import sys
import tempfile
from base64 import b64decode
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SCRIPTS = ROOT / "workflow" / "scripts"
README, INDEX, REFERENCE = "README.md", "index.md", "reference.md"
# A run of the repository that stands in the site as its users get theirs, and where its files say they are.
RUN, RUN_OUTPUT = "results/reference/certified-cpu-2026-11-28", "results/certified_cpu"
NOTEBOOK = ".ipynb"
FENCED = re.compile(r"(^```.*?^```\n)", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[([^\[\]]*)\]\(([^)\s]+)\)")


def gather(target):
    """Copies README.md and what it leads to below `target`; the names of the pages, as they are met."""
    pages, waiting = {}, [README]
    while waiting:
        name = waiting.pop(0)
        if name in pages:
            continue
        text = (ROOT / name).read_text(encoding="utf-8")
        pages[name] = page = place(name)
        if name.endswith(NOTEBOOK):
            text = as_markdown(json.loads(text), target / page)
        text, found = relinked(name, titled(name, text))
        waiting += [path for path in found if path.endswith((".md", NOTEBOOK))]
        for path in found:
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            if path not in waiting:
                shutil.copyfile(ROOT / path, target / path)
        (target / page).parent.mkdir(parents=True, exist_ok=True)
        (target / page).write_text(text, encoding="utf-8")
    return list(pages.values())


def place(name):
    """Where a page or a notebook stands in the site."""
    return (
        INDEX if name == README else name.removesuffix(NOTEBOOK) + (".md" if name.endswith(NOTEBOOK) else "")
    )


def titled(name, text):
    """A page's text with a title: without one of its own, as a table has none, where it stands."""
    where = name.removesuffix(".md").removesuffix("/README")
    return text if text.startswith("# ") else f"# {where}\n\n{text}"


def relinked(name, text):
    """A page's text with links to where the site has what they lead to; the files that they name."""
    found = []

    def link(match):
        words, target = match.groups()
        path, hash_sign, anchor = target.partition("#")
        if "://" in target or not path:
            return match[0]
        file = posixpath.normpath(posixpath.join(posixpath.dirname(name), path))
        if not (ROOT / file).is_file():  # a folder of the repository
            return words
        found.append(file)
        path = posixpath.relpath(place(file), posixpath.dirname(name) or ".")
        return f"[{words}]({path}{hash_sign}{anchor})"

    parts = FENCED.split(text)
    return "".join(part if part.startswith("```") else LINK.sub(link, part) for part in parts), found


def as_markdown(notebook, page):
    """A notebook as a page: its texts, its code, what that printed; pictures are written beside the page."""
    lines, pictures = [], 0
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            lines += [source, ""]
            continue
        lines += ["```python", source, "```", ""]
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/png" in data:
                pictures += 1
                picture = page.with_name(f"{page.stem}_{pictures}.png")
                picture.parent.mkdir(parents=True, exist_ok=True)
                picture.write_bytes(b64decode("".join(data["image/png"])))
                lines += [f"![what the code above draws]({picture.name})", ""]
            else:
                lines += [
                    "```text",
                    "".join(output.get("text", data.get("text/plain", ""))).rstrip(),
                    "```",
                    "",
                ]
    return "\n".join(lines) + "\n"


def contents(pages):
    """The site's table of contents, hidden at the end of its first page."""
    groups = {
        "Guide": [page for page in pages if page.startswith("docs/")],
        "Library": [REFERENCE],
        "Results": [page for page in pages if page.startswith(("results/", "benchmarks/", "tests/"))],
    }
    known = {page for group in groups.values() for page in group}
    groups["Project"] = [page for page in pages if page not in known and page != INDEX]
    for caption, group in groups.items():
        names = "\n".join(page.removesuffix(".md") for page in group)
        yield f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{names}\n```\n"


# -- a results page


def lead_to_results(source):
    """Adds to the page of the run what leads to its results page, which is none of Sphinx's."""
    with open(source / RUN / README, "a", encoding="utf-8") as page:
        words = "All tables, figures and networks of this run on one page"
        page.write(f'\n```{{raw}} html\n<p><a href="results.html">{words}</a></p>\n```\n')


def publish_results(site):
    """Copies the run into the site, and writes its results page there, as the workflow does."""
    shutil.copytree(ROOT / RUN, site / RUN, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.md"))
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch, RUN_OUTPUT)
        out.parent.mkdir()
        out.symlink_to((site / RUN).resolve())
        command = [sys.executable, SCRIPTS / "render_page.py", "--folder", RUN_OUTPUT]
        command += ["--settings", (out / "page.json").read_text(encoding="utf-8")]
        command += ["--manifest", f"{RUN_OUTPUT}/manifest.jsonl", "--summary", f"{RUN_OUTPUT}/summary.csv"]
        command += ["--captions", *sorted((ROOT / "workflow" / "report").glob("*.rst"))]
        command += ["--output", f"{RUN_OUTPUT}/results.html"]
        return subprocess.run(command, cwd=scratch, check=False).returncode


# -- the API


def reference():
    """The page of the API: what `kafnets` exports, then every name of the registry, by its docstring."""
    sys.path.insert(0, str(SCRIPTS))
    import kafnets
    from kafnets import registry

    kinds = [
        ("Activations", registry.ACTIVATIONS),
        ("Networks", registry.ARCHITECTURES),
        ("Attacks", registry.ATTACKS),
        ("Training methods", registry.ADVERSARIES),
        ("Certificates", registry.CERTIFICATES),
        ("Detectors", registry.DETECTORS),
        ("Attacks on detectors", registry.DETECTION_ATTACKS),
    ]
    yield "# The library's API\n\nOf every name that programs may use: arguments, shapes, errors, source.\n\n"
    yield "## What kafnets exports\n\n"
    for name in (*kafnets._EXPORTS, "attacks.AttackResult", "attacks.Expectation"):
        kind = "autoclass" if name.rpartition(".")[2][0].isupper() else "autofunction"
        yield directive(kind, f"kafnets.{name}")
    documented = {"kafnets.activations.kaf.layer.KAF"}
    for title, table in kinds:
        yield f"## {title}\n\n"
        for name, entry in table.items():
            target = entry.target.replace(":", ".")
            if not target.startswith("kafnets."):
                yield f"`{name}`: `{target}`\n\n"
            elif target in documented:
                yield f"`{name}`: the same with {arguments(entry)}, see {target.rpartition('.')[2]}\n\n"
            else:
                documented.add(target)
                yield f"`{name}`:\n\n"
                yield directive("autofunction" if title.startswith("Attacks") else "autoclass", target)


def arguments(entry):
    return ", ".join(f"`{name}={value!r}`" for name, value in entry.arguments.items()) or "its defaults"


def directive(kind, target):
    return f"```{{eval-rst}}\n.. {kind}:: {target}\n```\n\n"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--output", type=Path, default=ROOT / "build" / "docs", help="made; the site is html/ in it"
    )
    parser.add_argument("--only-gather", action="store_true", help="the pages, without Sphinx")
    options = parser.parse_args()
    source = options.output / "source"
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir(parents=True)
    pages = gather(source)
    lead_to_results(source)
    (source / REFERENCE).write_text("".join(reference()), encoding="utf-8")
    with open(source / INDEX, "a", encoding="utf-8") as index:
        index.writelines(contents(pages))
    if options.only_gather:
        return 0
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-q",
        "-b",
        "html",
        "-c",
        HERE,
        source,
        options.output / "html",
    ]
    environment = {**os.environ, "PYTHONPATH": str(SCRIPTS)}
    made = subprocess.run([*command, "-W", "--keep-going"], env=environment, check=False).returncode
    return made or publish_results(options.output / "html")


if __name__ == "__main__":
    sys.exit(main())
