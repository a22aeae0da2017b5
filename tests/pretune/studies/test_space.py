from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretune.errors import ParamsError
from pretune.studies import space as spaces
from pretune.studies.expressions import ALLOWED

CONDITIONAL = [
    "adaptation.settings.r=4,8 if adaptation.method=lora,dora",
    "adaptation.method=full,lora,dora",
    "adaptation.settings.bias=none,all if adaptation.settings.r=8",
    "finetune.epochs=1,2",
]


class FirstOrLast:
    """Stands in for a trial of Optuna: takes the last of the choices, the highest number; or the first, the lowest."""

    def __init__(self, at, fixed=None):
        self.at, self.fixed, self.asked = at, fixed or {}, []

    def suggest_categorical(self, name, choices):
        assert all(choice is None or isinstance(choice, (bool, int, float, str)) for choice in choices)
        self.asked.append(name)
        return self.fixed.get(name, choices[self.at])

    def suggest_float(self, name, low, high, *, log=False):
        self.asked.append(name)
        return self.fixed.get(name, (low, high)[self.at])

    suggest_int = suggest_float


def problems(call, *arguments):
    """The problems with which a call is refused."""
    with pytest.raises(ParamsError) as caught:
        call(*arguments)
    assert "pretune sweep --help" in caught.value.next_step
    return caught.value.problems


def test_keys_come_after_those_they_depend_on():
    """Otherwise they keep the order in which they were given."""
    expected = ("adaptation.method", "adaptation.settings.r", "adaptation.settings.bias", "finetune.epochs")
    assert spaces.parse(CONDITIONAL).keys == expected


def test_a_grid_holds_each_point_once_and_no_inactive_key():
    """The last key changes fastest; a key whose condition does not hold is absent, and so are those that need it."""
    short = [
        (point["adaptation.method"], point.get("adaptation.settings.r"), point.get("adaptation.settings.bias"))
        for point in spaces.parse(CONDITIONAL).grid()
    ]
    one = [("full", None, None)]
    for method in ("lora", "dora"):
        one += [(method, 4, None), (method, 8, "none"), (method, 8, "all")]
    assert short == [row for row in one for _ in range(2)]
    assert [point["finetune.epochs"] for point in spaces.parse(CONDITIONAL).grid()] == [1, 2] * 7


@st.composite
def finite_spaces(draw):
    """Assignments of up to five keys, each of which may depend on an earlier one."""
    sizes = draw(st.lists(st.integers(1, 3), min_size=1, max_size=5))
    lines = []
    for index, size in enumerate(sizes):
        line = f"k{index}={','.join(map(str, range(size)))}"
        if index and draw(st.booleans()):
            other = draw(st.integers(0, index - 1))
            line += f" if k{other}={draw(st.integers(0, sizes[other] - 1))}"
        lines.append(line)
    return draw(st.permutations(lines))


@given(finite_spaces())
def test_grids_are_distinct_complete_and_within_the_space(lines):
    """Each point has exactly its active keys; the space contains it; a trial with its values suggests it."""
    space = spaces.parse(lines)
    grid = space.grid()
    assert len({str(sorted(point.items())) for point in grid}) == len(grid)
    assert list(space.corners()) == grid
    for point in grid:
        assert [key for key in space.keys if space.active(key, point)] == list(point)
        assert space.contains(point)
        assert space.suggest(FirstOrLast(0, space.encoded(point))) == point


def test_a_grid_needs_a_number_of_points_of_each_range():
    """All ranges without one are named."""
    space = spaces.parse(["a=1..2", "b=int:1..9/3", "c=int:1..9"])
    assert not space.is_finite
    assert [line.partition(":")[0] for line in problems(space.grid)] == ["a", "c"]
    assert spaces.parse(["b=int:1..9/3"]).is_finite


def test_a_grid_without_measure_is_refused():
    """Before it fills the memory."""
    space = spaces.parse([f"k{index}=0..1/100" for index in range(4)])
    with pytest.raises(ParamsError, match="more than 100,000 points"):
        space.grid()


@pytest.mark.parametrize(("at", "last"), [(0, False), (-1, True)])
def test_a_trial_is_asked_for_active_keys_only(at, last):
    """In the order of the space; conditions see what was suggested before."""
    trial = FirstOrLast(at)
    point = spaces.parse([*CONDITIONAL, "x=log:1e-5..1e-3", "y=int:2..8"]).suggest(trial)
    assert trial.asked == list(point)
    assert point["x"] == (1e-3 if last else 1e-5)
    assert point["y"] == (8 if last else 2)
    assert ("adaptation.settings.bias" in point) is last


