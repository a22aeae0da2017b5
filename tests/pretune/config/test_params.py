from __future__ import annotations

import pytest

from pretune.config import files, params
from pretune.config import params as module
from pretune.config.params import restrict_params
from pretune.errors import ParamsError, UndeclaredInputError


@pytest.fixture
def check(params_file, tmp_path):
    """A function that writes params.yaml with texts replaced, loads it and returns the problems."""

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
    lines = check(
        ("seed: 0", "seed: -1"), ("steps: 1200", "steps: many"), ("bootstrap_samples: 2000", "bootstrap_samples: 1")
    )
    assert sorted(line.split(":")[0] for line in lines) == ["evaluate.bootstrap_samples", "pretrain.steps", "seed"]


@pytest.mark.parametrize("share", ["0", "-0.1", "1.5", "five", ".nan"])
def test_a_share_of_labels_is_above_0_and_at_most_1(check, share):
    """The message names its index in the list; a share that occurs twice counts once, and 1 asks for no training."""
    (line,) = check(("shares: [] ", f"shares: [0.5, {share}] "))
    assert line.startswith("label_efficiency.shares.1: ")
    section = module.LabelEfficiencyParams(shares=[0.5, 1, 0.05, 0.5])
    assert section.partial == [0.05, 0.5]


def test_a_share_without_a_row_is_refused_before_any_stage(check):
    """Where `prepare.train_rows` limits the rows."""
    (line,) = check(("shares: [] ", "shares: [0.001, 0.01] "))
    assert line == "params.yaml: label_efficiency.shares: 0.001 of prepare.train_rows 300 rounds to 0 rows"


def test_an_unknown_key_names_the_nearest(check):
    """A misspelt key is refused with a suggestion; the key that is now missing is listed too."""
    lines = check(("warmup: 0.1 ", "warm_up: 0.1 "))
    assert "pretrain.warm_up: unknown key (did you mean warmup?)" in lines
    assert any(line.startswith("pretrain.warmup: missing") for line in lines)


def test_an_unknown_section_names_the_nearest(check):
    """A misspelt section is refused with a suggestion."""
    assert "fine_tune: unknown key (did you mean finetune?)" in check(("finetune:", "fine_tune:"))


def test_a_wrong_choice_names_the_nearest(check):
    """The message shows the allowed words and the nearest of them."""
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
    """Types are not coerced: the message names the path and the value."""
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
    """The message names the path, the bound and the value."""
    (line,) = check((old, new))
    assert line.startswith(f"{path}: ")
    assert "got " in line


@pytest.fixture
def problems(params_file):
    """A function that sets values by dotted path and returns the problems, none if the values are valid."""

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
        ({"launch.options": {"time": 60}}, "launch: options are of another engine"),
        ({"launch.engine": "ray", "launch.options": {"time": 60}}, "launch: options are of another engine"),
        (
            {"launch.engine": "slurm", "launch.options": {"time": 60, "nodes": 2, "-w": "a"}},
            "options: nodes, -w cannot",
        ),
        ({"launch.engine": "kubernetes"}, "`image` is missing; `claim` is missing"),
        (
            {"launch.engine": "kubernetes", "launch.options": {"image": "a:1", "claim": "My claim", "time": 60}},
            "`time` is none of image, claim, path, namespace, gpu; claim: `My claim` is no claim",
        ),
        ({"pretrain.validation_rows": 0}, "pretrain.evaluate_every needs pretrain.validation_rows"),
        ({"prepare.validation_rows": 0}, "finetune.evaluate_every needs prepare.validation_rows"),
    ],
    ids=str,
)
def test_keys_that_do_not_fit_together_are_refused(problems, changes, expected):
    """The message names the keys and their values."""
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
        {"launch.strategy": "fsdp"},
        {"finetune.metric_for_best_model": "accuracy", "finetune.patience": 3},
        {"pretrain.metric_for_best_model": "loss", "pretrain.patience": 1},
        {"pretrain.evaluate_every": 0, "pretrain.validation_rows": 0},
        {"finetune.evaluate_every": 0, "prepare.validation_rows": 0},
        {"launch.rendezvous": "node-1.example.org:1234"},
        {"launch.engine": "slurm", "launch.options": {"time": "4:00:00", "gpus-per-node": 8}},
        {
            "launch.engine": "kubernetes",
            "launch.options": {
                "image": "registry.example.org:5000/team/pretune:1.2",
                "claim": "work",
                "path": "projects/one",
                "namespace": "team",
                "gpu": "nvidia.com/gpu",
            },
        },
    ],
    ids=str,
)
def test_keys_that_fit_together_are_allowed(problems, changes):
    """The rules refuse no valid combination."""
    assert problems(changes) == []


@pytest.mark.parametrize("warmup", [0, 0.0, 0.5, 0.999, 1, 1.0, 30, 1000.0])
def test_the_warmup_is_a_share_or_a_number_of_steps(problems, warmup):
    """Below 1 a share, from 1 on a whole number of steps, written with or without a decimal point."""
    assert problems({"pretrain.warmup": warmup}) == []


