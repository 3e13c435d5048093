//! Headers that several routes take, as the API's description has them.

/// The header by which a caller names a `POST`.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "it describes what `caller::Body` reads")]
pub(crate) struct IdempotencyKey {
    /// The caller's name for the request, kept 24 h once it has succeeded: the same request is done
    /// once, and answered alike; another is `idempotency-mismatch`. 1 to 255 visible ASCII
    /// characters, such as a UUID. What only reads takes it, too, and has nothing to keep.
    #[param(rename = "Idempotency-Key", max_length = 255, pattern = r#"^(?!""$)[!-~]+$"#)]
    idempotency_key: Option<String>,
}

/// The header by which whoever has a bootstrap token names it before its body is read.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "it describes what `routes::token_of` reads")]
pub(crate) struct NamedToken {
    /// SHA-256 of the token's secret bits, lower-case hex. A token that lives has some requests of its
    /// own where others have taken the whole share of its address (429); without this it has none.
    #[param(rename = "Countersign-Token", pattern = "^[0-9a-f]{64}$")]
    countersign_token: Option<String>,
}

/// The header by which a caller says what it has.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "it describes what `negotiation::has_already` reads")]
pub(crate) struct IfNoneMatch {
    /// The `ETag` of an answer before, a list of such, or `*`: 304 where it is as it was then.
    #[param(rename = "If-None-Match")]
    if_none_match: Option<String>,
}
