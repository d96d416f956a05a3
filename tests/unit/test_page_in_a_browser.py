"""The results page in a headless Chromium: sorting, links, keys, and no wider than the window."""

import os
from pathlib import Path

import pytest
from page_builder import Built

from tests.browser import browser


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Of enough networks for a field that searches them."""
    built = Built(tmp_path_factory.mktemp("results"), seeds=7)
    built.path.write_text(built.page(), encoding="utf-8")
    return built.path.as_uri()


@pytest.fixture(scope="module")
def shown():
    with browser() as one:
        yield one


@pytest.fixture
def at(shown, page):
    """The browser with the page, as wide as a computer's window."""
    shown.said.clear()
    shown.open(page)
    yield shown
    assert shown.said == [], "the console says nothing"


NETWORKS = "document.querySelector('#vgg-table-networks table')"
FIRST = f"Array.from({NETWORKS}.tBodies[0].rows, row => row.cells[%d].textContent)"
HEAD = f"{NETWORKS}.tHead.rows[0].cells[%d]"


def column(at, number):
    return at.ask(FIRST % number)


def test_heads_sort_by_number_and_by_name(at):
    before = column(at, 5)
    at.ask(f"{HEAD % 5}.querySelector('button').click()")
    found = [float(text.split()[0]) for text in column(at, 5)]
    assert found == sorted(found, reverse=True) and sorted(before) == sorted(column(at, 5))
    assert at.ask(f"{HEAD % 5}.getAttribute('aria-sort')") == "descending"
    at.ask(f"{HEAD % 5}.querySelector('button').click()")
    found = [float(text.split()[0]) for text in column(at, 5)]
    assert found == sorted(found) and at.ask(f"{HEAD % 5}.getAttribute('aria-sort')") == "ascending"
    at.ask(f"{HEAD % 0}.querySelector('button').click()")
    names = [text.split()[0] for text in column(at, 0)]
    assert names == sorted(names) and at.ask(f"{HEAD % 5}.getAttribute('aria-sort')") is None


def test_keys_sort_too(at):
    at.ask(f"{HEAD % 1}.querySelector('button').focus()")
    at.press("Enter")
    assert at.ask(f"{HEAD % 1}.getAttribute('aria-sort')") == "descending" and column(at, 1)[0] == "6"
    at.press(" ")
    assert at.ask(f"{HEAD % 1}.getAttribute('aria-sort')") == "ascending" and column(at, 1)[0] == "0"


def test_what_was_not_measured_is_last(at):
    """Of whatever order; a row of bounds stays where it is."""
    at.ask(f"{NETWORKS}.tBodies[0].rows[3].cells[4].dataset.sort = ''")
    name = at.ask(f"{NETWORKS}.tBodies[0].rows[3].textContent")
    for _ in range(2):
        at.ask(f"{HEAD % 4}.querySelector('button').click()")
        assert at.ask(f"Array.from({NETWORKS}.tBodies[0].rows).pop().textContent") == name
    cards = "document.querySelector('#vgg-table-cards table')"
    at.ask(f"{cards}.tHead.rows[0].cells[3].querySelector('button').click()")
    assert at.ask(f"{cards}.tBodies[0].className") == "fixed"
    assert at.ask(f"{cards}.tBodies[0].rows[0].cells[0].textContent") == "at most"


def test_a_field_searches_rows(at):
    field = f"{NETWORKS}.closest('section').querySelector('input')"
    at.ask(f"{field}.value = 'KAF 551'; {field}.dispatchEvent(new Event('input'))")
    rows = f"Array.from({NETWORKS}.tBodies[0].rows).filter(row => !row.hidden)"
    shown = at.ask(f"{rows}.map(row => row.cells[0].textContent)")
    assert len(shown) == 7 and all(name.startswith("KAF") for name in shown)
    assert at.ask("document.querySelector('#all-activations input')") is None  # few rows are seen at once


def test_a_link_opens_the_network(at):
    details = "document.getElementById('vgg-kaf-seed3')"
    assert at.ask(f"{details}.open") is False
    at.ask("document.querySelector('a[href=\"#vgg-kaf-seed3\"]').click()")
    at.ask("new Promise(done => setTimeout(done, 100))")
    assert at.ask(f"{details}.open") is True
    assert abs(at.ask(f"{details}.getBoundingClientRect().top")) < 400


def test_an_address_with_a_network_opens_it(shown, page):
    shown.open("about:blank")
    shown.open(f"{page}#resnet-elu-seed2")
    assert shown.ask("document.getElementById('resnet-elu-seed2').open") is True
    shown.open("about:blank")


def test_figures_are_drawn(at):
    at.ask("Promise.all(Array.from(document.images, image => image.decode()))")
    assert at.ask("Array.from(document.images).every(image => image.naturalWidth > 100)") is True


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_is_no_wider_than_the_window(shown, page, width, dark, tmp_path):
    """Everything open; what is wider scrolls in its own place. Pictures are kept in $KAFNETS_SCREENSHOTS."""
    shown.said.clear()
    shown.open(page, width, 844, dark)
    shown.ask("document.querySelectorAll('details').forEach(one => { one.open = true })")
    assert shown.ask("innerWidth") == width
    assert shown.ask("document.documentElement.scrollWidth") <= width
    assert shown.ask("parseFloat(getComputedStyle(document.querySelector('td')).fontSize)") >= 13
    ink, paper = shown.ask(
        "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
        ".map(text => text.match(/\\d+/g).slice(0, 3).reduce((sum, part) => sum + Number(part), 0))"
    )
    assert (ink > 600 and paper < 150) if dark else (ink < 150 and paper > 600)
    assert shown.said == []
    if folder := os.environ.get("KAFNETS_SCREENSHOTS"):
        shown.picture(Path(folder) / f"page_{width}_{'dark' if dark else 'light'}.png")
