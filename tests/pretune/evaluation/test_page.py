from __future__ import annotations

import io
import re

import numpy as np
import pytest
from PIL import Image

from pretune.evaluation import curves, metrics, mistakes, page, svg
from pretune.evaluation.attribution import Piece
from pretune.evaluation.intervals import Bootstrap

FORMS = ["classes", "two_classes", "many_labels", "numbers", "tags", "texts", "answers", "likelihoods"]
CURVE = [
    {"step": str(step), "loss": str(3 / step), "learning_rate": "0.001", "validation_loss": "2.5" if step % 2 else ""}
    for step in range(1, 6)
]


def rendered(found, rows, pieces=None):
    """The page of a model beside itself."""
    bootstrap = Bootstrap(metrics.count(found), 100, 0.9, 0)
    result = metrics.measured({"finetuned": found, "scratch": found, "majority": found}, bootstrap)
    return page.render(
        result | {"confidence": 0.9, "train_rows": 5},
        rows=rows,
        slices=metrics.sliced(found, {"label <a>": np.arange(60) < 30}, bootstrap),
        tables=curves.tables(found),
        mistakes=mistakes.worst(found, 5),
        pieces=pieces or {},
        training={"pretrain": CURVE, "finetune": CURVE},
    )


def rows(text="a <b>ship</b> & a tide"):
    """Sixty rows of text."""
    return [{"text": f"{text} {n}"} for n in range(60)]


@pytest.mark.parametrize("name", FORMS)
def test_every_form_has_a_page_that_stands_alone(forms, name):
    """Metrics, curves, slices and mistakes; it asks for no other file and runs no script."""
    text = rendered(forms[name](), rows())
    assert re.findall(r'(?:src|href)="(?!data:)[^"]*"|<script|url\(|@import', text) == []
    for part in ("Models", "Is it better?", "How training went", "Slices", "The worst mistakes", "learning_rate"[:8]):
        assert part in text
    assert text.count("<svg") == text.count("</svg>") >= 2


def test_what_a_row_says_is_shown_and_never_run(forms):
    """Texts, labels and names of slices are escaped."""
    text = rendered(forms["classes"](names=("<i>", "b", "c")), rows("<script>alert(1)</script>"))
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert "<i>" not in re.sub(r'<i style="[^"]*"></i>', "", text)


def test_attributions_and_images_are_shown(forms):
    """Pieces for and against in two colours; an image is part of the page."""
    found = forms["two_classes"]()
    worst = mistakes.worst(found, 5)[0].row
    text = rendered(found, rows(), {worst: [Piece("salt", 1.0), Piece(" and ", 0.0), Piece("oven", -0.5)]})
    assert '<mark style="background:rgba(43,99,168,0.60)" title="+1.00">salt</mark> and <mark' in text
    file = io.BytesIO()
    Image.new("L", (4, 4)).save(file, format="png")
    assert 'src="data:image/png;base64,' in rendered(found, [{"image": file.getvalue()}] * 60)


def test_a_plot_of_nothing_is_nothing():
    """No points, no figure; one point and a constant are no trouble."""
    assert svg.lines({"a": []}, x="x", y="y") == ""
    assert "NaN" not in svg.lines({"a": [(1.0, 2.0)]}, x="x", y="y")
    assert "nan" not in svg.lines({"a": [(0.0, float("nan")), (1.0, 2.0), (2.0, 2.0)]}, x="x", y="y")


@pytest.mark.slow
def test_the_report_opens_in_a_browser(forms, tmp_path, browse):
    """Without a network and without a complaint: the page is there, its plots have a size, nothing overflows."""
    probe = (
        "<script>document.body.dataset.seen=JSON.stringify({plots:[...document.querySelectorAll('svg')].every("
        "e=>e.getBoundingClientRect().width>100),wide:document.documentElement.scrollWidth>innerWidth})</script>"
    )
    file = tmp_path / "report.html"
    file.write_text(rendered(forms["classes"](), rows()).replace("</body>", probe + "</body>"), encoding="utf-8")
    page = browse(file.as_uri())
    assert page.console == []
    assert "{&quot;plots&quot;:true,&quot;wide&quot;:false}" in page.dom
    assert "Evaluation on 60 test rows" in page.dom
