"""Writes docs/study.md: the page of a study whose results are in results/reference.

python docs/study.py [--check]

The page is the study.md that the run made, and what the README.md beside it says of that run.
"""

import argparse
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = "docs/study.md"


def page(root):
    """The page's text by the newest run in results/reference that has one; None where there is none."""
    made = sorted((root / "results" / "reference").glob("activations*/study.md"))
    if not made:
        return None
    folder = made[-1].parent
    text, said = (folder.joinpath(name).read_text(encoding="utf-8") for name in ("study.md", "README.md"))
    beside = f"../{folder.relative_to(root).as_posix()}"
    text = text.replace("](plots/", f"]({beside}/plots/")
    return f"{text}\n## This run\n\nIts records are in [{folder.name}]({beside}/).\n\n{said}"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing; an error where the page differs")
    check = parser.parse_args().check
    text, target = page(ROOT), ROOT / PAGE
    found = target.read_text(encoding="utf-8") if target.exists() else None
    if text == found:
        return
    if check or text is None:
        raise SystemExit(
            f"{PAGE}: is not the page of a run in results/reference; write it again, or remove it"
        )
    target.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