def test_every_problem_of_a_level_is_listed_at_once(problems):
    """Values and keys within sections are checked first, then keys of different sections against each other."""
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
    (among,) = problems({"launch.processes": 5, "prepare.validation_rows": 0})
    for part in ("pretrain.batch_size 32", "finetune.batch_size 16", "prepare.validation_rows"):
        assert part in among


def test_a_missing_key_is_an_error(check):
    """No key has a default, since DVC would not see it."""
    (line,) = check(("  steps: 1200\n", ""))
    assert line.startswith("pretrain.steps: missing")


def test_no_field_of_the_schema_has_a_default():
    """Every key of every section is required; the sections `align` and `teacher` only in a graph that has the stage."""
    pending = [params.Params]
    while pending:
        for name, field in pending.pop().model_fields.items():
            assert field.is_required() or name in {"align", "teacher"}, name
            if isinstance(field.annotation, type) and issubclass(field.annotation, params.Section):
                pending.append(field.annotation)


def test_exponents_without_a_dot_are_numbers(params_file, tmp_path):
    """`1e-5` is a float, as in YAML 1.2 and in DVC."""
    path = tmp_path / "params.yaml"
    text = params_file.read_text(encoding="utf-8").replace("learning_rate: 5e-3", "learning_rate: 1e-5")
    path.write_text(text, encoding="utf-8")
    assert params.load(path).pretrain.learning_rate == 1e-5


def test_a_quoted_number_gets_a_hint(check):
    """`'1e-5'` is text: the message says to write it without quotes."""
    (line,) = check(("learning_rate: 5e-3", "learning_rate: '1e-5'"))
    assert "`1e-5` is text here: write it without quotes" in line


def test_a_stage_gets_its_declared_sections_only(params):
    """Reading another section is an error that says what to add to dvc.yaml."""
    view = restrict_params(params, ["seed", "prepare"], "prepare")
    assert view.seed == params.seed
    assert view.prepare is params.prepare
    with pytest.raises(UndeclaredInputError, match="stage prepare reads the parameters `pretrain`") as caught:
        _ = view.pretrain
    assert "stages.prepare.params" in caught.value.next_step


def test_a_stage_gets_its_declared_keys_of_a_section_only(params):
    """Also of the settings of an objective; the error names the key that is missing."""
    settings = {"template": "{{ x }}", "beta": 0.1}
    changed = params.model_copy(update={"finetune": params.finetune.model_copy(update={"settings": settings})})
    view = restrict_params(changed, ["finetune.epochs", "finetune.settings.template"], "reference").finetune
    assert view.epochs == params.finetune.epochs
    assert view.settings == {"template": "{{ x }}"}
    with pytest.raises(UndeclaredInputError, match=r"`finetune.batch_size`") as caught:
        _ = view.batch_size
    assert "add `finetune.batch_size` under stages.reference.params" in caught.value.next_step


@pytest.mark.parametrize(
    ("before", "after", "method", "warned"),
    [(1e-3, 1e-4, "full", False), (1e-3, 1e-3, "full", True), (1e-4, 1e-3, "top", True), (1e-4, 1e-3, "lora", False)],
)
def test_a_finetuning_rate_as_high_as_that_of_pretraining_gives_a_warning(params, before, after, method, warned):
    """With both rates and the reason; not for adapters, which are new and need high rates."""
    changed = params.model_copy(
        update={
            "pretrain": params.pretrain.model_copy(update={"learning_rate": before}),
            "finetune": params.finetune.model_copy(update={"learning_rate": after}),
            "adaptation": params.adaptation.model_copy(update={"method": method}),
        }
    )
    warnings = module.advice(changed)
    assert len(warnings) == int(warned)
    assert all(f"{after:g}" in line and f"{before:g}" in line and "wash out" in line for line in warnings)


@pytest.mark.parametrize(
    ("steps", "method", "rate", "warned"),
    [(0, "lora", 5e-3, []), (0, "full", 5e-3, ["finetune"]), (0, "full", 2e-5, []), (9, "lora", 5e-3, ["pretrain"])],
)
def test_a_rate_for_random_weights_on_a_checkpoint_gives_a_warning(params, steps, method, rate, warned):
    """Where its weights are trained: not at 0 steps of pretraining, not with adapters."""
    changed = params.model_copy(
        update={
            "model": params.model.model_copy(update={"init": "checkpoint"}),
            "pretrain": params.pretrain.model_copy(update={"steps": steps, "learning_rate": rate}),
            "finetune": params.finetune.model_copy(update={"learning_rate": rate}),
            "adaptation": params.adaptation.model_copy(update={"method": method}),
        }
    )
    assert [line.partition(".")[0] for line in module.advice(changed) if "checkpoint" in line] == warned


def test_rules_of_pretraining_are_silent_without_steps(params):
    """Nothing watches a training that does not happen; with a step, rows have to."""
    values = params.model_dump()
    values["pretrain"] |= {"steps": 0, "validation_rows": 0, "evaluate_every": 10}
    module.validate(values)
    values["pretrain"]["steps"] = 1
    with pytest.raises(ParamsError, match=r"pretrain\.evaluate_every needs pretrain\.validation_rows"):
        module.validate(values)
