from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pretune.config import overrides
from pretune.config.files import read_yaml
from pretune.studies.points import applied, assignments

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-9, 9), st.floats(-9, 9), st.text("ab1.:#, ", max_size=4), st.just("null")
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=2)
)


@given(st.dictionaries(st.sampled_from(["r", "alpha", "bias"]), VALUES), st.sampled_from(["full", "lora", None]))
def test_the_assignments_of_a_point_set_exactly_its_values(params_file, settings, method):
    """`--set` with them gives the document of the point: same values, same types."""
    point = {f"adaptation.settings.{key}": value for key, value in settings.items()}
    if method is not None:
        point["adaptation.method"] = method
    params = read_yaml(params_file)
    document, _ = overrides.overridden(params_file, assignments(point, params))
    assert repr(plain(document["adaptation"])) == repr(plain(applied(point, params)["adaptation"]))
    assert params == read_yaml(params_file)


def plain(value):
    """A document without the classes of its parser."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


def test_another_objective_or_method_starts_from_no_settings(params_file):
    """Those of params.yaml belong to the one it names; the point's own settings follow."""
    params = read_yaml(params_file)
    assert params["pretrain"]["settings"]
    other = {"pretrain.settings.x": 1, "pretrain.objective": "causal_lm", "adaptation.method": "lora"}
    assert assignments(other, params) == [
        "pretrain.settings={}",
        "adaptation.settings={}",
        "pretrain.settings.x=1",
        "pretrain.objective=causal_lm",
        "adaptation.method=lora",
    ]
    assert applied(other, params)["pretrain"]["settings"] == {"x": 1}
    assert assignments({"adaptation.method": params["adaptation"]["method"]}, params) == [
        f"adaptation.method={params['adaptation']['method']}"
    ]
    whole = {"adaptation.method": "lora", "adaptation.settings": {"r": 4}}
    assert assignments(whole, params) == ["adaptation.method=lora", "adaptation.settings={r: 4}"]
