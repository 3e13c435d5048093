//! Lists, a page at a time.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

/// A page of a list; ask for the next with `?after=`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// Where the next page begins; none on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// As it stands in a query.
pub(crate) fn items_of_a_page<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<u32>, D::Error> {
    match String::deserialize(deserializer)?.parse() {
        Ok(items @ 1..=1000) => Ok(Some(items)),
        _ => Err(D::Error::custom("a page has 1 to 1,000 items")),
    }
}
