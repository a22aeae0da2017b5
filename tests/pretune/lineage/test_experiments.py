from __future__ import annotations

import os
import subprocess

import pytest

from pretune.errors import ParamsError, WorkspaceError
from pretune.lineage.experiments import keep, listed, origin

LOCK = "schema: '2.0'\nstages: {}\n"


def git(folder, *arguments):
    """The output of `git …`."""
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def project(tmp_path):
    """A workspace in a subfolder of a git repository, with one commit and an uncommitted file."""
    root = tmp_path / "models" / "small ä"
    root.mkdir(parents=True)
    (root / "params.yaml").write_text("seed: 0\n", encoding="utf-8")
    (tmp_path / "readme").write_text("top\n", encoding="utf-8")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "--all")
    git(tmp_path, "commit", "--quiet", "--message", "start")
    (root / "params.yaml").write_text("seed: 7\n", encoding="utf-8")
    return root


def test_an_experiment_is_a_commit_on_head_that_changes_two_files(project):
    """Its parent is HEAD and its tree HEAD's, with params.yaml and dvc.lock of the workspace's folder replaced."""
    head, files = git(project, "rev-parse", "HEAD"), git(project, "status", "--porcelain")
    commit = keep(project, "a.1", "seed: 1\n", LOCK)
    assert git(project, "rev-parse", f"refs/exps/{head[:2]}/{head[2:]}/a.1") == commit
    assert git(project, "rev-parse", f"{commit}^@") == head
    changed = git(project, "diff", "-z", "--name-status", head, commit).split("\0")
    assert changed == ["A", "models/small ä/dvc.lock", "M", "models/small ä/params.yaml", ""]
    assert git(project, "show", f"{commit}:./params.yaml") == "seed: 1"
    assert git(project, "show", f"{commit}:./dvc.lock") == LOCK.strip()
    assert git(project, "status", "--porcelain") == files
    assert git(project, "rev-parse", "HEAD") == head


def test_the_same_result_may_be_kept_again_under_its_name(project):
    """The same texts give the same commit; others are refused with the command that makes room."""
    first = keep(project, "one", "seed: 1\n", LOCK)
    assert keep(project, "one", "seed: 1\n", LOCK) == first
    with pytest.raises(ParamsError, match="an experiment one of this commit already") as refused:
        keep(project, "one", "seed: 2\n", LOCK)
    assert refused.value.next_step.startswith("dvc exp remove one ")
    keep(project, "again", "seed: 1\n", LOCK)
    assert listed(project) == ["again", "one"]


def test_experiments_of_other_commits_are_not_listed(project):
    """After a new commit there are none; the same name may be used again."""
    keep(project, "one", "seed: 1\n", LOCK)
    git(project, "commit", "--all", "--quiet", "--message", "next")
    assert listed(project) == []
    keep(project, "one", "seed: 2\n", LOCK)
    assert listed(project) == ["one"]


@pytest.mark.parametrize("name", ["", "a/b", "a b", "a..b", "a~1", "x.lock", "-\n"])
def test_names_that_dvc_refuses_are_refused(project, name):
    """Names that git allows in no reference, and those with a slash: as in DVC."""
    from dvc.exceptions import InvalidArgumentError
    from dvc.repo.experiments.refs import ExpRefInfo
    from dvc.repo.experiments.utils import check_ref_format
    from dvc.scm import Git

    if name:  # DVC chooses one itself for ""
        with pytest.raises(InvalidArgumentError):
            check_ref_format(Git(str(project)), ExpRefInfo("0" * 40, name))
    with pytest.raises(ParamsError, match="cannot be the name of an experiment"):
        keep(project, name, "seed: 1\n", LOCK)
    assert listed(project) == []


def test_without_an_identity_the_author_is_pretune(project):
    """Git refuses to commit for no one; with an identity that is the author."""
    named = keep(project, "named", "seed: 1\n", LOCK)
    for name in list(os.environ):
        if name.startswith(("GIT_AUTHOR_", "GIT_COMMITTER_")):
            del os.environ[name]
    nameless = keep(project, "nameless", "seed: 1\n", LOCK)
    assert git(project, "show", "--no-patch", "--format=%an %ae", named) == "nobody nobody@example.org"
    assert git(project, "show", "--no-patch", "--format=%an %ae/%cn", nameless) == "Pretune pretune@localhost/Pretune"


def test_git_and_a_commit_are_needed(tmp_path, monkeypatch):
    """Without a repository, a commit or git itself, an error names what to do."""
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(WorkspaceError, match="not in a git repository"):
        keep(tmp_path, "one", "seed: 1\n", LOCK)
    git(tmp_path, "init", "--quiet")
    with pytest.raises(WorkspaceError, match="has no commit") as refused:
        listed(tmp_path)
    assert "git commit" in refused.value.next_step
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(WorkspaceError):
        listed(tmp_path)


def test_the_origin_of_a_folder_that_dvc_made_for_an_experiment(tmp_path):
    """Queued ones lie in .dvc/tmp/exps, those of --temp one deeper; a workspace in a subfolder keeps its path."""
    folder = tmp_path / ".dvc" / "tmp" / "exps"
    for place in ("tmpab12", "standalone/tmpab12", "tmpab12/models/small"):
        assert origin(folder / place) == tmp_path
    assert origin(tmp_path) is None
    assert origin(tmp_path / ".pretune" / "override") is None
