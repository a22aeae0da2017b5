from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from pretune.config.files import read_yaml

DEPLOYMENTS = read_yaml(Path(__file__).parents[2] / "prefect.yaml")["deployments"]


@pytest.mark.slow
@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda deployment: deployment["name"])
def test_a_deployment_names_a_flow_and_parameters_that_it_takes(deployment):
    """What `prefect deployment run` triggers is the flow of `pretune run`, with parameters that it validates."""
    path, _, name = deployment["entrypoint"].partition(":")
    flow = getattr(importlib.import_module(path.removesuffix(".py").replace("/", ".")), name)
    assert flow.name == "pretune"
    assert flow.validate_parameters(deployment["parameters"]).items() >= deployment["parameters"].items()
