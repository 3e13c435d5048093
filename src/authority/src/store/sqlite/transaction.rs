//! A transaction that writes.

use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::errors::unavailable;
use super::schema::Schema;
use crate::store::StoreError;

pub(super) fn begin<'a>(
    connection: &'a mut Connection,
    schema: &Schema,
) -> Result<Transaction<'a>, StoreError> {
    let transaction = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(unavailable)?;
    schema.require(&transaction)?;
    Ok(transaction)
}

/// What is written stands in exactly one row: where none was changed, something undid it.
pub(super) fn one(changed: rusqlite::Result<usize>, table: &str) -> Result<(), StoreError> {
    match changed.map_err(unavailable)? {
        1 => Ok(()),
        changed => Err(StoreError::Inconsistent(format!(
            "a write changed {changed} rows of {table:?}, and not one: its rows are not those that \
             this CA wrote, or something in the database undoes what is written"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_that_changes_another_number_of_rows_than_one_fails() {
        one(Ok(1), "head").unwrap();
        for changed in [0, 2] {
            assert!(matches!(one(Ok(changed), "head"), Err(StoreError::Inconsistent(_))));
        }
        let database = Connection::open_in_memory().unwrap();
        let undone = "CREATE TABLE t (a UNIQUE ON CONFLICT IGNORE); INSERT INTO t VALUES (1)";
        database.execute_batch(undone).unwrap();
        one(database.execute("INSERT INTO t VALUES (1)", []), "t").unwrap_err();
    }
}