@pytest.mark.parametrize("values", ["1,true,1.5", "[1],'[1]'", "[a],{a: 1},null,x", "'1',1", "false,0"])
def test_every_choice_can_be_suggested(values):
    """Lists and mappings are texts for Optuna, and values that are equal in Python are told apart."""
    space = spaces.parse([f"k={values}"])
    for point in space.grid():
        found = space.suggest(FirstOrLast(0, space.encoded(point)))
        assert repr(found) == repr(point)


def test_few_corners_are_all_combinations():
    """Of listed values and ends of ranges."""
    corners = list(spaces.parse(["a=1,2,3", "b=0..1", "c=int:2..8/4 if a=1"]).corners())
    assert len(corners) == 2 * 2 + 2 * 2
    assert {point["b"] for point in corners} == {0.0, 1.0}
    assert {point["c"] for point in corners if "c" in point} == {2, 8}


def test_many_corners_are_covered():
    """Each value of each key occurs, also those with conditions upon conditions, and no point twice."""
    lines = [f"k{index}=0,1,2" for index in range(6)]
    space = spaces.parse([*lines, "deep=5,6 if mid=1", "mid=0,1 if k3=2"])
    corners = list(space.corners())
    assert len(corners) <= 512
    assert all(space.contains(point) for point in corners)
    assert len({str(point) for point in corners}) == len(corners)
    for key, dimension in space.dimensions.items():
        assert {point[key] for point in corners if key in point} == set(dimension.values)


def test_a_space_contains_points_that_it_could_suggest():
    """Active keys have a value of theirs; inactive ones do not matter; other keys are foreign."""
    space = spaces.parse(CONDITIONAL)
    assert space.contains({"adaptation.method": "full", "finetune.epochs": 2, "adaptation.settings.r": 99})
    assert not space.contains({"adaptation.method": "lora", "finetune.epochs": 2})
    assert not space.contains({"adaptation.method": "full", "finetune.epochs": 3})
    assert not space.contains({"adaptation.method": "full", "finetune.epochs": 1, "seed": 1})


def test_all_problems_of_a_command_line_are_listed():
    """Of assignments, conditions and constraints."""
    lines = [
        "a",
        "=1",
        "b=3..1",
        "b=1",
        "c=1 if d=2",
        "e=1,2",
        "f=1 if e=3",
        "e.x=1",
        "g=x if method=lroa",
        "method=lora",
    ]
    found = problems(spaces.parse, lines, ["len(a) > 1"])
    assert found == [
        "a: write it as KEY=VALUES, as finetune.epochs=2,4",
        "=1: write it as KEY=VALUES, as finetune.epochs=2,4",
        "b: 3 is not below 1",
        "b: stands twice",
        f"constraint len(a) > 1: `len(a)` is not allowed; allowed are {ALLOWED}",
        "c: its condition names d, which is no key of the space",
        "f: e is never 3",
        "e.x: lies in e; vary one of them",
        "g: method is never lroa (did you mean lora?)",
    ]


def test_conditions_in_a_circle_are_refused():
    """Nobody could say which key comes first."""
    found = problems(spaces.parse, ["a=1 if b=1", "b=1 if c=1", "c=1 if a=1", "d=1"])
    assert found == ["a, b, c: their conditions depend on each other in a circle"]
    assert problems(spaces.parse, ["a=1 if a=1"]) == ["a: their conditions depend on each other in a circle"]
    assert problems(spaces.parse, []) == ["the space has no keys"]


def test_a_file_describes_the_same_space_as_a_command_line():
    """Values of YAML or specifications; other keys of the file are for others."""
    content = {
        "space": {"a": ["x", "y"], "b": "int:2..8 if a=x", "c": 3},
        "constraints": ["c * 2 <= 8"],
        "sampler": "grid",
    }
    assert spaces.from_file(content) == spaces.parse(["a=x,y", "b=int:2..8 if a=x", "c=3"], ["c * 2 <= 8"])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({}, "space: a sweep file needs"),
        ({"space": ["a"]}, "space: a sweep file needs"),
        ({"space": {}}, "the space has no keys"),
        ({"space": {"a": []}}, "a: it has no values"),
        ({"space": {"a": 1}, "constraints": "a > 1"}, "constraints: a list"),
        ({"space": {"a": 1}, "constraints": [True]}, "constraints: a list"),
    ],
)
def test_a_file_of_another_form_is_refused(content, reason):
    """The message says which form it needs."""
    found = problems(spaces.from_file, content)
    assert len(found) == 1
    assert reason in found[0]


