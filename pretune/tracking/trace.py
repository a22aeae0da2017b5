"""Traces a model back to what made it, and data forward to all that was made of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pretune.errors import NotFoundInRecordsError, did_you_mean

if TYPE_CHECKING:
    from rich.tree import Tree

    from pretune.tracking.record import Record
    from pretune.tracking.records import Records

Lineage = dict[str, Any]
SHORT = 12  # characters of a hash or run id that are shown
NEWEST = 10  # of the runs that read the same data, how many are shown


class Tracer:
    """Follows the md5 hashes that runs read and wrote. Only runs that executed count as makers.

    locked: {path: md5} of dvc.lock. limit: how many runs that read the same data are shown; None: all.
    """

    def __init__(self, records: Records, locked: Mapping[str, str], limit: int | None = NEWEST) -> None:
        self.records, self.locked, self.limit = records, locked, limit

    def trace(self, target: str) -> Lineage:
        """Trace a path, a hash or a run id, of which 8 characters are enough, in both directions."""
        path = target.rstrip("/").removeprefix("./")
        if path in self.locked:
            return {"run": None, "made": [self._both_ways(path, self.locked[path])]}
        if record := self.records.starting(target):
            maker = self.records.executed(record)
            if maker.outputs:
                return {"run": maker.run_id, "made": [self._both_ways(p, m) for p, m in maker.outputs.items()]}
            raise NotFoundInRecordsError(
                f"run {target} ({record.name}) wrote no output", "pretune trace models/finetuned"
            )
        matches = [(path, md5) for path, md5 in self.locked.items() if len(target) >= 8 and md5.startswith(target)]
        output = matches[0] if matches else self.records.find_hash(target, self.locked)
        if not output:
            raise NotFoundInRecordsError(
                f"no output, hash or run `{target}` is known{did_you_mean(target, self.locked)}",
                "pretune trace models/finetuned   (or another path of dvc.lock)",
            )
        return {"run": None, "made": [self._both_ways(*output)]}

    def _both_ways(self, path: str, md5: str) -> Lineage:
        users, left_out = self._forward(path, md5)
        lineage = {"path": path, "md5": md5, "made_by": self._back(path, md5), "used_by": users}
        return lineage | {"left_out": left_out}

    def _back(self, path: str, md5: str) -> Lineage | None:
        run = self.records.maker(path, md5)
        if not run:
            return None
        sources = [{"path": p, "md5": m, "made_by": self._back(p, m)} for p, m in sorted(run.inputs.items())]
        return self._facts(run) | {"inputs": sources}

    def _forward(self, path: str, md5: str) -> tuple[list[Lineage], list[Lineage]]:
        """The runs that read this data or anything made of it, each once; and how many are left out at which data.

        Of the runs that read the same data, the newest `limit` are followed.
        """
        descendants, left_out, seen = [], [], set()
        known = generation = [(path, md5)]
        while generation:
            made: list[tuple[str, str]] = []
            for (file, digest), users in zip(
                generation, self.records.users_of_all(generation, self.limit), strict=True
            ):
                if users.total is None or users.total > len(users.records):
                    more = None if users.total is None else users.total - len(users.records)
                    left_out.append({"path": file, "md5": digest, "runs": more})
                for run in users.records:
                    if run.run_id not in seen:
                        seen.add(run.run_id)
                        made += [output for output in run.outputs.items() if output not in known + made]
                        descendants.append(self._facts(run) | {"outputs": run.outputs, "models": run.models})
            known, generation = known + made, made
        return descendants, left_out

    def _facts(self, run: Record) -> Lineage:
        return {
            "stage": run.name,
            "run": run.run_id,
            "commit": run.tags.get("git.commit", "unknown"),
            "dirty": run.tags.get("git.dirty") == "true",
            "params": run.params,
        }


def tree(lineage: Lineage, current: Mapping[str, str] | None) -> Tree:
    """The lineage for a terminal. current: the params of now; only those that differ are shown. None: all."""
    from rich.tree import Tree

    top = Tree(f"run {lineage['run']}" if lineage["run"] else "lineage")
    shown: set[str] = set()
    for item in lineage["made"]:
        node = top.add(f"[bold]{_data(item)}[/bold]")
        _add_maker(node.add("made by"), item["made_by"], current, shown)
        users = node.add("used by" if item["used_by"] else "used by no run on record")
        for user in item["used_by"]:
            below = users.add(_line(user))
            for path, md5 in user["outputs"].items():
                below.add(_data({"path": path, "md5": md5}))
            for model in user["models"]:
                below.add(f"models:/{model}")
        for data in item["left_out"]:
            number = "more" if data["runs"] is None else f"{data['runs']:,} more"
            users.add(f"[dim]… {number} runs that read {_data(data)}: --all shows them[/dim]")
    if current is not None:
        top.add("[dim]only params that differ from params.yaml are shown; --params shows all[/dim]")
    return top


def _add_maker(node: Tree, maker: Lineage | None, current: Mapping[str, str] | None, shown: set[str]) -> None:
    """Add the run and its inputs with their makers; a run that is in the tree already is only named."""
    if maker is None:
        node.add("[dim]no run on record (a file of your own, or a run that MLflow does not know)[/dim]")
        return
    if maker["run"] in shown:
        node.add(f"{_line(maker)}  [dim](see above)[/dim]")
        return
    shown.add(maker["run"])
    run = node.add(_line(maker))
    for line in _params(maker["params"], current):
        run.add(line)
    for source in maker["inputs"]:
        below = run.add(_data(source))
        if source["made_by"]:
            _add_maker(below, source["made_by"], current, shown)


def _params(recorded: Mapping[str, str], current: Mapping[str, str] | None) -> list[str]:
    from rich.markup import escape

    if current is None:
        return [escape(f"{key}={value}") for key, value in recorded.items()]
    changed = {key: value for key, value in recorded.items() if current.get(key) != value}
    return [escape(f"{key}={value}  (now {current.get(key, 'without a value')})") for key, value in changed.items()]


def _data(item: Lineage) -> str:
    from rich.markup import escape

    return f"{escape(item['path'])}  {item['md5'][:SHORT]}"


def _line(run: Lineage) -> str:
    dirty = " + changes.patch" if run["dirty"] else ""
    return f"[cyan]{run['stage']}[/cyan]  run {run['run'][:SHORT]}  commit {run['commit'][:SHORT]}{dirty}"
