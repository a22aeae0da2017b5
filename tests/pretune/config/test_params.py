from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretune.config import files, params
from pretune.config import params as module
from pretune.config.params import restrict_params
from pretune.errors import ParamsError, UndeclaredInputError


@pytest.fixture
def check(params_file, tmp_path):
    """Write params.yaml with a text replaced, load it, and return the problems found."""

    def problems(*changes):
        text = params_file.read_text(encoding="utf-8")
        for old, new in changes:
            assert old in text
            text = text.replace(old, new, 1)
        path = tmp_path / "params.yaml"
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ParamsError) as caught:
            params.load(path)
        return caught.value.problems

    return problems


def test_the_shipped_file_is_valid(root):
    """The repository's own params.yaml loads, with the types of the schema."""
    loaded = params.load(root / "params.yaml")
    assert isinstance(loaded.pretrain.learning_rate, float)
    assert loaded.pretrain.objective == "masked_lm"


def test_all_problems_are_listed_at_once(check):
    """Three mistakes in three sections give three problems, each with its dotted path."""
    found = check(
        ("seed: 0", "seed: -1"), ("steps: 1200", "steps: many"), ("bootstrap_samples: 2000", "bootstrap_samples: 1")
    )
    assert sorted(line.split(":")[0] for line in found) == ["evaluate.bootstrap_samples", "pretrain.steps", "seed"]


@pytest.mark.parametrize("share", ["0", "-0.1", "1.5", "five", ".nan"])
def test_a_share_of_labels_is_above_0_and_at_most_1(check, share):
    """Its place in the list is told; what is given twice counts once, and all rows ask for no training."""
    (line,) = check(("shares: [] ", f"shares: [0.5, {share}] "))
    assert line.startswith("label_efficiency.shares.1: ")
    section = module.LabelEfficiencyParams(shares=[0.5, 1, 0.05, 0.5])
    assert section.partial == [0.05, 0.5]


def test_a_share_without_a_row_is_refused_before_any_stage(check):
    """Where `prepare.train_rows` says how many there can be at most."""
    (line,) = check(("shares: [] ", "shares: [0.001, 0.01] "))
    assert line == "params.yaml: label_efficiency.shares: 0.001 of prepare.train_rows 300 is no row"


def test_an_unknown_key_names_the_nearest(check):
    """A misspelt key is refused with a suggestion; the key that is now missing is listed too."""
    found = check(("warmup: 0.1 ", "warm_up: 0.1 "))
    assert "pretrain.warm_up: unknown key (did you mean warmup?)" in found
    assert any(line.startswith("pretrain.warmup: missing") for line in found)


def test_an_unknown_section_names_the_nearest(check):
    """A misspelt section is refused with a suggestion."""
    assert "fine_tune: unknown key (did you mean finetune?)" in check(("finetune:", "fine_tune:"))


def test_a_wrong_choice_names_the_nearest(check):
    """A value that is none of the allowed words shows what is allowed and the nearest of them."""
    (line,) = check(("optimizer: muon", "optimizer: muun"))
    assert line.startswith("pretrain.optimizer:")
    assert "adamw" in line
    assert "did you mean muon?" in line


@pytest.mark.parametrize(
    ("old", "new", "path"),
    [
        ("seed: 0", "seed: 1.5", "seed"),
        ("seed: 0", "seed: true", "seed"),
        ("threads: 2", "threads: two", "threads"),
        ("source: pydocs", "source: 7", "ingest.source"),
        ("objective: masked_lm", "objective: [masked_lm]", "pretrain.objective"),
        ("settings: {}", "settings: 3", "finetune.settings"),
        ("init: null", "init: 5", "model.init"),
        ("vocabulary_size: 4096", "vocabulary_size: null", "prepare.vocabulary_size"),
        ("gradient_checkpointing: false", "gradient_checkpointing: 1", "pretrain.gradient_checkpointing"),
        ("compile: false", "compile: 'false'", "pretrain.compile"),
        ("warmup: 0.1", "warmup: true", "pretrain.warmup"),
        ("max_skipped_steps: 3", "max_skipped_steps: 0.5", "pretrain.max_skipped_steps"),
        ("nodes: 1", "nodes: true", "launch.nodes"),
    ],
)
def test_a_wrong_type_is_refused(check, old, new, path):
    """Types are not coerced: the problem names the path and the value."""
    (line,) = check((old, new))
    assert line.startswith(f"{path}: ")
    assert "got " in line


@pytest.mark.parametrize(
    ("old", "new", "path"),
    [
        ("seed: 0", "seed: 4294967296", "seed"),
        ("vocabulary_size: 4096", "vocabulary_size: 1048577", "prepare.vocabulary_size"),
        ("learning_rate: 5e-3", "learning_rate: .nan", "pretrain.learning_rate"),
        ("gradient_clip: 1.0", "gradient_clip: .inf", "pretrain.gradient_clip"),
        ("sequence_length: 64", "sequence_length: 7", "pretrain.sequence_length"),
        ("warmup: 0.1", "warmup: -0.1", "pretrain.warmup"),
    ],
)
def test_a_value_out_of_range_is_refused(check, old, new, path):
    """The problem names the path, the bound and the value."""
    (line,) = check((old, new))
    assert line.startswith(f"{path}: ")
    assert "got " in line


