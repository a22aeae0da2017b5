from __future__ import annotations

import io
import re
import shutil
import subprocess

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
BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


def rendered(found, rows, pieces=None, more=None):
    """The page of a model beside itself; `more` of what was measured."""
    bootstrap = Bootstrap(metrics.count(found), 100, 0.9, 0)
    result = metrics.measured({"finetuned": found, "scratch": found, "majority": found}, bootstrap)
    return page.render(
        result | {"confidence": 0.9, "train_rows": 5} | (more or {}),
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


def shares(**changed):
    """What label efficiency says of two shares and of all rows."""
    near = {"value": 0.5, "low": 0.4, "high": 0.6}
    entry = {"labels": 3, "finetuned": near, "scratch": near, "gain": near, "over_all": near} | changed
    return {share: {"rows": rows} | entry for share, rows in (("0.05", 15), ("0.25", 75), ("1", 300))}


def test_label_efficiency_has_a_section_where_it_was_measured(forms):
    """A plot with an interval for each model and share, a row for each share, and the answer in a sentence."""
    found = forms["classes"]()
    assert "How many labels" not in rendered(found, rows())
    text = rendered(found, rows(), more={"label_efficiency": shares()})
    section = text.split("How many labels it takes")[1].split("</section>")[0]
    assert section.count('stroke-opacity=".35"') == section.count("<circle") == 6
    assert section.count("<tr>") == 4
    assert ">15</text>" in section
    assert '<td class="n">5 %</td>' in section
    assert "From 5 % of the labels (15 rows) the pretrained model is surely better" in section
    without = rendered(found, rows(), more={"label_efficiency": shares(labels=0, scratch={})})
    assert "labels among them" in section
    assert "labels among them" not in without


def test_intervals_stand_at_equal_ratios():
    """3, 30 and 300 are equally far apart; marks that would touch are left out; nothing gives nothing."""
    near = {"value": 0.5, "low": 0.4, "high": 0.6}
    text = svg.intervals({"a": [(n, near) for n in (3, 30, 290, 300)]}, x="rows", y="accuracy")
    places = {label: float(x) for x, label in re.findall(r'<text x="([\d.]+)"[^>]*>(\d+)</text>', text)}
    assert set(places) == {"3", "30", "300"}
    assert places["300"] - places["30"] == pytest.approx(places["30"] - places["3"], abs=0.2)
    assert svg.intervals({"a": []}, x="x", y="y") == ""
    assert "nan" not in svg.intervals({"a": [(7, near | {"low": float("nan")})]}, x="x", y="y")


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome here to open the report in (apt install chromium)")
def test_the_report_opens_in_a_browser(forms, tmp_path):
    """Without a network and without a complaint: the page is there, its plots have a size, nothing overflows."""
    probe = (
        "<script>document.body.dataset.seen=JSON.stringify({plots:[...document.querySelectorAll('svg')].every("
        "e=>e.getBoundingClientRect().width>100),wide:document.documentElement.scrollWidth>innerWidth})</script>"
    )
    file = tmp_path / "report.html"
    page = rendered(forms["classes"](), rows(), more={"label_efficiency": shares()})
    file.write_text(page.replace("</body>", probe + "</body>"), encoding="utf-8")
    done = subprocess.run(
        [
            BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
            "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path / 'profile'}",
            "--enable-logging=stderr", "--window-size=1200,900", "--dump-dom", file.as_uri(),
        ],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "CONSOLE" not in done.stderr
    assert "{&quot;plots&quot;:true,&quot;wide&quot;:false}" in done.stdout
    assert "Evaluation on 60 test rows" in done.stdout
