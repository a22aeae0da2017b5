"""Tables of a database: `DIALECT://host/database#TABLE`, through SQLAlchemy."""

from __future__ import annotations

import os
from pathlib import Path

from pretune.data.sources.grammar import SQLITE
from pretune.data.sources.record import Record, Records
from pretune.errors import DataError, did_you_mean

USER, PASSWORD = "PRETUNE_SQL_USER", "PRETUNE_SQL_PASSWORD"
BATCH = 1024  # rows that are fetched at once


def read(place: str, file: Path | None) -> Records:
    """The rows of a table in the order of its primary key, or of all its columns: a fixed one.

    `file` is where a SQLite database lies. Raises DataError where the address or the table is wrong.
    """
    from sqlalchemy import MetaData, Table, create_engine, inspect, select
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import NoSuchModuleError, SQLAlchemyError

    address, _, table_name = place.partition("#")
    try:
        url = make_url(SQLITE + str(file) if file else address)
        if url.password:
            raise DataError(
                f"ingest.source: {url.render_as_string()} holds a password, and params.yaml is recorded",
                f"leave it out, and set {USER} and {PASSWORD} in the environment",
            )
        url = url if file else url.set(username=os.environ.get(USER), password=os.environ.get(PASSWORD))
        engine = create_engine(url)
        tables = inspect(engine).get_table_names() + inspect(engine).get_view_names()
        if table_name not in tables:
            raise DataError(
                f"ingest.source: {address} has no table `{table_name}`{did_you_mean(table_name, tables)}",
                f"write #TABLE after the address: {', '.join(tables) or 'it has none'}",
            )
        table = Table(table_name, MetaData(), autoload_with=engine)
        order = list(table.primary_key.columns) or list(table.columns)
        with engine.connect().execution_options(yield_per=BATCH) as connection:
            for number, row in enumerate(connection.execute(select(table).order_by(*order)).mappings(), start=1):
                yield Record(f"{table_name}:{number}", dict(row))
        engine.dispose()
    except (ModuleNotFoundError, NoSuchModuleError) as error:
        raise DataError(f"ingest.source: {address}: {error}", "pip install the database's driver") from None
    except SQLAlchemyError as error:
        raise DataError(f"ingest.source: {address}: {error}", "mend ingest.source, then: pretune run") from None
