//! What the file must consist of: our tables and indexes, as we made them, and nothing else.
//!
//! Whoever writes to the database can leave statements in it that run in ours: a trigger that undoes
//! a write, a view in a table's place, a constraint that says what to do on conflict. They are
//! refused before anything is read or written by them, at the start and whenever SQLite counts a
//! change of the schema.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicI64, Ordering};

use rusqlite::Connection;

use super::errors::unavailable;
use crate::store::StoreError;

/// Creates every table of a store.
pub(super) const TABLES: &str = include_str!("schema.sql");
/// Under the head lock nobody reads a hundred thousand revocations for the denials among them.
pub(super) const DENIALS: &str = "CREATE INDEX IF NOT EXISTS denials ON revocations (target)
  WHERE kind IN ('allow', 'deny')";

/// SQLite's count of the schema that was looked at last.
#[derive(Debug)]
pub(super) struct Schema(AtomicI64);

impl Schema {
    /// Looks at once.
    pub(super) fn of(connection: &Connection) -> Result<Self, StoreError> {
        let schema = Self(AtomicI64::new(NONE));
        schema.require(connection)?;
        Ok(schema)
    }

    /// Refuses a schema that is not ours. Within a transaction what holds now holds until its end.
    pub(super) fn require(&self, connection: &Connection) -> Result<(), StoreError> {
        let count: i64 = connection
            .prepare_cached("PRAGMA schema_version")
            .and_then(|mut count| count.query_row([], |row| row.get(0)))
            .map_err(unavailable)?;
        if self.0.load(Ordering::Acquire) != count {
            require_ours(connection)?;
            self.0.store(count, Ordering::Release);
        }
        Ok(())
    }
}

/// Refuses whatever may run by itself: before a file of before is brought up to date.
pub(super) fn require_inert(connection: &Connection) -> Result<(), StoreError> {
    let is_inert = |object: &&Object| object.kind == "table" || object.kind == "index";
    match objects(connection)?.values().find(|object| !is_inert(object)) {
        Some(object) => Err(foreign(object)),
        None => Ok(()),
    }
}

/// The same, of what a file of before was brought up to, before that is kept: its version and its
/// tables may have been of two times.
pub(super) fn require_brought_up(connection: &Connection, version: i64) -> Result<(), StoreError> {
    connection.execute_batch(DENIALS).map_err(unavailable)?;
    require_ours(connection).map_err(|error| match error {
        StoreError::Inconsistent(what) => StoreError::Versions { version, what },
        error => error,
    })
}

/// Why a step from one version to the next cannot be taken.
pub(super) fn not_of_version(version: i64) -> impl Fn(rusqlite::Error) -> StoreError {
    move |error| match unavailable(error) {
        StoreError::Unavailable(what) | StoreError::Damaged { what, .. }
            if SAYS_SO.iter().any(|is| what.contains(is)) =>
        {
            StoreError::Versions { version, what }
        }
        error => error,
    }
}

/// What SQLite says of a column or an index that a step makes and that is there, or of what it changes
/// and is not.
const SAYS_SO: [&str; 4] =
    ["duplicate column name", "already exists", "no such table", "no such column"];

fn require_ours(connection: &Connection) -> Result<(), StoreError> {
    let ours = Connection::open_in_memory()
        .and_then(|empty| empty.execute_batch(&format!("{TABLES}{DENIALS};")).map(|()| empty))
        .map_err(unavailable)?;
    let (ours, found) = (objects(&ours)?, objects(connection)?);
    if let Some(object) = found.iter().find(|(name, it)| ours.get(*name) != Some(it)) {
        return Err(foreign(object.1));
    }
    match ours.iter().find(|(name, _)| !found.contains_key(*name)) {
        Some((_, Object { kind, name, .. })) => {
            Err(StoreError::Inconsistent(format!("its {kind} {name:?} is gone")))
        }
        None => Ok(()),
    }
}

fn foreign(Object { kind, name, table, .. }: &Object) -> StoreError {
    StoreError::Inconsistent(format!(
        "its {kind} {name:?} (of {table:?}) is not as this CA made it: somebody else wrote it, and it \
         may undo what is written"
    ))
}

/// One of the schema's.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Object {
    kind: String,
    name: String,
    table: String,
    parts: BTreeSet<String>,
}

fn objects(connection: &Connection) -> Result<BTreeMap<String, Object>, StoreError> {
    // What ANALYZE has counted, and indexes that a table's own constraints make, are SQLite's.
    let sql = "SELECT type, name, tbl_name, sql FROM sqlite_schema
               WHERE sql IS NOT NULL AND name NOT IN ('sqlite_stat1', 'sqlite_stat4')";
    let read = || -> rusqlite::Result<_> {
        connection
            .prepare(sql)?
            .query_map([], |row| {
                let (kind, name, table) = (row.get(0)?, row.get::<_, String>(1)?, row.get(2)?);
                let parts = parts(&row.get::<_, String>(3)?);
                Ok((name.clone(), Object { kind, name, table, parts }))
            })?
            .collect()
    };
    read().map_err(unavailable)
}

