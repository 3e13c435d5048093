//! A signer that is watched: for tests of what a key is asked to sign.

use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::{Signer, SignerError};

/// Sees each message before it is signed; may refuse it.
pub type Watch = dyn Fn(&[u8]) -> Result<(), SignerError> + Send + Sync;

/// Calls a watch before each signature.
pub struct SpySigner {
    inner: Arc<dyn Signer>,
    watch: Box<Watch>,
}

impl SpySigner {
    /// Watches a signer.
    pub fn new(
        inner: Arc<dyn Signer>,
        watch: impl Fn(&[u8]) -> Result<(), SignerError> + Send + Sync + 'static,
    ) -> Self {
        Self { inner, watch: Box::new(watch) }
    }
}

impl Signer for SpySigner {
    fn public_key(&self) -> &[u8] {
        self.inner.public_key()
    }

    fn sign<'a>(&'a self, message: &'a [u8]) -> BoxFuture<'a, Result<Vec<u8>, SignerError>> {
        Box::pin(async move {
            (self.watch)(message)?;
            self.inner.sign(message).await
        })
    }
}

impl fmt::Debug for SpySigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SpySigner")
    }
}