@pytest.fixture
def problems(params_file):
    """A function that sets values by dotted path and returns the problems found: one line each, none if it is valid."""

    def find(changes):
        data = files.read_yaml(params_file)
        for dotted, value in changes.items():
            *sections, key = dotted.split(".")
            node = data
            for section in sections:
                node = node[section]
            assert key in node
            node[key] = value
        try:
            params.validate(data)
        except ParamsError as error:
            return error.problems
        return []

    return find


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"pretrain.gradient_accumulation_steps": 5},
            "pretrain: batch_size 32 must be a multiple of gradient_accumulation_steps 5",
        ),
        (
            {"finetune.gradient_accumulation_steps": 3},
            "finetune: batch_size 16 must be a multiple of gradient_accumulation_steps 3",
        ),
        ({"launch.processes": 5}, "pretrain.batch_size 32 must be a multiple of 5 "),
        ({"launch.processes": 32}, "finetune.batch_size 16 must be a multiple of 32 "),
        (
            {"pretrain.gradient_accumulation_steps": 4, "launch.processes": 4, "launch.nodes": 4},
            "must be a multiple of 64 ",
        ),
        (
            {"finetune.metric_for_best_model": "loss", "finetune.evaluate_every": 0},
            "finetune: metric_for_best_model `loss` needs evaluate_every",
        ),
        (
            {"pretrain.metric_for_best_model": "loss", "pretrain.evaluate_every": 0},
            "pretrain: metric_for_best_model `loss` needs evaluate_every",
        ),
        ({"finetune.patience": 2}, "finetune: patience 2 needs metric_for_best_model"),
        ({"pretrain.warmup": 1.5}, "pretrain: warmup 1.5 must be a share below 1 or a whole number of steps"),
        ({"launch.strategy": "fsdp"}, "pretrain.optimizer muon needs whole matrices"),
        ({"pretrain.validation_rows": 0}, "pretrain.evaluate_every needs pretrain.validation_rows"),
        ({"prepare.validation_rows": 0}, "finetune.evaluate_every needs prepare.validation_rows"),
    ],
    ids=str,
)
def test_keys_that_do_not_fit_together_are_refused(problems, changes, expected):
    """One line that names the keys and their values."""
    (line,) = problems(changes)
    assert expected in line


@pytest.mark.parametrize(
    "changes",
    [
        {
            "pretrain.gradient_accumulation_steps": 8,
            "launch.processes": 2,
            "launch.nodes": 2,
            "finetune.batch_size": 64,
        },
        {"launch.strategy": "fsdp", "pretrain.optimizer": "adamw"},
        {"finetune.metric_for_best_model": "accuracy", "finetune.patience": 3},
        {"pretrain.metric_for_best_model": "loss", "pretrain.patience": 1},
        {"pretrain.evaluate_every": 0, "pretrain.validation_rows": 0},
        {"finetune.evaluate_every": 0, "prepare.validation_rows": 0},
        {"launch.rendezvous": "node-1.example.org:1234"},
    ],
    ids=str,
)
def test_keys_that_fit_together_are_allowed(problems, changes):
    """The rules refuse no more than they say."""
    assert problems(changes) == []


@pytest.mark.parametrize("warmup", [0, 0.0, 0.5, 0.999, 1, 1.0, 30, 1000.0])
def test_the_warmup_is_a_share_or_a_number_of_steps(problems, warmup):
    """Below one a share, from one on whole steps; written with or without a point."""
    assert problems({"pretrain.warmup": warmup}) == []


def test_every_problem_of_a_level_is_told_at_once(problems):
    """Values out of range and sections that do not fit in themselves; then, these mended, sections among each other."""
    inside = problems(
        {
            "seed": -1,
            "finetune.gradient_accumulation_steps": 3,
            "finetune.patience": 2,
            "pretrain.warmup": 1.5,
            "launch.nodes": 0,
        }
    )
    assert sorted(line.split(":")[0] for line in inside) == ["finetune", "launch.nodes", "pretrain", "seed"]
    (both,) = [line for line in inside if line.startswith("finetune")]
    assert "gradient_accumulation_steps 3" in both
    assert "patience 2" in both
    (among,) = problems({"launch.processes": 5, "launch.strategy": "fsdp", "prepare.validation_rows": 0})
    for part in (
        "pretrain.batch_size 32",
        "finetune.batch_size 16",
        "pretrain.optimizer muon",
        "prepare.validation_rows",
    ):
        assert part in among