/// A statement by its parts: a column that came with a later version stands last, and says what the
/// rows of before have.
fn parts(sql: &str) -> BTreeSet<String> {
    let sql = sql.replace('"', "").to_lowercase();
    let sql = sql.split_whitespace().collect::<Vec<_>>().join(" ");
    let Some((before, rest)) = sql.split_once('(').filter(|_| sql.starts_with("create table"))
    else {
        return BTreeSet::from([sql]);
    };
    let (body, after) = rest.rsplit_once(')').unwrap_or((rest, ""));
    let mut parts = BTreeSet::from([before.trim().to_owned(), format!(") {}", after.trim())]);
    let (mut depth, mut part) = (0_u32, String::new());
    for character in body.chars().chain([',']) {
        match character {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                let column = std::mem::take(&mut part);
                let column = column.replace(" default x''", "").replace(" default ''", "");
                parts.insert(column.trim().to_owned());
                continue;
            }
            _ => {}
        }
        part.push(character);
    }
    parts
}

/// SQLite counts from 0.
const NONE: i64 = -1;

#[cfg(test)]
mod tests {
    use rusqlite::{OpenFlags, StatementStatus};

    use super::*;

    fn database(changes: &str) -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(&format!("{TABLES}{DENIALS};{changes}")).unwrap();
        connection
    }

    #[test]
    fn whatever_may_change_what_a_statement_does_is_refused() {
        let rewrite = |from: &str, to: &str| {
            format!(
                "PRAGMA writable_schema = ON;
                 UPDATE sqlite_schema SET sql = replace(sql, '{from}', '{to}');
                 PRAGMA writable_schema = RESET"
            )
        };
        for changes in [
            "CREATE TRIGGER t BEFORE INSERT ON entries BEGIN SELECT RAISE(IGNORE); END",
            "CREATE TRIGGER t AFTER INSERT ON revocations BEGIN DELETE FROM revocations; END",
            "CREATE VIEW v AS SELECT 1",
            "ALTER TABLE operators RENAME TO hidden;
             CREATE VIEW operators AS SELECT name, log_index FROM hidden WHERE 0",
            "CREATE UNIQUE INDEX i ON entries (folds)",
            "DROP INDEX denials",
            "DROP INDEX denials; CREATE INDEX denials ON revocations (target) WHERE kind = 'none'",
            "CREATE TABLE t (a)",
            "ALTER TABLE records ADD COLUMN a TEXT",
            &rewrite(
                "log_index INTEGER PRIMARY KEY",
                "log_index INTEGER PRIMARY KEY ON CONFLICT IGNORE",
            ),
            &rewrite("facts TEXT NOT NULL", "facts TEXT NOT NULL COLLATE NOCASE"),
            &rewrite("used_leaf INTEGER", "used_leaf INTEGER CHECK (used_leaf < 0)"),
            &rewrite("reason TEXT NOT NULL", "reason TEXT NOT NULL DEFAULT 1"),
        ] {
            Schema::of(&database(changes)).expect_err(changes);
        }
        Schema::of(&database("ANALYZE")).unwrap();
    }

    #[test]
    fn a_schema_that_changes_later_is_looked_at_again() {
        let connection = database("");
        let schema = Schema::of(&connection).unwrap();
        let trigger = "CREATE TRIGGER t BEFORE UPDATE ON head BEGIN SELECT RAISE(IGNORE); END";
        connection.execute_batch(trigger).unwrap();
        schema.require(&connection).unwrap_err();
        schema.require(&connection).unwrap_err();
        connection.execute_batch("DROP TRIGGER t").unwrap();
        schema.require(&connection).unwrap();
    }

    #[test]
    fn statement_is_planned_once_for_all_values() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("countersign.db");
        let connection =
            super::super::file::connect_as(&path, OpenFlags::SQLITE_OPEN_CREATE).unwrap();
        connection.execute_batch(&format!("{TABLES}{DENIALS}")).unwrap();
        let sql = "SELECT bytes FROM entries WHERE place BETWEEN ?1 AND ?2 ORDER BY place LIMIT ?3";
        let mut statement = connection.prepare(sql).unwrap();
        for first in 0..3 {
            assert!(!statement.exists([first, first + 5, 9]).unwrap());
        }
        assert_eq!(statement.get_status(StatementStatus::RePrepare), 0);
    }
}
