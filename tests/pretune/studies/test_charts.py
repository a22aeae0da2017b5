"""The plots of sweeps and studies."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET

import pytest

from pretune.evaluation.report.charts import lines
from pretune.studies import charts
from pretune.studies.drawing import DecadeAxis, standalone

NASTY = '<script>"&'
TRIALS = [
    ({"lr": 1e-5, "method": "full"}, 0.7),
    ({"lr": 1e-3, "method": "lora", "settings.r": 4}, 0.9),
    ({"lr": 1e-4, "method": "head"}, 0.8),
]


def parsed(chart):
    """The chart as a tree; it has no number that is none."""
    assert "nan" not in re.sub(r"<title>.*?</title>|<text.*?</text>", "", chart)
    return ET.fromstring(f"<div>{chart}</div>")  # noqa: S314


def texts(chart):
    """What is written in a chart, without its tooltips."""
    return ["".join(text.itertext()) for text in parsed(chart).iter("text")]


def place(chart, text):
    """Where a text stands: x, y."""
    found = next(one for one in parsed(chart).iter("text") if "".join(one.itertext()) == text)
    return float(found.get("x")), float(found.get("y"))


def numbers(path):
    """The places of a path: x, y."""
    return [tuple(map(float, pair.split())) for pair in path.get("d").removeprefix("M").split("L")]


def coordinate_lines(chart):
    """The lines of trials, in the order in which they are drawn."""
    return [path for path in parsed(chart).iter("path") if (path.findtext("title") or "").startswith("accuracy")]


def drawn_with(name, value):
    """Each chart with one name and one value in it."""
    return {
        "parallel": charts.parallel_coordinates([({name: name, "n": 1}, value), ({name: "b"}, 0.5)], name, higher=True),
        "bars": charts.bars({name: (value, value, 1.0), "b": (0.5, None, None)}, name),
        "history": charts.history([(0, value, "complete"), (1, 0.5, name)], name, higher=True),
        "curves": charts.curves({name: [(1, value), (2, 0.5)], "b": [(1, 0.2)]}, x=name, y=name, best="b"),
        "scatter": charts.scatter_labelled([(1.0, value, name), (2.0, 0.5, name)], name, name, log_x=True),
        "lines": charts.lines_log(
            {name: [(1.0, {"value": value, "low": value, "high": 1.0}), (2.0, {"value": 0.1, "low": 0, "high": 1})]},
            name,
            name,
        ),
    }


@pytest.mark.parametrize("chart", ["parallel", "bars", "history", "curves", "scatter", "lines"])
@pytest.mark.parametrize("value", [0.7, math.nan, math.inf])
def test_each_chart_is_valid_xml_with_escaped_names(chart, value):
    """Whatever a name holds, and where a value is no number."""
    drawn = drawn_with(NASTY, value)[chart]
    assert parsed(drawn).find("svg") is not None
    assert "<script" not in drawn
    assert "&lt;script" in drawn


def test_nothing_to_show_is_an_empty_chart():
    """No trials, no bars, no points."""
    nan = math.nan
    assert charts.parallel_coordinates([], "accuracy", higher=True) == ""
    assert charts.parallel_coordinates([({}, 0.5)], "accuracy", higher=True) == ""
    assert charts.bars({}, "x") == charts.history([], "accuracy", higher=True) == ""
    assert charts.curves({"a": [(1, nan)]}, x="x", y="y", best="a") == ""
    assert charts.scatter_labelled([(nan, 1.0, "a")], "x", "y") == ""
    assert charts.lines_log({"a": [(0.0, {"value": 1, "low": 1, "high": 1})]}, "x", "y") == ""


def test_a_single_trial_is_drawn():
    """One point, one value: no division by a range of zero."""
    assert len(coordinate_lines(charts.parallel_coordinates([({"lr": 0.1}, 0.5)], "accuracy", higher=True))) == 1
    assert parsed(charts.history([(3, 0.5, "complete")], "accuracy", higher=True)).find(".//circle") is not None
    assert parsed(charts.scatter_labelled([(3, 0.5, "a")], "x", "y", log_x=True)).find(".//circle") is not None
    assert "a" in texts(charts.scatter_labelled([(3, 0.5, "a")], "x", "y", log_x=True))


@pytest.mark.parametrize(("higher", "best"), [(True, 0.9), (False, 0.7)])
def test_the_best_line_is_drawn_last_and_thicker(higher, best):
    """In the direction of the metric; the others by rank."""
    drawn = coordinate_lines(charts.parallel_coordinates(TRIALS, "accuracy", higher=higher))
    assert [line.get("class") for line in drawn] == [None, None, "best"]
    assert drawn[-1].findtext("title").startswith(f"accuracy {best}: ")
    assert float(drawn[-1].get("stroke-width")) > float(drawn[0].get("stroke-width"))


def test_a_trial_without_a_result_is_never_the_best():
    """Its line is dashed, ends at "none", and is drawn before the others."""
    chart = charts.parallel_coordinates([*TRIALS, ({"lr": 1e-2, "method": "full"}, math.nan)], "accuracy", higher=False)
    first, *_, last = coordinate_lines(chart)
    assert first.get("stroke-dasharray")
    assert numbers(first)[-1][1] > max(numbers(last)[-1][1], 300)
    assert last.findtext("title").startswith("accuracy 0.7")
    alone = coordinate_lines(charts.parallel_coordinates([({"a": 1}, math.nan)], "accuracy", higher=True))
    assert [line.get("class") for line in alone] == [None]


def test_an_inactive_key_lies_at_none():
    """Below the axis of the key, which alone has the mark."""
    chart = charts.parallel_coordinates(TRIALS, "accuracy", higher=True)
    assert texts(chart).count("none") == 1
    full, head, lora = (numbers(line) for line in coordinate_lines(chart))
    x, y = place(chart, "none")
    assert full[2][1] == head[2][1] == y - 4 == 322
    assert lora[2][1] <= 300
    assert x < full[2][0] < x + 20


def test_numbers_far_apart_lie_on_a_logarithmic_axis():
    """50 times apart and above 0; others on a linear one, which shows few values as they are."""

    def heights(values):
        drawn = charts.parallel_coordinates(
            [({"k": v}, float(n)) for n, v in enumerate(values)], "accuracy", higher=True
        )
        return [numbers(line)[0][1] for line in coordinate_lines(drawn)]

    low, middle, high = heights([1e-5, 1e-4, 1e-3])
    assert low - middle == pytest.approx(middle - high, abs=0.2)
    for values in ([1, 10, 49], [0, 10, 490], [-1, 10, 490]):
        low, middle, high = heights(values)
        assert low - middle < (middle - high) / 2
    ticks = texts(charts.parallel_coordinates([({"k": v}, 0.1) for v in (8, 16, 32)], "accuracy", higher=True))
    assert {"8", "16", "32"} <= set(ticks)


def test_values_that_are_no_numbers_have_names():
    """Each its own place, written as in YAML; a list and a null are values like others."""
    values = [True, False, None, "lora", [1, 2]]
    chart = charts.parallel_coordinates([({"k": value}, 0.1) for value in values], "accuracy", higher=True)
    assert {"true", "false", "null", "lora", "[1, 2]"} <= set(texts(chart))
    assert "none" not in texts(chart)
    assert len({numbers(line)[0] for line in coordinate_lines(chart)}) == 5


def test_many_long_keys_do_not_touch():
    """Twenty axes: each name is shortened to its room, and its tooltip has all of it."""
    keys = [f"section{n}.settings.a_rather_long_parameter_name_{n}" for n in range(20)]
    chart = charts.parallel_coordinates([(dict.fromkeys(keys, 1), 0.5)], "accuracy", higher=True)
    titles = [one for one in parsed(chart).iter("text") if one.get("font-weight")]
    room = float(titles[1].get("x")) - float(titles[0].get("x"))
    assert max(len(one.text) for one in titles) * 6 < room
    assert keys[19] in [title.text for title in parsed(chart).iter("title")]
    assert titles[19].text.endswith("name_19")


def test_history_marks_states_and_follows_the_best_complete_trial():
    """A pruned trial never counts as the best; one without a value stands at the foot."""
    trials = [
        (0, 0.5, "complete"),
        (1, 0.9, "pruned"),
        (2, 0.7, "complete"),
        (3, 0.6, "complete"),
        (4, math.nan, "failed"),
    ]
    chart = charts.history(trials, "accuracy", higher=True)
    steps = next(
        path for path in parsed(chart).iter("path") if (path.findtext("title") or "").startswith("best so far")
    )
    assert steps.findtext("title") == "best so far: 0.7"
    assert len(set(re.findall(r"V([\d.]+)", steps.get("d")))) == 1  # from 0.5 up to 0.7 only
    assert {"complete", "pruned", "failed"} <= set(texts(chart))
    assert "left out" not in texts(chart)
    assert "trial 4, failed" in [title.text for title in parsed(chart).iter("title")]
    lowest = charts.history(trials, "loss", higher=False)
    assert "best so far: 0.5" in lowest
    assert "best so far:" not in charts.history([(0, math.nan, "failed")], "loss", higher=False)


def test_bars_start_at_zero_and_have_whiskers_where_an_interval_is_known():
    """A negative value goes to the left; a missing one is a dash."""
    chart = charts.bars({"a": (0.5, 0.4, 0.6), "b": (-0.5, None, None), "c": (math.nan, None, None)}, "gain")
    first, second = parsed(chart).iter("rect")
    assert float(first.get("width")) == pytest.approx(float(second.get("width")), abs=0.2)
    assert float(second.get("x")) + float(second.get("width")) == pytest.approx(float(first.get("x")), abs=0.2)
    assert len([path for path in parsed(chart).iter("path") if path.get("class") == "whisker"]) == 1
    assert {"0.5", "-0.5", "-", "a", "b", "c"} <= set(texts(chart))


def test_curves_name_the_best_and_twelve_others():
    """The best is drawn last; the rest is counted."""
    series = {f"trial {n}": [(1.0, n / 20), (2.0, n / 10)] for n in range(16)}
    chart = charts.curves(series, x="step", y="accuracy", best="trial 5")
    named = [text for text in texts(chart) if text.startswith("trial")]
    assert named == ["trial 5", *(f"trial {n}" for n in range(13) if n != 5)]
    assert "3 more" in texts(chart)
    drawn = [path.findtext("title") for path in parsed(chart).iter("path") if path.find("title") is not None]
    assert len(drawn) == 16
    assert drawn[-1] == "trial 5"
    assert "more" not in "".join(texts(charts.curves({"a": [(1, 1)]}, x="x", y="y", best="")))


def front(chart):
    """Names of the points on the front, by their colour."""
    dots = list(parsed(chart).iter("circle"))
    return {dot.findtext("title").split(":")[0] for dot in dots if dot.get("fill") == "#2563a8"}


def test_the_pareto_front_holds_what_no_other_point_beats():
    """Cheaper, or better: of equally expensive points the better one; a lower y may be the better one."""
    points = [(1, 0.5, "a"), (2, 0.4, "b"), (2, 0.7, "c"), (3, 0.7, "d"), (4, 0.9, "e")]
    assert front(charts.scatter_labelled(points, "seconds", "accuracy")) == {"a", "c", "e"}
    assert front(charts.scatter_labelled(points, "seconds", "loss", higher=False)) == {"a", "b"}


def test_names_in_a_scatter_plot_never_touch():
    """Forty points in one place: names without room are left out, and each tooltip has its own."""
    points = [(10 + n / 100, 0.5 + n / 1000, f"method {n}") for n in range(40)] + [(1, 0.1, "far"), (20, 0.9, "up")]
    chart = charts.scatter_labelled(points, "seconds", "accuracy")
    labels = [one for one in parsed(chart).iter("text") if one.get("class") == "label"]
    assert {"far", "up"} <= {one.text for one in labels}
    assert 2 < len(labels) < len(points)
    boxes = []
    for one in labels:
        width = 6 * len(one.text)
        left = float(one.get("x")) - width * {"start": 0, "middle": 0.5, "end": 1}[one.get("text-anchor")]
        boxes.append((left, float(one.get("y")), left + width))
    for number, (left, y, right) in enumerate(boxes):
        assert all(right <= a or c <= left or abs(y - b) >= 10 for a, b, c in boxes[:number])
    assert len([dot for dot in parsed(chart).iter("circle") if dot.findtext("title")]) == 42


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([1e-5, 1e-3], [1e-5, 1e-4, 1e-3]),
        ([3.0, 30.0], [5, 10, 20]),
        ([7.0, 7.0], [5, 10]),
        ([1e-12, 1e12], [1e-12, 1e-7, 1e-2, 1e3, 1e8]),
        ([5.1, 5.2], [5.1, 5.2]),
        ([], [0.5, 1, 2]),
    ],
)
def test_a_logarithmic_axis_has_round_ticks_with_room(values, ticks):
    """As many as have room, in both directions of pixels; the ends where nothing round lies between them."""
    for start, end in ((52, 334), (334, 52)):
        axis = DecadeAxis(values, start, end)
        assert axis.ticks == pytest.approx(ticks)
        assert all(52 <= axis(tick) <= 334 for tick in axis.ticks)


def test_lines_on_a_logarithmic_axis_keep_their_intervals():
    """A whisker for each estimate; decades are equally far apart."""
    points = [(rate, {"value": 0.5, "low": 0.4, "high": 0.6}) for rate in (1e-5, 1e-4, 1e-3)]
    chart = charts.lines_log({"finetune": points}, "learning rate", "accuracy")
    assert chart.count('stroke-opacity=".35"') == 3
    first, second, third = (place(chart, text)[0] for text in ("1e-5", "0.0001", "0.001"))
    assert second - first == pytest.approx(third - second, abs=0.2)


def test_a_file_of_a_chart_stands_alone():
    """It has a namespace, a style, a ground, and the legend that a page shows below it."""
    file = standalone(lines({NASTY: [(1.0, 2.0), (2.0, 3.0)], "b": [(1.0, 1.0)]}, x="x", y="y"))
    root = ET.fromstring(file)  # noqa: S314
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    written = ["".join(text.itertext()) for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {NASTY, "b"} <= set(written)
    assert float(root.get("height")) > 260
    assert "Canvas" not in standalone(charts.parallel_coordinates(TRIALS, "accuracy", higher=True))
