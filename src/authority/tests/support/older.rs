//! Databases of before, put back.

use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

/// What the database is now, to be put back later.
pub(crate) fn copy(state: &Path) -> PathBuf {
    let number = fs::read_dir(state).unwrap().count();
    let older = state.join(format!("older-{number}.db"));
    database(state).execute("VACUUM INTO ?1", [older.to_str()]).unwrap();
    older
}

/// Puts all rows back, below whoever has the database open.
pub(crate) fn put_back(state: &Path, older: &Path) {
    let database = database(state);
    database.execute("ATTACH ?1 AS older", [older.to_str()]).unwrap();
    let tables = "SELECT name FROM older.sqlite_master WHERE type = 'table'";
    let tables: Vec<String> = {
        let mut tables = database.prepare(tables).unwrap();
        tables.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    let put: String = tables
        .iter()
        .map(|table| {
            format!("DELETE FROM {table}; INSERT INTO {table} SELECT * FROM older.{table};")
        })
        .collect();
    database.execute_batch(&format!("PRAGMA foreign_keys = OFF; BEGIN; {put} COMMIT;")).unwrap();
}

pub(crate) fn database(state: &Path) -> Connection {
    Connection::open(state.join("countersign.db")).unwrap()
}

/// The tables by which versions before 7 decided renewals.
pub(crate) const RENEWALS_IN_ROWS: &str = "
  CREATE TABLE renewals (serial_number BLOB PRIMARY KEY, leaf_index INTEGER NOT NULL,
    replaced INTEGER NOT NULL) WITHOUT ROWID;
  CREATE TABLE seen (serial_number BLOB PRIMARY KEY) WITHOUT ROWID;
  CREATE TABLE broken_lineages (lineage BLOB PRIMARY KEY, log_index INTEGER NOT NULL) WITHOUT ROWID;
";
