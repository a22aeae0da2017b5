"""The layout that all pages share."""

from __future__ import annotations

import re

import pytest
from jinja2 import UndefinedError

from pretune.pages.render import FOLDER, Table, render

TEMPLATE = """{% extends "layout.html.j2" %}
{% from "macros.html.j2" import sections %}
{% block title %}{{ title }}{% endblock %}
{% block content %}
{{ sections(tables) }}
{% endblock %}
"""


@pytest.fixture
def page(tmp_path):
    """A function that renders tables by a template outside the package."""
    template = tmp_path / "page.html.j2"
    template.write_text(TEMPLATE, encoding="utf-8")
    return lambda *tables, **values: render(template, tables=tables, **({"title": "a page"} | values))


def test_titles_and_cells_are_escaped(page):
    """No text of a value becomes a tag."""
    text = page(Table("<t>", ["<h>"], [["<c>"]]), title="<title & more>")
    assert re.findall("<[thc]>|<title &", text) == []
    for part in ("&lt;t&gt;", "&lt;h&gt;", "&lt;c&gt;", "&lt;title &amp; more&gt;"):
        assert part in text


def test_a_page_holds_the_stylesheet_and_needs_no_other_file(page):
    """It opens without a network; it is the same each time."""
    text = page()
    assert (FOLDER / "style.css").read_text(encoding="utf-8") in text
    assert re.findall(r'(?:src|href)="(?!data:)[^"]*"|<script|url\(|@import', text) == []
    assert text == page()


def test_the_first_columns_hold_text_and_the_others_numbers(page):
    """Estimates have their interval; an estimate without a value is a dash; an empty table says so."""
    estimate = {"value": 0.62204, "low": 0.6, "high": 0.64}
    text = page(Table("scores", ["", "count", "score"], [["a", 3, estimate], ["b", 4, {}]]), Table("others", ["x"], []))
    assert "<th></th>" in text
    assert '<th class="number">score</th>' in text
    assert '<td>a</td><td class="number">3</td><td class="number">0.622 <small>0.6 to 0.64</small></td>' in text
    assert '<td class="number">-</td>' in text
    assert "<h2>Others</h2>\n<p>none</p>" in text


def test_a_missing_value_is_an_error(tmp_path):
    """A template that names a value that is not there never renders it as nothing."""
    (tmp_path / "page.html.j2").write_text("{{ absent }}", encoding="utf-8")
    with pytest.raises(UndefinedError, match="absent"):
        render(tmp_path / "page.html.j2")
