from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pretune.errors import DataError, GraphError, ParamsError, PretuneError, WorkspaceError
from pretune.lineage.dvc_config import cache_dir, drop_torn_lock, keep_private, read_config, write_config
from pretune.lineage.graph import Workspace, find_root, stage_key, state_dir

ENTRY = {"cmd": "x", "deps": {"a": "1", "b": "2"}, "params": {"seed": 0, "model": {"type": "bert"}}, "outs": ["o", "p"]}


def test_the_graph_is_that_of_dvc_yaml(project):
    """Each stage with what it reads and writes, upstream first."""
    nodes = Workspace(project).nodes
    assert set(nodes) == {"ingest", "prepare", "finetune", "scratch"}
    order = list(nodes)
    assert order.index("ingest") < order.index("prepare") < order.index("finetune")
    ingest = nodes["ingest"]
    assert (ingest.desc, ingest.meta, ingest.params) == ("copy the source", {"retries": 1}, ["ingest"])
    assert ingest.deps == ["source.txt", "pretune/helper.py"]
    assert ingest.data == ["source.txt"]
    assert nodes["prepare"].params == ["seed", "prepare"]
    assert nodes["finetune"].upstream == ["prepare"]
    assert nodes["scratch"].upstream == ["ingest"]


def test_a_stage_is_asked_for_with_all_that_it_needs(project):
    """Named stages come with their upstream and nothing else; none named means all."""
    workspace = Workspace(project)
    assert workspace.with_upstream(["scratch"]) == ["ingest", "scratch"]
    assert workspace.with_upstream(["prepare"]) == ["ingest", "prepare"]
    assert set(workspace.with_upstream([])) == set(workspace.nodes)


def test_the_key_does_not_depend_on_order():
    """The same inputs written in another order are the same key."""
    turned = {key: ENTRY[key] for key in reversed(ENTRY)}
    turned["deps"] = {"b": "2", "a": "1"}
    assert stage_key(turned) == stage_key(ENTRY)
    assert len(stage_key(ENTRY)) == 64


@pytest.mark.parametrize(
    ("path", "value"),
    [(("cmd",), "y"), (("deps", "a"), "3"), (("params", "seed"), 1), (("params", "model", "type"), "roberta"),
     (("outs",), ["o"]), (("deps", "c"), "1")],
)  # fmt: skip
def test_the_key_changes_with_every_input(path, value):
    """Command, a dependency's hash, a parameter at any depth, a path written, one dependency more."""
    other = copy.deepcopy(ENTRY)
    node = other
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    assert stage_key(other) != stage_key(ENTRY)


def test_the_entry_of_files_and_that_of_the_lock_agree(done):
    """After a run, dvc.lock records the hashes and params of the files."""
    workspace = Workspace(done)
    for name, locked in read_lock(done).items():
        entry = workspace.entry(name)
        assert entry["deps"] == {dep["path"]: dep["md5"] for dep in locked["deps"]}
        assert entry["params"] == locked.get("params", {}).get("params.yaml", {})
        assert (entry["cmd"], entry["outs"]) == (locked["cmd"], [out["path"] for out in locked["outs"]])
    assert workspace.outputs("ingest") == {"raw.txt": workspace.locked_outputs()["raw.txt"]}


def test_an_entry_follows_its_files(done):
    """An edit of a file or of a parameter changes the stage's entry, and only that stage's."""
    before = {name: stage_key(Workspace(done).entry(name)) for name in ("ingest", "prepare", "scratch")}
    (done / "pretune" / "helper.py").write_text("HELP = 2\n", encoding="utf-8")
    text = (done / "params.yaml").read_text(encoding="utf-8")
    (done / "params.yaml").write_text(text.replace("seed: 0", "seed: 1"), encoding="utf-8")
    after = {name: stage_key(Workspace(done).entry(name)) for name in before}
    assert {name for name in before if before[name] != after[name]} == {"ingest", "prepare"}


