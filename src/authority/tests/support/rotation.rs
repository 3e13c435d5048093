//! Rotations as `countersign rotate` does them, without HTTP between.

use api::{KeyPurpose, KeyStep, KeyStepOutcome, KeyStepRequest};
use authority::rotation::ceremony::{Ceremonies, Taken};
use authority::{Caller, Error, Keys};

use super::Environment;

impl Environment {
    pub(crate) fn offline_keys(&self) -> Keys {
        Keys::open_offline(self.folder.path(), &api::Secret::new("offline")).unwrap()
    }
}

pub(crate) async fn take(
    environment: &Environment,
    offline: &Keys,
    operator: &Caller,
    purpose: KeyPurpose,
    step: KeyStep,
) -> Result<Taken, Error> {
    take_changed(environment, offline, operator, (purpose, step), |_| {}).await
}

/// The same, but the CA is asked something else than the ceremony would ask.
pub(crate) async fn take_changed(
    environment: &Environment,
    offline: &Keys,
    operator: &Caller,
    (purpose, step): (KeyPurpose, KeyStep),
    change: impl Fn(&mut KeyStepRequest),
) -> Result<Taken, Error> {
    let authority = &environment.authority;
    let trust = authority.view.trust();
    let keys = authority.rotation.keys(operator).await?.items;
    let ceremonies = Ceremonies {
        online: &environment.keys,
        offline: Some(offline),
        trust: trust.state(),
        keys: &keys,
        clock: &*environment.clock,
    };
    let ask = async |id: &str, step, request: &KeyStepRequest| -> Result<KeyStepOutcome, Error> {
        let mut changed = request.clone();
        change(&mut changed);
        authority.rotation.key_step(operator, id, step, &changed).await
    };
    ceremonies.take(purpose, step, ask).await
}
