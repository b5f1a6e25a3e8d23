"""Opens an ML Metadata store without changing it.

The library creates a database, and the tables in it, where it finds none, which for a mistyped path would answer
"nothing is known" instead of "wrong path". So a SQLite file is looked at first and then opened read-only.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from ml_metadata import errors as mlmd_errors
from ml_metadata import metadata_store
from ml_metadata.proto import metadata_store_pb2 as mlmd

from tfx_mobile.errors import TraceError

_SERVER_SECONDS = 60.0
_CONFIG_EXAMPLES = (
    'ConnectionConfig, such as  mysql { host: "db" port: 3306 database: "metadb" user: "reader" }  or '
    'MetadataStoreClientConfig, such as  host: "metadata-grpc-service" port: 8080'
)

#: Of each kind of database, the fields of which exactly one must be set.
_REQUIRED = {
    "sqlite": (("filename_uri",),),
    "mysql": (("host", "socket"), ("database",)),
    "postgresql": (("host", "hostaddr"), ("port",), ("dbname",), ("user",)),
}


@dataclass(frozen=True)
class Metadata:
    """An ML Metadata store.

    Attributes:
        address: Which one, for people; holds neither user nor password.
        store: The connection.
    """

    address: str
    store: metadata_store.MetadataStore


def open_sqlite(path: str) -> Metadata:
    """Opens a SQLite file, as LocalDagRunner and BeamDagRunner write it. Nothing is created, changed or migrated.

    Raises:
        TraceError: There is no such file, it is no ML Metadata store, or of a schema this library does not read.
    """
    _check_sqlite(path)
    config = mlmd.ConnectionConfig()
    config.sqlite.filename_uri = path
    config.sqlite.connection_mode = mlmd.SqliteMetadataSourceConfig.READONLY
    return _open(config, path)


def open_config(path: str) -> Metadata:
    """Opens what a text proto describes: a ConnectionConfig or a MetadataStoreClientConfig.

    A schema is never migrated, and a database never created. ML Metadata does create its tables in an empty MySQL or
    PostgreSQL database: give it a user that may only read.

    Raises:
        TraceError: The file cannot be read, describes nothing, or what it describes cannot be opened.
    """
    try:
        text = Path(path).read_text()
    except (OSError, ValueError) as error:
        raise TraceError(f"{path} cannot be read: {error}. Give a file that holds a {_CONFIG_EXAMPLES}.") from None
    connection, client = mlmd.ConnectionConfig(), mlmd.MetadataStoreClientConfig()
    problem = _parse(text, client)
    if problem is None and client.host:
        if not client.HasField("client_timeout_sec"):
            client.client_timeout_sec = _SERVER_SECONDS
        return _open(client, f"{client.host}:{client.port}")
    problem = _parse(text, connection) or _missing(connection)
    if problem is not None:
        raise TraceError(f"{path} describes no ML Metadata store: {problem}. Write a {_CONFIG_EXAMPLES}.")
    if connection.HasField("sqlite"):
        return open_sqlite(connection.sqlite.filename_uri)
    if connection.HasField("mysql"):
        mysql = connection.mysql
        mysql.skip_db_creation = True
        return _open(connection, f"mysql://{mysql.host or mysql.socket}:{mysql.port}/{mysql.database}")
    postgresql = connection.postgresql
    postgresql.skip_db_creation = True
    host = postgresql.host or postgresql.hostaddr
    return _open(connection, f"postgresql://{host}:{postgresql.port}/{postgresql.dbname}")


@contextlib.contextmanager
def explaining(address: str) -> Iterator[None]:
    """Turns what ML Metadata raises into a TraceError."""
    try:
        yield
    except (mlmd_errors.StatusError, RuntimeError) as error:
        raise TraceError(
            f"ML Metadata at {address} cannot be read: {type(error).__name__}: {str(error)[:300]}. Check the address "
            "and that the store can be reached from here. Where it cannot, the release store knows the lineage of what "
            "was published: --at DESTINATION."
        ) from None


def _open(config: Any, address: str) -> Metadata:
    with explaining(address):
        return Metadata(address, metadata_store.MetadataStore(config))


def _parse(text: str, message: Any) -> str | None:
    """Reads a text proto; what is wrong with it, without quoting it, as it may hold a password."""
    try:
        text_format.Parse(text, message)
    except text_format.ParseError as error:
        return f"line {error.GetLine()}, column {error.GetColumn()} is not understood"
    return None


def _missing(connection: Any) -> str | None:
    """What a ConnectionConfig lacks; ML Metadata aborts the whole process over some of it."""
    kind = connection.WhichOneof("config")
    if kind is None:
        return "it names no database"
    if kind == "fake_database":
        return "a fake_database is empty"
    config = getattr(connection, kind)
    for alternatives in _REQUIRED[kind]:
        if sum(bool(getattr(config, name)) for name in alternatives) != 1:
            return f"{kind} needs {' or '.join(alternatives)}"
    return None


def _check_sqlite(path: str) -> None:
    """Makes sure that the file is an ML Metadata store, by reading it."""
    advice = "Give the file that the pipeline's metadata_connection_config names."
    file = Path(path)
    if not file.is_file():
        what = "is not a regular file" if file.exists() else "does not exist"
        raise TraceError(f"{path} {what}. Nothing was created. {advice}")
    uri = f"{file.resolve().as_uri()}?mode=ro"
    try:
        with contextlib.closing(sqlite3.connect(uri, uri=True)) as database:
            versions = database.execute("SELECT schema_version FROM MLMDEnv").fetchall()
    except sqlite3.Error as error:
        raise TraceError(f"{path} is no ML Metadata store: {error}. Nothing was changed. {advice}") from None
    if len(versions) != 1:
        raise TraceError(f"{path} is no ML Metadata store: it has {len(versions)} schema versions. {advice}")
