"""The pages of sweeps and studies."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from html import unescape

import pytest

from pretune.evaluation.metrics.bootstrap import Estimate
from pretune.pages.render import Table
from pretune.studies import charts
from pretune.studies.page import Section, figure, ranking, render_study, render_sweep, short_keys, study_markdown
from pretune.studies.results import SeedResult, TrialResult

NASTY = "<script>alert(1)</script>"
ANSWER = "No: LoRA is as good | within *noise*."


def trial(number, value=0.5, state="complete", note="", seconds=3.0, **point):
    """A trial with two seeds, or with none if it has no value."""
    costs = {"seconds": seconds, "flops": 2.5e9}
    curve = [(step, value - 0.1 / step) for step in (1, 2, 3)]
    seeds = [] if math.isnan(value) else [SeedResult(seed, value, costs, curve) for seed in (0, 1)]
    return TrialResult(number, {"finetune.learning_rate": 0.1 / (number + 1)} | point, state, seeds, note)


def page(trials, **changed):
    """The page of a sweep with these trials."""
    values = {
        "name": "rates", "command": "pretune sweep …", "metric": "accuracy", "higher": True, "trials": trials,
        "estimates": {}, "sentences": ["Trial 1 is best.", "The difference is noise."], "importance": {},
        "commands": {"Apply it": "pretune sweep apply rates"}, "test": None,
    }  # fmt: skip
    return render_sweep(**(values | changed))


def study(make, **changed):
    """A study with a table, a figure with a legend, and a second one of the same name."""
    plot = charts.lines_log({name: [(1, {"value": 1, "low": 0, "high": 2})] for name in ("a", "b")}, "rate", "loss")
    table = Table("Scores", ["a|b", "score"], [["<b>", {"value": 0.5, "low": 0.4, "high": 0.6}], ["c", {}]])
    values = {
        "title": "Must all be tuned?", "question": "Does a_b reach __all__?", "answer": ANSWER,
        "sections": [Section("Methods", "First.\n\n# second", [table], [figure("Cost", plot), figure("Cost", plot)])],
        "commands": ["pretune study adaptation"],
    }  # fmt: skip
    return make(**(values | changed))


def rows(text):
    """The cells of the table of trials, without notes."""
    table = text.split("<h2>Trials</h2>")[1].split("</section>")[0]
    found = [re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL) for row in table.split("<tr")[2:]]
    return [[unescape(re.sub("<[^>]*>", "", cell)) for cell in row] for row in found if len(row) > 2]


@pytest.mark.parametrize("count", [0, 1, 5])
def test_a_sweep_of_any_size_has_a_page_that_stands_alone(count):
    """No script, no other file, the same each time, and each plot is valid XML."""
    trials = [trial(n, 0.5 + n / 10) for n in range(count)]
    text = page(trials)
    assert text == page(trials)
    assert re.findall(r'(?:src|href)="(?!data:)[^"]*"|<script|url\(|@import', text) == []
    plots = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(plots) == (4 if count else 0)
    for plot in plots:
        ET.fromstring(plot)  # noqa: S314
    assert len(rows(text)) == count


def test_all_that_a_user_names_is_escaped():
    """Keys, values, notes, metric, sentences, commands and the names of the test metrics."""
    trials = [trial(0, **{NASTY: NASTY}), trial(1, math.nan, "failed", NASTY)]
    text = page(
        trials, name=NASTY, command=NASTY, metric=NASTY, sentences=[NASTY], importance={NASTY: 1.0},
        commands={NASTY: NASTY}, test={NASTY: NASTY},
    )  # fmt: skip
    assert "<script" not in text
    assert text.count("&lt;script") > 15
    section = Section(NASTY, NASTY, [Table(NASTY, [NASTY], [[NASTY]])], [figure(NASTY, "")])
    values = {"title": NASTY, "question": NASTY, "answer": NASTY, "commands": [NASTY]}
    assert "<script" not in study(render_study, sections=[section], **values)


def test_the_verdict_stands_before_the_table_and_the_commands_stand_last():
    """The first sentence leads."""
    text = page([trial(0)])
    assert '<p class="lead">Trial 1 is best.</p>\n<p>The difference is noise.</p>' in text
    places = [
        text.index(part) for part in ("is best", "<h2>Trials", "<h2>Search", "<h2>Commands", "pretune sweep apply")
    ]
    assert places == sorted(places)


@pytest.mark.parametrize(("higher", "order"), [(True, [1, 0, 4, 3, 2]), (False, [0, 1, 4, 3, 2])])
def test_the_best_trial_comes_first_and_is_marked(higher, order):
    """Then the complete ones by value, the pruned ones, and those without a result; a value of NaN comes last."""
    trials = [trial(0, 0.6), trial(1, 0.7), trial(2, math.nan, "left out"), trial(3, 0.9, "pruned"), trial(4, math.nan)]
    text = page(trials, higher=higher)
    assert [int(row[0]) for row in rows(text)] == order
    assert text.count('class="best" style') == 1
    assert rows(text)[0][2] == "best"
    assert "NaN" not in text
    assert 'class="best" style' not in page([trial(4, math.nan)])
    assert 'class="best" style' not in page([trial(3, 0.9, "pruned")])


def test_an_estimate_counts_instead_of_the_mean():
    """For the order and in the cell; an interval that is not known is left out."""
    trials = [trial(0, 0.6), trial(1, 0.7)]
    estimates = {0: Estimate(0.8, 0.75, 0.85), 1: Estimate(0.7, math.nan, math.nan)}
    assert [one.number for one in ranking(trials, estimates, higher=True)] == [0, 1]
    first, second = rows(page(trials, estimates=estimates))
    assert first[3:] == ["0.8 0.75 to 0.85", "2", "3", "2.5 G"]
    assert second[3] == "0.7"


def test_an_inactive_key_is_a_dash():
    """A trial without the key shows it, and a cost that no trial has makes no column."""
    text = page([trial(0, 0.7, **{"adaptation.settings.r": None}), trial(1, 0.6)])
    assert [row[2] for row in rows(text)] == ["null", "-"]
    assert '<th title="adaptation.settings.r">r</th>' in text
    assert "memory" not in text


def test_a_note_stands_below_its_trial():
    """Why it was pruned, left out or failed."""
    text = page([trial(0), trial(1, math.nan, "left out", "needs 12 GiB, 8 GiB are free")])
    assert "<small>needs 12 GiB, 8 GiB are free</small>" in text
    assert text.count("<small>") == 1


def test_keys_are_shortened_as_far_as_they_differ():
    """The last part, or more of it where two share it."""
    keys = ["pretrain.learning_rate", "finetune.learning_rate", "adaptation.method", "a.b.c", "c"]
    assert short_keys(keys) == ["pretrain.learning_rate", "finetune.learning_rate", "method", "b.c", "c"]


def test_sections_appear_where_there_is_something_to_show():
    """Importance and test rows, if they are known."""
    without, known = page([trial(0)]), page([trial(0)], importance={"a": 0.7, "b": 0.3}, test={"F1": {"value": 0.5}})
    for part in ("fANOVA", "On the test rows"):
        assert part not in without
        assert part in known
    assert '<td>F1</td><td class="number">0.5</td>' in known


def test_a_learning_curve_is_the_mean_over_seeds():
    """At the steps that all seeds have."""
    seeds = [SeedResult(0, 1.0, {}, [(1, 0.0), (2, 1.0), (3, 9.0)]), SeedResult(1, 1.0, {}, [(1, 1.0), (2, 2.0)])]
    text = page([TrialResult(0, {"a": 1}, "complete", seeds)])
    plot = text.split("Learning curves")[1].split("</figure>")[0]
    ticks = [float(tick) for tick in re.findall(r">([\d.]+)</text>", plot)]
    assert {0.4, 1.6} <= set(ticks)  # around 0.5 and 1.5
    assert max(ticks) <= 2  # the steps are 1 and 2
    assert 'class="best"' in plot


def test_quality_against_time_is_logarithmic_where_times_are_far_apart():
    """From a factor of 50 on."""
    near, far = (page([trial(0, seconds=1.0), trial(1, 0.6, seconds=last)]) for last in (40.0, 1000.0))
    ticks = [">1</text>", ">10</text>", ">100</text>", ">1000</text>"]
    assert all(tick in far.split("Quality against time")[1] for tick in ticks)
    assert ticks[3] not in near.split("Quality against time")[1]


def test_a_study_leads_with_its_answer_and_ends_with_it():
    """Sections and commands stand between."""
    text = study(render_study)
    answer = '<p class="lead">No: LoRA is as good | within *noise*.</p>'
    assert text.count(answer) == 2
    assert text.index(answer) < text.index("<h2>Methods") < text.index("<h2>Commands") < text.index("<h2>Answer")
    assert re.sub(r"\s|</\w+>", "", text).endswith(re.sub(r"\s|</\w+>", "", answer))
    assert "<p>First.</p>\n<p># second</p>" in text
    assert "Commands" not in study(render_study, commands=[])


def test_a_study_is_the_same_as_markdown():
    """Tables and texts keep their meaning; each figure is a file of its own name."""
    text, files = study(study_markdown)
    assert text.startswith(
        "# Must all be tuned?\n\nDoes a_b reach \\_\\_all\\_\\_?\n\n**No: LoRA is as good \\| within"
    )
    assert text.endswith("## Answer\n\n**No: LoRA is as good \\| within \\*noise\\*.**\n")
    assert "First.\n\n\\# second\n" in text
    assert "| a\\|b | score |\n| --- | ---: |\n| &lt;b&gt; | 0.5 (0.4 to 0.6) |\n| c | - |\n" in text
    assert "```sh\npretune study adaptation\n```" in text
    assert list(files) == ["must-all-be-tuned-cost.svg", "must-all-be-tuned-cost-2.svg"]
    for name, svg in files.items():
        assert f"![Cost]({name})" in text
        assert ET.fromstring(svg).tag.endswith("svg")  # noqa: S314


def test_a_numbered_line_stays_a_line_in_markdown():
    """It would else become a list."""
    section = Section("S", "1. not a list\n- nor this")
    assert "1\\. not a list\n\\- nor this" in study(study_markdown, sections=[section])[0]