def test_an_input_that_is_missing_is_our_error(project):
    """A user's file that is not there: a message with its name, never DVC's or Python's exception."""
    (project / "source.txt").unlink()
    with pytest.raises(PretuneError, match=r"source\.txt") as caught:
        Workspace(project).entry("ingest")
    assert caught.value.exit_code == DataError.exit_code


def test_an_unknown_stage_names_the_nearest_and_all(project):
    """A misspelt stage: a suggestion and the list."""
    with pytest.raises(GraphError, match=r"no stage `fintune` .*did you mean finetune\?.*ingest, prepare"):
        Workspace(project).node("fintune")


BROKEN = {
    "a cycle": "stages:\n  a: {cmd: x, deps: [two], outs: [one]}\n  b: {cmd: x, deps: [one], outs: [two]}\n",
    "two writers": "stages:\n  a: {cmd: x, outs: [o]}\n  b: {cmd: x, outs: [o]}\n",
    "not YAML": "stages: [",
    "a list": "- a\n",
    "a stage that is a number": "stages:\n  a: 5\n",
    "no command": "stages:\n  a: {deps: [x]}\n",
    "an unknown key": "stages:\n  a: {cmd: x, dpes: [x]}\n",
    "an unknown interpolation": "stages:\n  a: {cmd: '${nothing}', outs: [o]}\n",
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_a_broken_graph_is_our_error(project, text):
    """Whatever is wrong with dvc.yaml, it is a GraphError with one line."""
    (project / "dvc.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(GraphError) as caught:
        _ = Workspace(project).nodes
    assert caught.value.problems[0].strip()
    assert caught.value.exit_code == 3


def test_a_broken_lock_file_is_our_error(project):
    """A dvc.lock that is no YAML ends in a message."""
    (project / "dvc.lock").write_text("schema: [\n", encoding="utf-8")
    with pytest.raises(GraphError, match=r"dvc\.lock"):
        Workspace(project).plan([])


@pytest.mark.parametrize(
    "text", ["schema: '2.0'\nstages: {ingest: x}\n", "schema: '2.0'\nstages: {ingest: {cmd: x, deps: [y]}}\n"]
)
def test_a_lock_file_of_another_shape_is_our_error(project, text):
    """Valid YAML, and no dvc.lock: a text for an object, as a bad merge leaves it."""
    (project / "dvc.lock").write_text(text, encoding="utf-8")
    for ask in (lambda: Workspace(project).plan([]), lambda: Workspace(project).locked_outputs()):
        with pytest.raises(GraphError):
            ask()


def test_no_git_is_an_error_with_the_command_that_fixes_it(project):
    """Without a git repository: what to type."""
    shutil.rmtree(project / ".git")
    with pytest.raises(WorkspaceError, match="not in a git repository") as caught:
        _ = Workspace(project).nodes
    assert caught.value.next_step.startswith("git init")


def test_the_root_is_found_from_below(project, tmp_path):
    """Any folder of the workspace will do; outside of one, it is an error."""
    assert find_root(project / "pretune") == project.resolve()
    with pytest.raises(WorkspaceError, match=r"no dvc\.yaml"):
        find_root(tmp_path)


def test_a_copy_of_a_workspace_uses_the_originals_state(project):
    """PRETUNE_STATE leads to the records of the workspace that was copied."""
    assert state_dir(project) == project / ".pretune"
    os.environ["PRETUNE_STATE"] = "/elsewhere"
    assert str(state_dir(project)) == "/elsewhere"


def read_lock(project):
    """The stages of dvc.lock."""
    return YAML(typ="safe").load(project / "dvc.lock")["stages"]


def test_the_lock_is_put_in_the_order_of_the_graph(done):
    """Whichever stage ended first, dvc.lock has the bytes of a full `dvc repro`."""
    whole = (done / "dvc.lock").read_bytes()
    stages = read_lock(done)
    turned = {"schema": "2.0", "stages": {name: stages[name] for name in reversed(stages)}}
    with (done / "dvc.lock").open("w", encoding="utf-8") as file:
        YAML().dump(turned, file)
    Workspace(done).order_lock()
    assert (done / "dvc.lock").read_bytes() == whole
    Workspace(done).order_lock()
    assert (done / "dvc.lock").read_bytes() == whole


@pytest.mark.parametrize("written", [0, 30], ids=["emptied", "begun"])
def test_a_lock_file_that_is_being_written_is_read_when_it_is_whole(done, written):
    """Another dvc writes dvc.lock in place and holds the lock: a reader that may wait waits, others get an error."""
    path = done / "dvc.lock"
    whole = path.read_bytes()
    path.write_bytes(whole[:written])
    with pytest.raises(GraphError):
        _ = Workspace(done, wait=False).nodes

    class OtherDvc:
        """The lock of a dvc that finishes its file."""

        def __enter__(self):
            path.write_bytes(whole)

        def __exit__(self, *_):
            pass

    workspace = Workspace(done, wait=True)
    workspace.repo.lock = OtherDvc()
    assert workspace.nodes == Workspace(done).nodes
    assert [decision.action for decision in workspace.plan([])] == ["skip"] * len(workspace.nodes)


def test_dvc_lock_is_replaced_not_rewritten(done, monkeypatch):
    """A stage is recorded in a new file: who has the old one open reads it to the end, and a kill leaves either."""
    path = done / "dvc.lock"
    before = path.read_bytes()
    (done / "source.txt").write_text("other\n", encoding="utf-8")
    with path.open("rb") as old:
        Workspace(done).commit("ingest")
        assert old.read() == before != path.read_bytes()


def test_no_lock_file_stays_none(project):
    """Ordering what is not there creates nothing."""
    Workspace(project).order_lock()
    assert not (project / "dvc.lock").exists()


@pytest.mark.parametrize("folder", [".", "pretune"])
def test_a_stage_run_by_hand_is_recorded(project, monkeypatch, folder):
    """`commit` brings dvc.lock up to date with the files, from any folder of the workspace."""
    shutil.copy(project / "source.txt", project / "raw.txt")
    monkeypatch.chdir(project / folder)
    Workspace(project).commit("ingest")
    assert [d.action for d in Workspace(project).plan(["ingest"])] == ["skip"]


def test_what_never_ran_is_not_brought_back(project, caplog):
    """Of stages without results a checkout does not complain, whether there are others that have some or not."""
    Workspace(project).checkout()
    shutil.copy(project / "source.txt", project / "raw.txt")
    Workspace(project).commit("ingest")
    (project / "raw.txt").unlink()
    Workspace(project).checkout()
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    assert (project / "raw.txt").read_text(encoding="utf-8") == "hello\n"


@pytest.mark.parametrize(("content", "dropped"), [("{}", False), ('{"write": ', True), ("", True), (None, False)])
def test_only_a_torn_rwlock_is_removed(project, content, dropped):
    """What a kill left half written goes; a whole file, or none, is left alone."""
    path = project / ".dvc" / "tmp" / "rwlock"
    path.parent.mkdir()
    if content is not None:
        path.write_text(content, encoding="utf-8")
    assert drop_torn_lock(project) is dropped
    assert path.exists() is (content == "{}")


def test_dvcs_state_is_kept_in_the_workspace(project):
    """`site_cache_dir` is written once, into the file that git does not track."""
    for _ in range(2):
        keep_private(project)
    text = (project / ".dvc" / "config.local").read_text(encoding="utf-8")
    assert text.count("site_cache_dir") == 1
    assert str(project / ".dvc") in text


def test_dvcs_state_is_not_for_every_user_to_write_to(project):
    """DVC makes its folder with mode 777, whatever the umask, unless it is there."""
    from dvc.repo import Repo

    keep_private(project)
    site = Path(Repo(str(project)).site_cache_dir)
    assert site.is_relative_to(project / ".dvc" / "tmp" / "site" / "repo")
    assert not [path for path in (project / ".dvc").rglob("*") if path.is_dir() and path.stat().st_mode & 0o002]


def test_settings_of_the_users_own_stay(project):
    """A config.local that has a [core] section already keeps it, and DVC still reads the file."""
    (project / ".dvc" / "config.local").write_text("[core]\n    autostage = true\n", encoding="utf-8")
    workspace = Workspace(project)
    assert workspace.repo.config["core"]["autostage"] is True
    assert workspace.repo.config["core"]["site_cache_dir"].startswith(str(project))


def test_our_dvc_command_is_dvc(project):
    """`python -m pretune.lineage.dvc ARGUMENTS` does what `dvc ARGUMENTS` does, exit code included."""
    import sys

    command = [sys.executable, "-m", "pretune.lineage.dvc", "status", "--json"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert '"ingest"' in done.stdout
    command = [sys.executable, "-m", "pretune.lineage.dvc", "repro", "nothing"]
    assert subprocess.run(command, cwd=project, capture_output=True, check=False).returncode == 255


def held_by(project, pid, path="prepared.txt"):
    """Write DVC's rwlock as a process that works on an output leaves it."""
    (project / ".dvc" / "tmp").mkdir(exist_ok=True)
    held = {"write": {str(project / path): {"pid": pid, "cmd": "repro"}}, "read": {}}
    (project / ".dvc" / "tmp" / "rwlock").write_text(json.dumps(held), encoding="utf-8")


def test_a_lock_of_a_zombie_holds_nothing(project):
    """A dvc that was killed and that nobody collects, as in a container without an init, is no reason to wait."""
    import sys

    zombie = subprocess.Popen(["true"])
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
    held_by(project, zombie.pid)
    command = [sys.executable, "-m", "pretune.lineage.dvc", "repro", "prepare"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    zombie.wait()
    assert done.returncode == 0, done.stderr
    assert "had been killed" in done.stderr


def test_a_stage_whose_dvc_is_gone_is_an_orphan(project):
    """The dvc that holds the output must be above this process; a killed one is not."""
    gone = subprocess.Popen(["true"])
    gone.wait()
    held_by(project, gone.pid)
    assert Workspace(project).is_orphan("prepare")


def test_a_stage_below_its_dvc_is_none(project):
    """Started by the dvc that holds its outputs, near or far above."""
    held_by(project, os.getppid())
    assert not Workspace(project).is_orphan("prepare")


def test_without_a_holder_nobody_is_an_orphan(project):
    """No rwlock, a torn one, or one about another output says nothing."""
    assert not Workspace(project).is_orphan("prepare")
    held_by(project, 1, "elsewhere.txt")
    assert not Workspace(project).is_orphan("prepare")
    (project / ".dvc" / "tmp" / "rwlock").write_text("{", encoding="utf-8")
    assert not Workspace(project).is_orphan("prepare")


@pytest.mark.parametrize("name", ["plain", "My Project #1 (50% off) é", "a, b", "it's", 'say "x" #2'])
def test_dvc_reads_a_path_as_it_was_written(tmp_path, name):
    """Without quotation marks it would end at ` #`, and the cache would lie beside the workspace."""
    from dvc.repo import Repo

    root = tmp_path / name
    (root / ".dvc").mkdir(parents=True)
    write_config(root, read_config(root), {"core": {"no_scm": "true"}, "cache": {"dir": str(root / "the cache")}})
    write_config(root, read_config(root), {"core": {"site_cache_dir": str(root / "site")}})
    assert cache_dir(root) == root / "the cache"
    repo = Repo(str(root))
    assert repo.cache.local.path == str(root / "the cache" / "files" / "md5")
    assert repo.site_cache_dir.startswith(str(root / "site"))
    assert list(tmp_path.iterdir()) == [root]


@pytest.mark.parametrize("name", ["dvc.lock", "dvc.yaml"])
def test_a_merge_conflict_is_named_with_its_lines(done, name):
    """And with the way out."""
    content = (done / name).read_text(encoding="utf-8")
    (done / name).write_text(f"<<<<<<< HEAD\n{content}=======\n>>>>>>> other\n", encoding="utf-8")
    with pytest.raises(ParamsError, match=f"{name}, line 1: a merge conflict") as caught:
        Workspace(done).plan([])
    assert "git " in caught.value.next_step
