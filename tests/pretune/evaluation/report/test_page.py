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
from pretune.evaluation.names import COSTS
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


def rendered(predictions, rows, attributions=None, *, samples=(), costs=None, more=None, told=((), {})):
    """The page of a model that is compared with itself; `more` is added to its results."""
    bootstrap = Bootstrap(compute.count(predictions), 100, 0.9, 0)
    models = dict.fromkeys(("finetuned", "scratch", "majority"), predictions)
    return page.render_report(
        compute.evaluate_models(models, bootstrap) | {"confidence": 0.9, "train_rows": 5} | (more or {}),
        rows=rows,
        slices=compute.evaluate_slices(predictions, {"label <a>": np.arange(60) < 30}, bootstrap),
        tables=curves.tables(predictions),
        mistakes=mistakes.worst_mistakes(predictions, 5),
        attributions=attributions or {},
        samples=samples,
        told=told,
        training={"pretrain": CURVE, "finetune": CURVE},
        costs=costs or {},
    )


def rows(text="a <b>ship</b> & a tide"):
    """Sixty rows of text."""
    return [{"text": f"{text} {n}"} for n in range(60)]


@pytest.mark.parametrize("name", FORMS)
def test_every_form_has_a_page_that_stands_alone(forms, name):
    """Metrics, curves, slices and mistakes; it asks for no other file, runs no script and is the same each time."""
    text = rendered(forms[name](), rows())
    assert re.findall(r'(?:src|href)="(?!data:)[^"]*"|<script|url\(|@import', text) == []
    for part in ("Models", "Is it better?", "Training", "Slices", "Worst mistakes", "learning rate"):
        assert part in text
    assert text.count("<svg") == text.count("</svg>") >= 2
    assert text == rendered(forms[name](), rows())


def test_what_became_of_long_rows_is_in_the_report(forms):
    """The warnings, and the counts of each split; nothing for objectives that count none."""
    told = (["train: 3 of 9 rows are cut"], {"rows": {"train": 9, "validation": 4}, "cut rows": {"train": 3}})
    section = rendered(forms["texts"](), rows(), told=told).partition("<h2>Rows that are trained on</h2>")[2]
    cells = re.findall(r"<(?:t[dh]|p)[^>]*>(.*?)</(?:t[dh]|p)>", section.partition("</section>")[0])
    assert cells == [*told[0], "", "train", "validation", "rows", "9", "4", "cut rows", "3", ""]
    assert "Rows that are trained on" not in rendered(forms["texts"](), rows())


def test_benchmarks_stand_in_a_table(forms):
    """Each model's estimate, the paired difference and its p-value; without benchmarks there is none."""
    estimate = {"value": 0.25, "low": 0.2, "high": 0.3}
    gain = {"value": -0.125, "low": -0.2, "high": 0.0625, "p": 0.34}
    entry = {"samples": 1234, "higher_is_better": True, "finetuned": estimate, "base": estimate, "gain": {"base": gain}}
    text = rendered(forms["classes"](), rows(), more={"benchmarks": {"arc/acc": entry}})
    cells = re.findall(
        r"<t[dh][^>]*>(.*?)</t[dh]>", text.partition("<h2>Benchmarks</h2>")[2].partition("</section>")[0]
    )
    assert cells[6:] == [
        "arc/acc", "1234", *["0.25 <small>0.2 to 0.3</small>"] * 2, "-0.125 <small>-0.2 to 0.0625</small>", "0.34",
    ]  # fmt: skip
    assert "Benchmarks" not in rendered(forms["classes"](), rows())


def test_the_content_of_rows_is_escaped(forms):
    """Texts, labels and names of slices are escaped."""
    text = rendered(forms["classes"](names=("<i>", "b", "c")), rows("<script>alert(1)</script>"))
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert "&lt;a&gt;" in text
    assert "<i>" not in re.sub(r'<i style="[^"]*"></i>', "", text)


