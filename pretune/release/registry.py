"""Versions of a model in MLflow's registry, and the aliases that say which one is in use."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from pretune.errors import LockedError, NotFoundInRecordsError

CHAMPION, CHALLENGER = "champion", "challenger"
MODEL = "pretune.model"  # on a version: the id of the model that it is
LEASE = 600.0  # seconds after which a promotion that has not ended counts as dead
DESCRIPTION = 5000  # characters that MLflow takes


@dataclass(frozen=True)
class Version:
    """A model's version; run_id: the run that made the model."""

    version: str
    run_id: str
    model_id: str
    tags: dict[str, str] = field(default_factory=dict)


class Registry:
    """The versions of the model `name`."""

    def __init__(self, client: Any, name: str) -> None:
        self.client, self.name = client, name

    def alias(self, alias: str) -> Version | None:
        """The version that has the alias."""
        found = self._model(self.name)
        return self.version(found.aliases[alias]) if found and alias in found.aliases else None

    def named(self, alias: str) -> Version:
        """The version of this alias or number; NotFoundInRecordsError where there is none."""
        found = self.version(alias) if alias.isdigit() else self.alias(alias)
        if found is None:
            raise NotFoundInRecordsError(f"no version of {self.name} is @{alias}", "pretune promote")
        return found

    def of_model(self, model_id: str) -> Version | None:
        """The version that this model is registered as."""
        found = self.client.search_model_versions(f"name = '{self.name}' and tags.`{MODEL}` = '{model_id}'")
        return self.version(found[0].version) if found else None

    def register(self, model_id: str, run_id: str) -> Version:
        """The model as a version: a new one, if it is none yet."""
        if not self._model(self.name):
            self.client.create_registered_model(self.name)
        known = self.of_model(model_id)
        if known:
            return known
        where = self.client.get_logged_model(model_id).artifact_location  # `models:/…` is looked up in a global default
        made = self.client.create_model_version(self.name, where, run_id, model_id=model_id, tags={MODEL: model_id})
        return self.version(made.version)

    def note(self, version: Version, tags: Mapping[str, str], description: str = "") -> None:
        """Store facts with a version."""
        for key, value in tags.items():
            self.client.set_model_version_tag(self.name, version.version, key, value[:DESCRIPTION])
        if description:
            cut = description if len(description) <= DESCRIPTION else description[: DESCRIPTION - 2] + "\n…"
            self.client.update_model_version(self.name, version.version, cut)

    def give(self, alias: str, version: Version) -> None:
        """Move an alias."""
        self.client.set_registered_model_alias(self.name, alias, version.version)

    def alone(self) -> AbstractContextManager[None]:
        """Nobody else promotes meanwhile, on whatever machine. LockedError where somebody does."""
        return self._holding(f"{self.name}.promotion-under-way")

    @contextmanager
    def _holding(self, lock: str) -> Iterator[None]:
        """Names in the registry are unique, so one is the lock."""
        held = self._model(lock)
        if held and time.time() - held.creation_timestamp / 1000 > LEASE:
            with self._holding(f"{lock}.passed-over"):  # two that find it dead must not both go on
                self._drop(held)
        try:
            made = self.client.create_registered_model(lock, {"holder": _holder()})
        except Exception as error:  # MLflow's; its code says whether it is this
            if getattr(error, "error_code", "") != "RESOURCE_ALREADY_EXISTS":
                raise
            by = self._model(lock)
            raise LockedError(
                f"{self.name} is being promoted by {by.tags.get('holder', '') if by else 'another process'}",
                f"wait for it to end (one that was killed is passed over after {LEASE / 60:.0f} minutes)",
            ) from None
        try:
            yield
        finally:
            self._drop(made)

    def _drop(self, lock: Any) -> None:
        """Delete a lock, unless it is another one of that name by now."""
        now = self._model(lock.name)
        if now and (now.creation_timestamp, now.tags) == (lock.creation_timestamp, lock.tags):
            self.client.delete_registered_model(lock.name)

    def _model(self, name: str) -> Any:
        found = self.client.search_registered_models(f"name = '{name}'", max_results=1)
        return found[0] if found else None

    def version(self, version: str) -> Version:
        """The version of this number."""
        try:
            found = self.client.get_model_version(self.name, str(version))
        except Exception as error:
            raise NotFoundInRecordsError(f"{self.name} has no version {version}", "pretune promote") from error
        return Version(str(found.version), found.run_id, found.tags.get(MODEL, ""), dict(found.tags))


def _holder() -> str:
    return f"process {os.getpid()} on {platform.node()}"
