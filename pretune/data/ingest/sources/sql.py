"""Database tables: `DIALECT://host/database#TABLE`, through SQLAlchemy."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pretune.config.source_spec import SQLITE
from pretune.data.ingest.sources.files import missing
from pretune.data.ingest.sources.record import Record, Records
from pretune.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from sqlalchemy import Engine, Table

USER, PASSWORD = "PRETUNE_SQL_USER", "PRETUNE_SQL_PASSWORD"
BATCH = 1024  # rows per fetch
PACKAGES = {
    "psycopg": "'psycopg[binary]'",
    "psycopg2": "psycopg2-binary",
    "MySQLdb": "mysqlclient",
}  # {module: package}


def read(place: str, file: Path | None) -> Records:
    """The rows of a table, ordered by its primary key or by all columns, so that the order is fixed.

    `file` is the file of a SQLite database. Raises DataError for a wrong address or table before the first row is read.
    """
    address, _, name = place.partition("#")
    if file and not file.exists():  # SQLite would create it
        raise missing(address.removeprefix(SQLITE), file)
    with _as_data_error(address):
        engine = _engine(address, file)
        return _rows(address, engine, _table(address, engine, name))


def _engine(address: str, file: Path | None) -> Engine:
    from sqlalchemy import create_engine
    from sqlalchemy.engine import make_url

    url = make_url(SQLITE + str(file) if file else address)
    if url.password:
        raise DataError(
            f"ingest.source: {url.render_as_string()} holds a password, but params.yaml is recorded",
            f"remove it, and set {USER} and {PASSWORD} in the environment",
        )
    url = url if file else url.set(username=os.environ.get(USER), password=os.environ.get(PASSWORD))
    return create_engine(url)


def _table(address: str, engine: Engine, name: str) -> Table:
    from sqlalchemy import MetaData, Table, inspect

    tables = inspect(engine).get_table_names() + inspect(engine).get_view_names()
    if name not in tables:
        engine.dispose()
        raise DataError(
            f"ingest.source: {address} has no table `{name}`{did_you_mean(name, tables)}",
            f"write #TABLE after the address; the tables are: {', '.join(tables) or 'none'}",
        )
    return Table(name, MetaData(), autoload_with=engine)


def _rows(address: str, engine: Engine, table: Table) -> Records:
    from sqlalchemy import select

    order = list(table.primary_key.columns) or list(table.columns)
    with _as_data_error(address), engine.connect().execution_options(yield_per=BATCH) as connection:
        for number, row in enumerate(connection.execute(select(table).order_by(*order)).mappings(), start=1):
            yield Record(f"{table.name}:{number}", {name: _as_number(value) for name, value in row.items()})
    engine.dispose()


def _as_number(value: Any) -> Any:
    """A NUMERIC as float, any other value as it is."""
    return float(value) if isinstance(value, Decimal) else value


@contextmanager
def _as_data_error(address: str) -> Iterator[None]:
    """Turn errors of the database into DataError."""
    from sqlalchemy.exc import DBAPIError, NoSuchModuleError, SQLAlchemyError

    try:
        yield
    except ImportError as error:
        module = error.name or "the database's driver"
        raise DataError(
            f"ingest.source: {address}: no driver ({error})", f"pip install {PACKAGES.get(module, module)}"
        ) from None
    except NoSuchModuleError as error:
        raise DataError(
            f"ingest.source: {address}: {error}", "pip install the SQLAlchemy dialect of this database"
        ) from None
    except DBAPIError as error:
        raise DataError(
            f"ingest.source: {address}: {str(error.orig).strip()}",
            f"correct the address, or set {USER} and {PASSWORD} in the environment, then: pretune run",
        ) from None
    except SQLAlchemyError as error:
        raise DataError(f"ingest.source: {address}: {error}", "correct ingest.source, then: pretune run") from None
