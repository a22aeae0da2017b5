"""Versions of a model in MLflow's registry, and their aliases, @champion and @challenger."""

from __future__ import annotations

import os
import platform
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pretune.errors import LockedError, NotFoundInRecordsError
from pretune.tracking.client import create_once

CHAMPION, CHALLENGER = "champion", "challenger"
MODEL = "pretune.model"  # tag of a version: the id of its model
LOCK_EXPIRES = 600.0  # seconds after which the lock of a promotion counts as abandoned
DESCRIPTION = 5000  # characters, the limit of MLflow


@dataclass(frozen=True)
class Version:
    """A version of a model. run_id: of the run that trained it."""

    version: str
    run_id: str
    model_id: str
    tags: dict[str, str] = field(default_factory=dict)


class Registry:
    """The versions of the model `name`."""

    def __init__(self, client: Any, name: str) -> None:
        self.client, self.name = client, name

    @property
    def _changes(self) -> Any:
        """The part of MLflow's client that changes a version.

        In front of it, MLflow asks each time whether the model is a prompt, for which a server reads every version.
        """
        return self.client._get_registry_client()

    def alias(self, alias: str) -> Version | None:
        """The version with this alias, if there is one."""
        model = self._model(self.name)
        return self.version(model.aliases[alias]) if model and alias in model.aliases else None

    def find(self, name: str) -> Version:
        """The version with this alias or number; NotFoundInRecordsError if there is none."""
        version = self.version(name) if name.isdigit() else self.alias(name)
        if version is None:
            raise NotFoundInRecordsError(f"no version of {self.name} is @{name}", "pretune promote")
        return version

    def of_model(self, model_id: str) -> Version | None:
        """The version of this model, if it is registered."""
        versions = self.client.search_model_versions(f"name = '{self.name}' and tags.`{MODEL}` = '{model_id}'")
        return self.version(versions[0].version) if versions else None

    def register(self, model_id: str, run_id: str) -> Version:
        """The version of this model: a new one if it is not registered yet."""
        if not self._model(self.name):
            create_once(lambda: self.client.create_registered_model(self.name), lambda: self._model(self.name))
        if registered := self.of_model(model_id):
            return registered
        uri = self.client.get_logged_model(model_id).artifact_location  # `models:/…` depends on a global default

        def create() -> Version:
            tags = {MODEL: model_id}
            created = self.client.create_model_version(self.name, uri, run_id, model_id=model_id, tags=tags)
            return self.version(created.version)

        registered = create_once(create, lambda: self.of_model(model_id))
        assert isinstance(registered, Version)
        return registered

    def annotate(self, version: Version, tags: Mapping[str, str], description: str = "") -> None:
        """Store tags and a description with a version; both are cut at DESCRIPTION characters."""
        for key, value in tags.items():
            if version.tags.get(key) != value[:DESCRIPTION]:
                self._changes.set_model_version_tag(self.name, version.version, key, value[:DESCRIPTION])
        if description:
            cut = description if len(description) <= DESCRIPTION else description[: DESCRIPTION - 2] + "\n…"
            self._changes.update_model_version(self.name, version.version, cut)

    def set_alias(self, alias: str, version: Version) -> None:
        """Move an alias to a version."""
        self._changes.set_registered_model_alias(self.name, alias, version.version)

    def lock(self) -> AbstractContextManager[None]:
        """Exclude other promotions of this model, on all machines. LockedError if one is in progress."""
        return self._lock(f"{self.name}.promotion-under-way")

    @contextmanager
    def _lock(self, name: str) -> Iterator[None]:
        """The lock is a registered model of this name: names in the registry are unique."""
        held = self._model(name)
        if held and (time.time() - held.creation_timestamp / 1000 > LOCK_EXPIRES or _is_gone(held.tags)):
            with self._lock(f"{name}.passed-over"):  # two processes that find it abandoned must not both continue
                self._release(held)
        holder = {"holder": _holder(), "machine": _machine(), "id": uuid.uuid4().hex}

        def find() -> Any:
            model = self._model(name)
            return model if model and model.tags == holder else None

        try:
            own = create_once(lambda: self.client.create_registered_model(name, holder), find)
        except Exception as error:  # of MLflow; only its code says that the name exists
            if getattr(error, "error_code", "") != "RESOURCE_ALREADY_EXISTS":
                raise
            other = self._model(name)
            raise LockedError(
                f"{self.name} is being promoted by {other.tags.get('holder', '') if other else 'another process'}",
                f"wait until it ends (if its machine is gone, its lock expires after {LOCK_EXPIRES / 60:.0f} minutes)",
            ) from None
        try:
            yield
        finally:
            self._release(own)

    def _release(self, lock: Any) -> None:
        """Delete a lock, unless another process has taken it since."""
        current = self._model(lock.name)
        if current and (current.creation_timestamp, current.tags) == (lock.creation_timestamp, lock.tags):
            self.client.delete_registered_model(lock.name)

    def _model(self, name: str) -> Any:
        models = self.client.search_registered_models(f"name = '{name}'", max_results=1)
        return models[0] if models else None

    def version(self, number: str) -> Version:
        """The version with this number; NotFoundInRecordsError if there is none."""
        try:
            version = self.client.get_model_version(self.name, str(number))
        except Exception as error:
            raise NotFoundInRecordsError(f"{self.name} has no version {number}", "pretune promote") from error
        return Version(str(version.version), version.run_id, version.tags.get(MODEL, ""), dict(version.tags))


def _holder() -> str:
    return f"process {os.getpid()} on {platform.node()}"


def _machine() -> str:
    """What tells this machine, since it was started, from all others; in a container, that. "" if it cannot be told."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _is_gone(tags: Mapping[str, str]) -> bool:
    """Whether the holder of a lock was a process of this machine that has ended."""
    number = tags.get("holder", "").split(" ")[1:2]
    return bool(tags.get("machine")) and tags["machine"] == _machine() and not Path("/proc", *number).exists()