def test_attributions_and_images_are_shown(forms):
    """Pieces for and against in two colours; an image is part of the page."""
    predictions = forms["two_classes"]()
    worst = mistakes.worst_mistakes(predictions, 5)[0].row
    text = rendered(predictions, rows(), {worst: [Piece("salt", 1.0), Piece(" and ", 0.0), Piece("oven", -0.5)]})
    assert '<mark style="background:rgba(43,99,168,0.60)" title="+1.00">salt</mark> and <mark' in text
    plain = rendered(predictions, [{"image": png()}] * 60)
    assert 'src="data:image/png;base64,' in plain
    marked = rendered(predictions, [{"image": png()}] * 60, {worst: [[0.0, 1.0], [-0.5, 0.01]]})
    assert marked.count("<svg") == plain.count("<svg") + 1
    assert '<rect x="1" y="0" width="1" height="1" fill="#2563a8" fill-opacity="1.00"/>' in marked
    assert '<rect x="0" y="1" width="1" height="1" fill="#c2452d" fill-opacity="0.50"/>' in marked
    assert 'x="1" y="1" width="1"' not in marked


def test_generated_texts_are_next_to_the_true_ones(forms):
    """They are escaped like all texts. A model that generates none has no such section."""
    predictions = forms["likelihoods"]()
    assert "<h2>Samples" not in rendered(predictions, rows())
    text = rendered(predictions, rows(), samples=[Sample(3, "To be,", " or not <b>", " and to be")])
    section = text[text.index("<h2>Samples") : text.index("Worst mistakes")]
    assert [part in section for part in ("To be,", "or not &lt;b&gt;", "and to be", "<b>")] == [True, True, True, False]
    assert "before" not in section
    text = rendered(predictions, rows(), samples=[Sample(3, "To be,", " or not", " and to be", " maybe")])
    assert text.index("<th>before</th>") < text.index("maybe") < text.index(" and to be")


def test_of_preferences_the_win_rate_is_shown(forms):
    """Beside the gain over the model; other forms have no such column."""
    rate = {"win_rate": {"scratch": {"value": 0.912, "low": 0.85, "high": 0.96}}}
    assert "answered better" not in rendered(forms["classes"](), rows())
    text = rendered(forms["classes"](), rows(), more=rate)
    assert text.index("answered better") < text.index("0.912") < text.index("<h2>Slices")


def test_the_cost_of_training_is_shown_as_far_as_it_is_known(forms):
    """Steps and FLOPs always; time, device hours and energy of the stages whose run is known."""
    predictions = forms["classes"]()
    text = rendered(predictions, rows())
    assert "6.15 G" in text
    assert "device hours</th>" not in text
    costs = {"pretrain": {"seconds": 71.5, "energy_kwh": 0.00123, "loss": 4.0}, "finetune": {}}
    text = rendered(predictions, rows(), costs=costs)
    varying = [COSTS[name] for name in page.VARYING_COSTS]
    assert [words for words in varying if f'<th class="number">{words}</th>' in text] == ["seconds", "kWh"]
    assert '<td class="number">71.5</td><td class="number">0.00123</td>' in text
    assert text.count('<td class="number">-</td><td class="number">-</td>') == 1


@pytest.mark.parametrize(
    ("low", "value", "words"),
    [
        (0.01, 0.05, "helped significantly: +0.05 (+0.01 to +0.2)"),
        (-0.01, 0.05, "helped, but not significantly: +0.05 (-0.01 to +0.2)"),
        (-0.1, -0.05, "did not help: -0.05 (-0.1 to +0.2)"),
    ],
)
def test_a_gain_is_significant_if_its_interval_excludes_zero(forms, low, value, words):
    """The first sentence of the report says whether pretraining helped."""
    gain = {"value": value, "low": low, "high": 0.2, "p": 0.5}
    assert f"Pretraining {words}" in rendered(forms["classes"](), rows(), more={"gain": {"scratch": gain}})


def test_a_plot_without_points_is_empty():
    """No points, no figure; one point, a constant and a value that is not a number are drawn."""
    assert charts.lines({"a": []}, x="x", y="y") == ""
    assert "NaN" not in charts.lines({"a": [(1.0, 2.0)]}, x="x", y="y")
    assert "nan" not in charts.lines({"a": [(0.0, float("nan")), (1.0, 2.0), (2.0, 2.0)]}, x="x", y="y")


