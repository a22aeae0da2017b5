from __future__ import annotations

import io
import json
import re
from html import unescape

import numpy as np
import pytest
from PIL import Image

from pretune.evaluation.metrics import compute
from pretune.evaluation.metrics.bootstrap import Bootstrap
from pretune.evaluation.report import charts, curves, mistakes, page
from pretune.evaluation.report.attribution import Piece
from pretune.evaluation.report.samples import Sample

FORMS = ["classes", "two_classes", "many_labels", "numbers", "tags", "texts", "answers", "likelihoods"]
CURVE = [
    {
        "step": str(step), "loss": str(3 / step), "learning_rate": "0.001", "flops": str(step * 1_230_000_000),
        "validation_loss": "2.5" if step % 2 else "",
    }
    for step in range(1, 6)
]  # fmt: skip


def png(size=4):
    """The bytes of a grey PNG file."""
    file = io.BytesIO()
    Image.new("L", (size, size), 90).save(file, format="png")
    return file.getvalue()


def rendered(found, rows, explained=None, *, samples=(), costs=None, more=None):
    """The page of a model beside itself; `more` of what was measured."""
    bootstrap = Bootstrap(compute.count(found), 100, 0.9, 0)
    result = compute.measured({"finetuned": found, "scratch": found, "majority": found}, bootstrap)
    return page.render(
        result | {"confidence": 0.9, "train_rows": 5} | (more or {}),
        rows=rows,
        slices=compute.sliced(found, {"label <a>": np.arange(60) < 30}, bootstrap),
        tables=curves.tables(found),
        mistakes=mistakes.worst(found, 5),
        explained=explained or {},
        samples=samples,
        training={"pretrain": CURVE, "finetune": CURVE},
        costs=costs or {},
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
    plain = rendered(found, [{"image": png()}] * 60)
    assert 'src="data:image/png;base64,' in plain
    marked = rendered(found, [{"image": png()}] * 60, {worst: [[0.0, 1.0], [-0.5, 0.01]]})
    assert marked.count("<svg") == plain.count("<svg") + 1
    assert '<rect x="1" y="0" width="1" height="1" fill="#2563a8" fill-opacity="1.00"/>' in marked
    assert '<rect x="0" y="1" width="1" height="1" fill="#c2452d" fill-opacity="0.50"/>' in marked
    assert 'x="1" y="1" width="1"' not in marked


def test_what_a_model_writes_stands_beside_what_is_right(forms):
    """Escaped like all texts. Of a model that writes nothing there is no section."""
    found = forms["likelihoods"]()
    assert "What it writes" not in rendered(found, rows())
    shown = [Sample(3, "To be,", " or not <b>", " and to be")]
    text = rendered(found, rows(), samples=shown)
    written = text[text.index("What it writes") : text.index("The worst mistakes")]
    assert [part in written for part in ("To be,", "or not &lt;b&gt;", "and to be", "<b>")] == [True, True, True, False]


def test_what_training_took_is_told_as_far_as_it_is_known(forms):
    """Steps and FLOPs always; time, device hours and energy of the stages whose run is known."""
    found = forms["classes"]()
    text = rendered(found, rows())
    assert "6.15 G" in text
    assert "device hours</th>" not in text
    took = {"pretrain": {"seconds": 71.5, "energy_kwh": 0.00123, "loss": 4.0}, "finetune": {}}
    text = rendered(found, rows(), costs=took)
    assert [word for word in page.TOOK.values() if f"<th>{word}</th>" in text] == ["seconds", "kWh"]
    assert '<td class="n">71.5</td><td class="n">0.00123</td>' in text
    assert text.count('<td class="n">-</td><td class="n">-</td>') == 1


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (7, "7"), (999, "999"), (1000, "1 k"), (5795100000000, "5.8 T"), (1e24, "1e+06 E"), (999_999, "1 M")],
)
def test_large_numbers_have_prefixes(number, text):
    """Three digits, and never a thousand of what has a prefix of its own."""
    assert page.si(number) == text


def test_a_plot_of_nothing_is_nothing():
    """No points, no figure; one point and a constant are no trouble."""
    assert charts.lines({"a": []}, x="x", y="y") == ""
    assert "NaN" not in charts.lines({"a": [(1.0, 2.0)]}, x="x", y="y")
    assert "nan" not in charts.lines({"a": [(0.0, float("nan")), (1.0, 2.0), (2.0, 2.0)]}, x="x", y="y")


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
    text = charts.intervals({"a": [(n, near) for n in (3, 30, 290, 300)]}, x="rows", y="accuracy")
    places = {label: float(x) for x, label in re.findall(r'<text x="([\d.]+)"[^>]*>(\d+)</text>', text)}
    assert set(places) == {"3", "30", "300"}
    assert places["300"] - places["30"] == pytest.approx(places["30"] - places["3"], abs=0.2)
    assert charts.intervals({"a": []}, x="x", y="y") == ""
    assert "nan" not in charts.intervals({"a": [(7, near | {"low": float("nan")})]}, x="x", y="y")


@pytest.mark.slow
def test_the_report_opens_in_a_browser(forms, tmp_path, browse):
    """Without a network and without a complaint: plots and marks have a size, images load, nothing overflows."""
    probe = (
        "<script>addEventListener('load',()=>{const seen=q=>[...document.querySelectorAll(q)];"
        "document.body.dataset.seen=JSON.stringify({plots:seen('svg').every(e=>e.getBoundingClientRect().width>100),"
        "images:seen('img').length>0&&seen('img').every(e=>e.complete&&e.naturalWidth===8),"
        "marks:seen('svg.seen rect').every(e=>e.getBoundingClientRect().width>1),"
        "wide:document.documentElement.scrollWidth>innerWidth})})</script>"
    )
    found = forms["classes"]()
    cells = [[(row - column) / 8 for column in range(8)] for row in range(8)]
    shown = [Sample(3, "To be, " * 40, "or not to be", "and " * 32)]
    took = {"pretrain": dict.fromkeys(page.TOOK, 0.01)}
    where = {each.row: cells for each in mistakes.worst(found, 2)}
    more = {"label_efficiency": shares()}
    text = rendered(found, [{"image": png(8)}] * 60, where, samples=shown, costs=took, more=more)
    file = tmp_path / "report.html"
    file.write_text(text.replace("</body>", probe + "</body>"), encoding="utf-8")
    seen = browse(file.as_uri())
    assert seen.console == []
    (facts,) = re.findall('data-seen="([^"]*)"', seen.dom)
    assert json.loads(unescape(facts)) == {"plots": True, "images": True, "marks": True, "wide": False}
    assert "Evaluation on 60 test rows" in seen.dom
