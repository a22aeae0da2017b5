from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretune.config import overrides, params
from pretune.errors import ParamsError


@pytest.fixture
def files(params_file, tmp_path):
    """A copy of params.yaml, and the path for a version with other values."""
    path = tmp_path / "params.yaml"
    path.write_bytes(params_file.read_bytes())
    return path, tmp_path / "other.yaml"


def test_only_the_lines_of_overridden_keys_change(files):
    """Comments, order and every other line stay as they are."""
    path, target = files
    overrides.override(path, ["finetune.learning_rate=3e-5"], target)
    before, after = (p.read_text(encoding="utf-8").splitlines() for p in files)
    changed = [(old.strip(), new.split()) for old, new in zip(before, after, strict=True) if old.split() != new.split()]
    assert [(old, new[0], float(new[1])) for old, new in changed] == [("learning_rate: 5e-4", "learning_rate:", 3e-5)]
    assert params.load(target).finetune.learning_rate == 3e-5


def test_the_changes_are_returned(files):
    """Old and new value of each key, by dotted path."""
    assert overrides.override(files[0], ["seed=7", "model.type=bert"], files[1]) == {
        "seed": (0, 7),
        "model.type": ("modernbert", "bert"),
    }


def test_the_original_is_left_alone(files):
    """`--set` never changes params.yaml itself."""
    before = files[0].read_bytes()
    overrides.override(files[0], ["seed=7"], files[1])
    assert files[0].read_bytes() == before


def test_all_problems_are_listed_and_nothing_is_written(files, params_file):
    """A missing `=`, an unknown key and invalid YAML are reported at once; neither file changes."""
    path, target = files
    with pytest.raises(ParamsError) as caught:
        overrides.override(path, ["seed", "finetune.lerning_rate=1", "model.type=[", "seed=3"], target)
    assert len(caught.value.problems) == 3
    assert "write it as section.key=value" in caught.value.problems[0]
    assert "did you mean finetune.learning_rate?" in caught.value.problems[1]
    assert "not valid YAML" in caught.value.problems[2]
    assert path.read_bytes() == params_file.read_bytes()
    assert sorted(p.name for p in path.parent.iterdir()) == ["params.yaml"]


@pytest.mark.parametrize(
    "assignment", ["seed=-1", "seed=", "pretrain.optimizer=sgd", "pretrain.steps={a: 1}", "threads='2'"]
)
def test_a_value_that_the_schema_refuses_writes_nothing(files, assignment):
    """An override is checked like the file itself."""
    with pytest.raises(ParamsError, match=assignment.split("=", maxsplit=1)[0]):
        overrides.override(files[0], [assignment], files[1])
    assert not files[1].exists()


@pytest.mark.parametrize("name", ["pretrain", "pretrain.", ".seed", "", "seed.x"])
def test_a_section_cannot_be_set(files, name):
    """Only single values can."""
    with pytest.raises(ParamsError, match="no such key"):
        overrides.override(files[0], [f"{name}=1"], files[1])


def test_several_values_can_be_wrong_at_once(files):
    """All values that the schema refuses are listed."""
    with pytest.raises(ParamsError) as caught:
        overrides.override(files[0], ["seed=-1", "evaluate.confidence=2"], files[1])
    assert len(caught.value.problems) == 2


@given(
    seed=st.integers(0, 2**32 - 1),
    rate=st.floats(1e-12, 0.999999),
    source=st.text(st.characters(codec="utf-8", exclude_characters="'", exclude_categories=["Cc", "Cs"]), min_size=1),
)
def test_a_written_override_loads_as_it_was_set(tmp_path_factory, params_file, seed, rate, source):
    """The loaded file holds each value exactly."""
    target = tmp_path_factory.mktemp("override") / "params.yaml"
    assignments = [f"seed={seed}", f"pretrain.learning_rate={rate!r}", f"ingest.source='{source}'"]
    overrides.override(params_file, assignments, target)
    loaded = params.load(target)
    assert (loaded.seed, loaded.pretrain.learning_rate, loaded.ingest.source) == (seed, rate, source)


@pytest.mark.parametrize(
    "assignment", ["model.config.hidden_dropout_prob=0.2", "finetune.settings.beams=4", "adaptation.settings.r=8"]
)
def test_keys_of_open_sections_can_be_added(files, assignment):
    """Their keys depend on the model type, the objective and the adaptation, so params.yaml need not hold them."""
    path, target = files
    dotted, value = assignment.split("=")
    assert overrides.override(path, [assignment], target) == {dotted: (None, float(value))}
    section, name, key = dotted.split(".")
    assert getattr(getattr(params.load(target), section), name)[key] == float(value)


def test_writing_an_override_changes_nothing_for_dvc(params_file, tmp_path):
    """`null` stays `null` in the copy, and DVC writes dvc.lock in the same process as before."""
    from dvc.utils.serialize import dumps_yaml

    before = dumps_yaml({"model": {"init": None}})
    overrides.override(params_file, ["seed=1", "model.init=null"], tmp_path / "params.yaml")
    assert "init: null" in (tmp_path / "params.yaml").read_text(encoding="utf-8")
    assert dumps_yaml({"model": {"init": None}}) == before


def test_a_section_can_be_replaced_before_its_keys_are_set(files):
    """`--set` applies in order: the old keys of the section are gone, the new ones are there."""
    path, target = files
    assignments = ["pretrain.settings={}", "pretrain.settings.mask_rate=0.5"]
    overrides.override(path, ["pretrain.settings={spans: {length: 3}}"], path)
    overrides.override(path, [*assignments, "pretrain.settings.spans.length=4"], target)
    assert params.load(target).pretrain.settings == {"mask_rate": 0.5, "spans": {"length": 4}}


def test_a_key_of_a_section_that_is_no_longer_one_is_refused(files):
    """A section replaced by a single value has no keys."""
    with pytest.raises(ParamsError) as caught:
        overrides.override(files[0], ["adaptation.settings=3", "adaptation.settings.r=8"], files[1])
    assert "--set adaptation.settings.r=8: adaptation.settings is no section" in caught.value.problems
