//! What SQLite says, in the store's words.

use super::place::FILE;
use crate::store::{Hindrance, StoreError};

/// What SQLite says of its own file, and of rows of another form than the schema's, is no passing
/// trouble.
pub(super) fn unavailable(error: rusqlite::Error) -> StoreError {
    use rusqlite::ErrorCode::{ConstraintViolation, DatabaseCorrupt, NotADatabase};
    let is_damage = match &error {
        rusqlite::Error::QueryReturnedNoRows => {
            return damaged("a row is gone that has to be there".to_owned());
        }
        rusqlite::Error::FromSqlConversionFailure(..)
        | rusqlite::Error::IntegralValueOutOfRange(..)
        | rusqlite::Error::InvalidColumnType(..) => true,
        error => match error.sqlite_error_code() {
            Some(DatabaseCorrupt | NotADatabase) => true,
            _ => {
                let text = error.to_string();
                ["no such table", "no such column"].iter().any(|gone| text.starts_with(gone))
            }
        },
    };
    match (is_damage, error.sqlite_error_code()) {
        (true, _) => damaged(error.to_string()),
        // A constraint that does not hold is a row that the plan knows nothing of.
        (false, Some(ConstraintViolation)) => StoreError::Inconsistent(format!(
            "{error}: a row stands there that this CA did not write"
        )),
        (false, code) => {
            let why = error.to_string();
            match code.and_then(hindrance) {
                Some(by) => StoreError::Hindered { by, file: FILE.to_owned(), why },
                None => StoreError::Unavailable(why),
            }
        }
    }
}

fn hindrance(code: rusqlite::ErrorCode) -> Option<Hindrance> {
    use rusqlite::ErrorCode as Code;
    match code {
        Code::DatabaseBusy | Code::DatabaseLocked => Some(Hindrance::Locked),
        Code::DiskFull => Some(Hindrance::DiskFull),
        Code::ReadOnly => Some(Hindrance::ReadOnly),
        Code::SystemIoFailure => Some(Hindrance::DiskFailed),
        _ => None,
    }
}

pub(super) fn damaged(what: String) -> StoreError {
    StoreError::Damaged { file: FILE.to_owned(), what }
}

pub(super) fn gone() -> StoreError {
    StoreError::Unavailable("the thread that asked it has ended".to_owned())
}

/// A table of one row has lost it.
pub(super) fn without_row(table: &str) -> StoreError {
    damaged(format!("the table `{table}` has lost its row"))
}
