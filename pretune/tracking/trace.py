"""From a model back to what made it, and from data forward to what was made of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pretune.errors import NotFoundInRecordsError, did_you_mean

if TYPE_CHECKING:
    from rich.tree import Tree

    from pretune.tracking.record import Record
    from pretune.tracking.records import Records

Found = dict[str, Any]
SHORT = 12  # characters of a hash or run id that are shown
NEWEST = 10  # runs that read the same bytes, of which the newest are shown


class Tracer:
    """Follows the md5 hashes that runs read and wrote. Only runs that executed count as makers.

    `locked` are the paths and hashes of dvc.lock; `most` is how many users of the same bytes are told, None: all.
    """

    def __init__(self, records: Records, locked: Mapping[str, str], most: int | None = NEWEST) -> None:
        self.records, self.locked, self.most = records, locked, most

    def trace(self, what: str) -> Found:
        """Resolve a path, a hash or a run id (8 characters of these suffice), then look both ways."""
        path = what.rstrip("/").removeprefix("./")
        if path in self.locked:
            return {"run": None, "made": [self._both(path, self.locked[path])]}
        if record := self.records.starting(what):
            maker = self.records.executed(record)
            if maker.outputs:
                return {"run": maker.run_id, "made": [self._both(p, m) for p, m in maker.outputs.items()]}
            raise NotFoundInRecordsError(
                f"run {what} ({record.name}) wrote no output", "pretune trace models/finetuned"
            )
        known = [each for each in self.locked.items() if len(what) >= 8 and each[1].startswith(what)]
        found = known[0] if known else self.records.hashed(what, self.locked)
        if not found:
            raise NotFoundInRecordsError(
                f"no output, hash or run `{what}` is known{did_you_mean(what, self.locked)}",
                "pretune trace models/finetuned   (or another path of dvc.lock)",
            )
        return {"run": None, "made": [self._both(*found)]}

    def _both(self, path: str, md5: str) -> Found:
        used, left_out = self._forward(path, md5)
        both = {"path": path, "md5": md5, "made_by": self._back(path, md5), "used_by": used}
        return both | {"left_out": left_out}

    def _back(self, path: str, md5: str) -> Found | None:
        run = self.records.maker(path, md5)
        if not run:
            return None
        sources = [{"path": p, "md5": m, "made_by": self._back(p, m)} for p, m in sorted(run.inputs.items())]
        return self._facts(run) | {"inputs": sources}

    def _forward(self, path: str, md5: str) -> tuple[list[Found], list[Found]]:
        """Runs that read these bytes, and what was made of what they wrote, each once; and what is not among them.

        Of the many that may have read the same bytes the newest are told and followed.
        """
        found, left_out, seen, pending = [], [], set(), [(path, md5)]
        for wanted in pending:  # which grows meanwhile
            users = self.records.users(*wanted, most=self.most)
            if users.total is None or users.total > len(users.records):
                more = None if users.total is None else users.total - len(users.records)
                left_out.append({"path": wanted[0], "md5": wanted[1], "runs": more})
            for run in users.records:
                if run.run_id not in seen:
                    seen.add(run.run_id)
                    pending += [each for each in run.outputs.items() if each not in pending]
                    found.append(self._facts(run) | {"outputs": run.outputs, "models": run.models})
        return found, left_out

    def _facts(self, run: Record) -> Found:
        return {
            "stage": run.name,
            "run": run.run_id,
            "commit": run.tags.get("git.commit", "unknown"),
            "dirty": run.tags.get("git.dirty") == "true",
            "params": run.params,
        }


def tree(found: Found, now: Mapping[str, str] | None) -> Tree:
    """The same for a terminal. Of the params only those that are other than `now`; None: all of them."""
    from rich.tree import Tree

    top = Tree(f"run {found['run']}" if found["run"] else "lineage")
    told: set[str] = set()
    for item in found["made"]:
        node = top.add(f"[bold]{_bytes(item)}[/bold]")
        _add_maker(node.add("made by"), item["made_by"], now, told)
        users = node.add("used by" if item["used_by"] else "used by nothing that is recorded")
        for user in item["used_by"]:
            below = users.add(_line(user))
            for path, md5 in user["outputs"].items():
                below.add(_bytes({"path": path, "md5": md5}))
            for model in user["models"]:
                below.add(f"models:/{model}")
        for each in item["left_out"]:
            number = "more" if each["runs"] is None else f"{each['runs']:,} more"
            users.add(f"[dim]… {number} runs that read {_bytes(each)}: --all shows them[/dim]")
    if now is not None:
        top.add("[dim]params are shown where params.yaml has another value now; --params shows all[/dim]")
    return top


def _add_maker(node: Tree, maker: Found | None, now: Mapping[str, str] | None, told: set[str]) -> None:
    """The run and what led to it; a run that is in the tree already is not told again."""
    if maker is None:
        node.add("[dim]nothing that is recorded (a file of your own, or a run that MLflow does not know)[/dim]")
        return
    if maker["run"] in told:
        node.add(f"{_line(maker)}  [dim](see above)[/dim]")
        return
    told.add(maker["run"])
    made = node.add(_line(maker))
    for line in _params(maker["params"], now):
        made.add(line)
    for source in maker["inputs"]:
        below = made.add(_bytes(source))
        if source["made_by"]:
            _add_maker(below, source["made_by"], now, told)


def _params(then: Mapping[str, str], now: Mapping[str, str] | None) -> list[str]:
    from rich.markup import escape

    if now is None:
        return [escape(f"{key}={value}") for key, value in then.items()]
    differ = {key: value for key, value in then.items() if now.get(key) != value}
    return [escape(f"{key}={value}  (now {now.get(key, 'without a value')})") for key, value in differ.items()]


def _bytes(item: Found) -> str:
    from rich.markup import escape

    return f"{escape(item['path'])}  {item['md5'][:SHORT]}"


def _line(run: Found) -> str:
    dirty = " + changes.patch" if run["dirty"] else ""
    return f"[cyan]{run['stage']}[/cyan]  run {run['run'][:SHORT]}  commit {run['commit'][:SHORT]}{dirty}"
