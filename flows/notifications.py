"""The automations of deploy/automations.yaml on a Prefect server, each with a notification block that is there."""

from __future__ import annotations

from pathlib import Path

from prefect.client.orchestration import SyncPrefectClient
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectNotFound

from pretune.config.files import read_yaml
from pretune.errors import NotFoundInRecordsError

FILE = "deploy/automations.yaml"


def create(client: SyncPrefectClient, root: Path, block: str) -> list[str]:
    """Create the automations, in place of those with the same names. block: TYPE/NAME. Returns their names."""
    block_id = _block(client, block)
    wanted = []
    for automation in read_yaml(root / FILE)["automations"]:
        for action in automation["actions"]:
            action["block_document_id"] = block_id
        wanted.append(AutomationCore.model_validate(automation))
    for automation in wanted:
        former = client.read_automations_by_name(automation.name)
        client.create_automation(automation)
        for old in former:  # after the new one: no event in between goes unnoticed
            client.delete_automation(old.id)
    return [automation.name for automation in wanted]


def _block(client: SyncPrefectClient, block: str) -> str:
    """The id of a block. Raises NotFoundInRecordsError if the server has none of this type and name."""
    slug, _, name = block.partition("/")
    try:
        return str(client.read_block_document_by_name(name, slug).id)
    except ObjectNotFound:
        known = [f"{each.block_type.slug}/{each.name}" for each in client.read_block_documents() if each.block_type]
        raise NotFoundInRecordsError(
            f"the Prefect server has no block {block}; it has {', '.join(sorted(known)) or 'none'}",
            "create one on the page Blocks of the Prefect UI: Slack, e-mail, a webhook of your own",
        ) from None