def test_constraints_see_the_point_and_params_yaml():
    """A key that the point lacks has its value in params.yaml; without any, the constraint does not apply."""
    params = {"finetune": {"batch_size": 8, "rate": 0.5}, "adaptation": {"method": "full", "settings": {"r": 2}}}
    texts = ["finetune.batch_size * k <= 64", "k < finetune.rate", "adaptation.settings.r > 8"]
    space = spaces.parse(["k=1,9", "adaptation.method=full,lora"], texts)
    assert space.violated({"k": 9}, params) == texts
    assert space.violated({"k": 0}, params) == texts[2:]
    assert space.violated({"k": 0, "adaptation.method": "lora"}, params) == []


def test_a_good_space_passes(params_file):
    """Also with settings that params.yaml lacks, and with corners that only constraints exclude."""
    lines = ["finetune.batch_size=8,16", "finetune.gradient_accumulation_steps=1,16", *CONDITIONAL]
    spaces.check(spaces.parse(lines, ["finetune.batch_size >= finetune.gradient_accumulation_steps"]), params_file)
    spaces.check(spaces.parse(["finetune.learning_rate=log:1e-5..1e-3", "finetune.batch_size=int:1..8"]), params_file)


def test_all_problems_of_a_space_are_listed_once(params_file):
    """Unknown keys with the nearest one, values that the schema refuses with the first point that has them."""
    lines = [
        "finetune.lerning_rate=1,2",
        "finetune.epochs=-1,1",
        "finetune.batch_size=8..64",
        "pretrain.schedule=linear,cosin",
    ]
    texts = ["finetune.bach_size > 1", "pretrain.schedule == linear", "pretrain.schedule < 3"]
    found = problems(spaces.check, spaces.parse(lines, texts), params_file)
    starts = [
        "finetune.lerning_rate: no such key (did you mean finetune.learning_rate?)",
        "constraint finetune.bach_size > 1: finetune.bach_size is neither in params.yaml nor in",
        "constraint pretrain.schedule == linear: linear is neither in params.yaml nor in the space; a text",
        "constraint pretrain.schedule < 3: 'linear' and 3 cannot be compared (at finetune.epochs=-1",
        "finetune.epochs: input should be greater than or equal to 0, got -1 (at finetune.epochs=-1",
        "finetune.batch_size: input should be a valid integer, got 8.0; write int:LOW..HIGH for whole numbers (at ",
        "finetune.batch_size: input should be a valid integer, got 64.0",
        "constraint pretrain.schedule < 3: 'cosin' and 3 cannot be compared",
        "pretrain.schedule: input should be 'constant'",
    ]
    missing = [start for start in starts if not any(line.startswith(start) for line in found)]
    assert missing == []
    assert len(found) == len(starts)


def test_keys_that_do_not_fit_together_are_refused_with_their_point(params_file):
    """Each value alone is fine; the message names the point where they meet."""
    space = spaces.parse(["finetune.batch_size=8,16", "finetune.gradient_accumulation_steps=1,16"])
    point = "finetune.batch_size=8 finetune.gradient_accumulation_steps=16"
    assert problems(spaces.check, space, params_file) == [
        f"finetune: batch_size 8 must be a multiple of gradient_accumulation_steps 16 (at {point})"
    ]


def test_a_wrong_value_that_constraints_exclude_is_still_reported(params_file):
    """It was meant to be tried."""
    space = spaces.parse(["finetune.epochs=-1,1"], ["finetune.epochs > 0"])
    assert len(problems(spaces.check, space, params_file)) == 1


def test_a_finite_space_without_a_point_is_refused(params_file):
    """Of an endless one nobody knows."""
    texts = ["finetune.epochs > 5", "seed < 3"]
    finite = spaces.parse(["finetune.epochs=1,2"], texts)
    found = problems(spaces.check, finite, params_file)
    assert found == ["no point meets the constraints: finetune.epochs > 5; seed < 3"]
    spaces.check(spaces.parse(["finetune.epochs=int:1..2"], texts), params_file)