def shares(**changed):
    """The results of label efficiency for two shares and for all rows."""
    near = {"value": 0.5, "low": 0.4, "high": 0.6}
    entry = {"labels": 3, "finetuned": near, "scratch": near, "gain": near, "over_all": near} | changed
    return {share: {"rows": rows} | entry for share, rows in (("0.05", 15), ("0.25", 75), ("1", 300))}


def test_label_efficiency_has_a_section_where_it_was_measured(forms):
    """A plot with an interval for each model and share, a row for each share, and the answer in a sentence."""
    predictions = forms["classes"]()
    assert "Label efficiency" not in rendered(predictions, rows())
    text = rendered(predictions, rows(), more={"label_efficiency": shares()})
    section = text.split("Label efficiency")[1].split("</section>")[0]
    assert section.count('stroke-opacity=".35"') == section.count("<circle") == 6
    assert section.count("<tr>") == 4
    assert ">15</text>" in section
    assert '<td class="number">5 %</td>' in section
    assert "From 5 % of the labels (15 rows) the pretrained model is significantly better" in section
    without = rendered(predictions, rows(), more={"label_efficiency": shares(labels=0, scratch={})})
    assert "labels among them" in section
    assert "labels among them" not in without


def test_the_axis_of_intervals_is_logarithmic():
    """3, 30 and 300 are equally far apart; ticks that would touch are left out; no estimates give no plot."""
    near = {"value": 0.5, "low": 0.4, "high": 0.6}
    text = charts.intervals({"a": [(n, near) for n in (3, 30, 290, 300)]}, x="rows", y="accuracy")
    places = {label: float(x) for x, label in re.findall(r'<text x="([\d.]+)"[^>]*>(\d+)</text>', text)}
    assert set(places) == {"3", "30", "300"}
    assert places["300"] - places["30"] == pytest.approx(places["30"] - places["3"], abs=0.2)
    assert charts.intervals({"a": []}, x="x", y="y") == ""
    assert "nan" not in charts.intervals({"a": [(7, near | {"low": float("nan")})]}, x="x", y="y")


@pytest.mark.slow
def test_the_report_opens_in_a_browser(forms, tmp_path, browse):
    """Without a network and without an error: plots and marks have a size, images load, nothing overflows."""
    probe = (
        "<script>addEventListener('load',()=>{const seen=q=>[...document.querySelectorAll(q)];"
        "document.body.dataset.seen=JSON.stringify({plots:seen('svg').every(e=>e.getBoundingClientRect().width>100),"
        "images:seen('img').length>0&&seen('img').every(e=>e.complete&&e.naturalWidth===8),"
        "marks:seen('svg.image rect').every(e=>e.getBoundingClientRect().width>1),"
        "wide:document.documentElement.scrollWidth>innerWidth})})</script>"
    )
    predictions = forms["classes"]()
    cells = [[(row - column) / 8 for column in range(8)] for row in range(8)]
    samples = [Sample(3, "To be, " * 40, "or not to be", "and " * 32)]
    costs = {"pretrain": dict.fromkeys(page.VARYING_COSTS, 0.01)}
    attributions = {mistake.row: cells for mistake in mistakes.worst_mistakes(predictions, 2)}
    more = {"label_efficiency": shares()}
    images = [{"image": png(8)}] * 60
    text = rendered(predictions, images, attributions, samples=samples, costs=costs, more=more)
    file = tmp_path / "report.html"
    file.write_text(text.replace("</body>", probe + "</body>"), encoding="utf-8")
    seen = browse(file.as_uri())
    assert seen.console == []
    (facts,) = re.findall('data-seen="([^"]*)"', seen.dom)
    assert json.loads(unescape(facts)) == {"plots": True, "images": True, "marks": True, "wide": False}
    assert "Evaluation on 60 test rows" in seen.dom
