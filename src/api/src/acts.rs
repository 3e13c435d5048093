//! What somebody did that stays when they are believed no more.

use identity::SpiffeId;
use serde::{Deserialize, Serialize};

/// Something that was done and stays, though who did it is revoked: an operator added, a certificate for
/// a token, or in the last days for another than who asked, a policy set put into force, a step of a
/// rotation, a denial lifted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ActOnRecord {
    /// Its place in the log; of a certificate (`issue`, `token.create`), the certificate's.
    pub log_index: u64,
    /// The kind of its event: `operator.create`, `token.create`, `issue`, `policy.change`,
    /// `key.activate`, `allow`, …
    pub kind: String,
    /// On whom or what.
    pub subject: String,
}

/// Whose acts, and which page: `GET /v1/acts`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams), into_params(parameter_in = Query))]
pub struct ActFilter {
    /// Who did it.
    #[cfg_attr(feature = "openapi", param(value_type = crate::schema::SpiffeId))]
    pub by: SpiffeId,
    /// Items a page, 1 to 1,000; 100 if left out.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "crate::page::items_of_a_page"
    )]
    #[cfg_attr(feature = "openapi", param(minimum = 1, maximum = 1000))]
    pub limit: Option<u32>,
    /// The `next` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", param(value_type = Option<crate::schema::LogIndex>))]
    pub after: Option<String>,
}

/// Whether there is nothing to say.
pub(crate) fn is_zero(count: &u64) -> bool {
    *count == 0
}
