//! Warns of an issuer or a root that ends: once at each of a half, a quarter and a twelfth of its life.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use api::{LifeLeft, LifeWarning};
use authority::Authority;

/// Looks now and then; what is so at the start is told at once.
pub(crate) async fn warn(authority: Arc<Authority>) {
    let mut told = Told::default();
    loop {
        for LifeWarning { key, id, not_after, left, next_step } in
            told.news(authority.rotation.life_warnings())
        {
            tracing::warn!(%key, id, %not_after, %left, next_step, "a certificate of the CA's ends");
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// What was told of each key, by its id.
#[derive(Debug, Default)]
struct Told(HashMap<String, LifeLeft>);

impl Told {
    /// Those of which less is left than was told.
    fn news(&mut self, warnings: Vec<LifeWarning>) -> Vec<LifeWarning> {
        let is_new = |warning: &LifeWarning| {
            let before = self.0.insert(warning.id.clone(), warning.left);
            before.is_none_or(|before| before < warning.left)
        };
        warnings.into_iter().filter(is_new).collect()
    }
}

const LOOK_EVERY: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;
    use api::KeyPurpose;
    use time::OffsetDateTime;

    fn warning(id: &str, left: LifeLeft) -> LifeWarning {
        LifeWarning {
            key: KeyPurpose::Issuer,
            id: id.to_owned(),
            not_after: OffsetDateTime::UNIX_EPOCH,
            left,
            next_step: String::new(),
        }
    }

    #[test]
    fn each_threshold_of_each_key_is_told_once() {
        let mut told = Told::default();
        let mut news = |warnings: &[(&str, LifeLeft)]| {
            let warnings = warnings.iter().map(|(id, left)| warning(id, *left)).collect();
            told.news(warnings).len()
        };
        assert_eq!(news(&[]), 0);
        assert_eq!(news(&[("one", LifeLeft::Half)]), 1);
        assert_eq!(news(&[("one", LifeLeft::Half), ("other", LifeLeft::Quarter)]), 1);
        assert_eq!(news(&[("one", LifeLeft::Quarter), ("other", LifeLeft::Quarter)]), 1);
        assert_eq!(news(&[("one", LifeLeft::Twelfth), ("other", LifeLeft::Twelfth)]), 2);
        assert_eq!(news(&[("one", LifeLeft::Twelfth), ("other", LifeLeft::Twelfth)]), 0);
    }
}
