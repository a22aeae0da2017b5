from __future__ import annotations

import stat

import pytest

from pretune.errors import WorkspaceError
from pretune.stack import settings


def test_what_is_there_stays_and_what_is_missing_is_made_for_its_owner_only(tmp_path):
    """Empty values count as missing; made secrets differ; a second call changes nothing."""
    file = tmp_path / "stack.env"
    file.write_text("# ours\nMLFLOW_PORT=5005\nPOSTGRES_PASSWORD=\n", encoding="utf-8")
    values = settings.complete(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert values.keys() == settings.DEFAULTS.keys()
    assert values["MLFLOW_PORT"] == "5005"
    made = [value for name, value in values.items() if name not in settings.ADDRESSES]
    assert len(set(made)) == len(made)
    assert settings.complete(file) == settings.read(file) == values


def test_all_lines_that_cannot_be_used_are_told(tmp_path):
    """With file, line and what is allowed."""
    file = tmp_path / "stack.env"
    file.write_text("PORT=1\nMLFLOW_PORT=no\nhello\nSTORE_PORT=5000\nPREFECT_PORT=5000\n", encoding="utf-8")
    with pytest.raises(WorkspaceError) as caught:
        settings.complete(file)
    told = "\n".join(caught.value.problems)
    assert [f"line {number}" in told for number in (1, 2, 3, 4)] == [True, True, True, False]
    assert "two parts have the same port" in told
    assert file.read_text(encoding="utf-8").startswith("PORT=1")


def test_a_secret_can_stand_in_a_shell_an_address_and_an_option(tmp_path):
    """DVC's command line takes a value that begins with - for an option."""
    values = settings.complete(tmp_path / "stack.env")
    secrets = [value for name, value in values.items() if name not in settings.ADDRESSES]
    assert all(value.replace("team:", "").isalnum() for value in secrets)