def test_a_missing_key_is_an_error(check):
    """No key has a default that DVC would not see."""
    (line,) = check(("  steps: 1200\n", ""))
    assert line.startswith("pretrain.steps: missing")


def test_no_field_of_the_schema_has_a_default():
    """Every key of every section is required."""
    pending = [params.Params]
    while pending:
        for name, field in pending.pop().model_fields.items():
            assert field.is_required(), name
            if isinstance(field.annotation, type) and issubclass(field.annotation, params.Section):
                pending.append(field.annotation)


def test_exponents_without_a_dot_are_numbers(params_file, tmp_path):
    """`1e-5` is a float, as in YAML 1.2 and for DVC."""
    path = tmp_path / "params.yaml"
    text = params_file.read_text(encoding="utf-8").replace("learning_rate: 5e-3", "learning_rate: 1e-5")
    path.write_text(text, encoding="utf-8")
    assert params.load(path).pretrain.learning_rate == 1e-5


def test_a_quoted_number_draws_a_hint(check):
    """`'1e-5'` is text: the message says to write it without quotes."""
    (line,) = check(("learning_rate: 5e-3", "learning_rate: '1e-5'"))
    assert "`1e-5` is text here: write it without quotes" in line


@pytest.mark.parametrize(
    ("text", "line"),
    [("seed: 0\ningest: [1\n", "line 3"), ("seed: 0\nseed: 1\n", "line 2"), ("a: 1\n  b: 2\n", "line 2")],
)
def test_broken_yaml_is_told_with_its_line(tmp_path, text, line):
    """What the reader does not understand is an error with file and line."""
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ParamsError, match=rf"params\.yaml, {line}"):
        params.load(path)


@pytest.mark.parametrize("content", [b"", b"just a text", b"- a\n- b\n", b"seed: \xff\n", b"3: 4\n"])
def test_a_file_that_holds_no_sections_is_an_error(tmp_path, content):
    """Empty, a list, other bytes, keys that are no words: a message, never another exception."""
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    with pytest.raises(ParamsError, match=r"params\.yaml|3|seed"):
        params.load(path)


def test_a_missing_file_is_an_error_with_a_next_step(tmp_path):
    """No params.yaml: the message names the folder and the next command."""
    with pytest.raises(ParamsError, match="is missing in") as caught:
        params.load(tmp_path / "params.yaml")
    assert "git checkout" in caught.value.next_step


def test_a_python_tag_is_refused(tmp_path):
    """YAML cannot build objects."""
    path = tmp_path / "params.yaml"
    path.write_text("seed: !!python/object/apply:os.getcwd []\n", encoding="utf-8")
    with pytest.raises(ParamsError, match="not valid YAML"):
        params.load(path)


def test_a_stage_gets_its_declared_sections_only(params):
    """Reading another section is an error that says what to add to dvc.yaml."""
    view = restrict_params(params, ["seed", "prepare"], "prepare")
    assert view.seed == params.seed
    assert view.prepare is params.prepare
    with pytest.raises(UndeclaredInputError, match="stage prepare reads the parameters `pretrain`") as caught:
        _ = view.pretrain
    assert "stages.prepare.params" in caught.value.next_step


VALUES = st.one_of(st.integers(), st.text(max_size=5), st.booleans())
KEYS = st.text(st.characters(categories=["Ll"]), min_size=1, max_size=4)
TREES = st.recursive(
    st.dictionaries(KEYS, VALUES, max_size=4), lambda below: st.dictionaries(KEYS, below | VALUES, max_size=4)
)


@given(TREES)
def test_flatten_names_every_leaf_by_its_path(tree):
    """Walking a dotted name through the tree finds its value, and no leaf is lost."""
    flat = files.flatten(tree)
    for dotted, value in flat.items():
        node = tree
        for key in dotted.split("."):
            node = node[key]
        assert node == value
    assert len(flat) == _leaves(tree)


def _leaves(tree):
    return sum(_leaves(value) if isinstance(value, dict) else 1 for value in tree.values())


@pytest.mark.parametrize(
    ("before", "after", "method", "warned"),
    [(1e-3, 1e-4, "full", False), (1e-3, 1e-3, "full", True), (1e-4, 1e-3, "top", True), (1e-4, 1e-3, "lora", False)],
)
def test_a_finetuning_rate_as_high_as_that_of_pretraining_draws_a_warning(params, before, after, method, warned):
    """With both rates and the reason; adapters are small and new, and take high rates."""
    chosen = params.model_copy(
        update={
            "pretrain": params.pretrain.model_copy(update={"learning_rate": before}),
            "finetune": params.finetune.model_copy(update={"learning_rate": after}),
            "adaptation": params.adaptation.model_copy(update={"method": method}),
        }
    )
    found = module.advice(chosen)
    assert len(found) == int(warned)
    assert all(f"{after:g}" in line and f"{before:g}" in line and "wash out" in line for line in found)
