"""The database schema as a list of steps, each applied once, in order, inside one transaction."""

import sqlite3

STEPS = (
    """
    CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
    CREATE TABLE jobs (
        number INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        uuid TEXT NOT NULL UNIQUE,
        state TEXT NOT NULL,
        identity TEXT,
        finished REAL,
        record TEXT NOT NULL
    ) STRICT;
    CREATE INDEX jobs_by_state ON jobs (state);
    CREATE INDEX jobs_by_end ON jobs (finished);
    CREATE INDEX jobs_by_identity ON jobs (identity);
    CREATE TABLE drop_keys (
        number INTEGER NOT NULL REFERENCES jobs (number),
        path BLOB NOT NULL,
        device TEXT NOT NULL,
        inode TEXT NOT NULL,
        mtime_ns INTEGER NOT NULL,
        size INTEGER NOT NULL,
        kept INTEGER NOT NULL DEFAULT 0,
        removed INTEGER NOT NULL DEFAULT 0
    ) STRICT;
    CREATE INDEX drop_keys_by_path ON drop_keys (path) WHERE removed = 0;
    CREATE TABLE attempts (
        number INTEGER NOT NULL REFERENCES jobs (number),
        stage TEXT NOT NULL,
        mark TEXT NOT NULL,
        boot_id TEXT NOT NULL,
        started REAL NOT NULL,
        ended REAL,
        exit_code INTEGER,
        counted INTEGER NOT NULL DEFAULT 1,
        pid INTEGER,
        pid_started INTEGER
    ) STRICT;
    CREATE INDEX attempts_by_job ON attempts (number, stage);
    CREATE INDEX attempts_open ON attempts (ended) WHERE ended IS NULL;
    CREATE TABLE events (time REAL NOT NULL, number INTEGER, event TEXT NOT NULL, facts TEXT NOT NULL) STRICT;
    CREATE INDEX events_by_job ON events (number);
    CREATE TABLE requests (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        action TEXT NOT NULL,
        target TEXT NOT NULL,
        arguments TEXT NOT NULL,
        asked REAL NOT NULL
    ) STRICT;
    CREATE TABLE counters (
        name TEXT NOT NULL,
        labels TEXT NOT NULL,
        value REAL NOT NULL,
        PRIMARY KEY (name, labels)
    ) STRICT;
    """,
    """
    CREATE INDEX jobs_by_push ON jobs (json_extract(record, '$.push'));
    """,
    """
    CREATE TABLE pushes (
        number INTEGER PRIMARY KEY REFERENCES jobs (number) ON DELETE CASCADE,
        attempts INTEGER NOT NULL DEFAULT 0,
        next_try REAL NOT NULL DEFAULT 0,
        result TEXT,
        message TEXT NOT NULL DEFAULT '',
        hint TEXT,
        repository TEXT,
        url TEXT,
        boot_id TEXT,
        pid INTEGER,
        pid_started INTEGER
    ) STRICT;
    """,
    """
    CREATE TABLE measurements (time REAL NOT NULL, record TEXT NOT NULL) STRICT;
    """,
)

SCHEMA_VERSION = len(STEPS)


def migrate(connection: sqlite3.Connection, version: int) -> None:
    """Bring the schema from `version` to SCHEMA_VERSION. The caller holds a transaction."""
    for step in STEPS[version:]:
        for statement in step.split(";"):
            if statement.strip():
                connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
