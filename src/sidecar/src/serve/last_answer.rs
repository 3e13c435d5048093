//! The answer to a request by which a peer ends itself: it revokes its own certificate, or its own
//! identity. What closes its connection would close it before it has heard that it was done.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::connections::connection::Connection;
use crate::handshake::HTTP_2;

/// Lets the answer to this request reach the peer, although the request ends the peer's own welcome;
/// an extension of each request of a peer with a certificate, where [`serve`](crate::serve()) serves.
///
/// Only for a request that is about to do that: while an [`Answering`] of it lives, a connection
/// that is to be closed takes no further request, and is closed as soon as the answer has left, a
/// second later at most.
#[derive(Clone)]
pub struct LastAnswer {
    connection: Arc<Connection>,
    wanted: Arc<AtomicBool>,
}

/// The request that asked for it is being answered.
pub struct Answering(Arc<Connection>);

impl LastAnswer {
    pub(crate) fn new(connection: &Arc<Connection>) -> Self {
        Self { connection: Arc::clone(connection), wanted: Arc::default() }
    }

    /// From now on, until what is returned is dropped.
    pub fn hold(&self) -> Answering {
        self.wanted.store(true, Ordering::Release);
        self.connection.begin_answer();
        Answering(Arc::clone(&self.connection))
    }

    /// Whether this request ends where it is: its peer is no longer welcome, and it is not the one
    /// that is answered still.
    pub(crate) fn has_ended(&self) -> bool {
        self.connection.is_leaving() && !self.wanted.load(Ordering::Acquire)
    }

    /// Whether the connection is closed after this answer, and HTTP has a header that says so.
    pub(crate) fn says_close(&self) -> bool {
        self.connection.is_leaving() && !self.connection.has_protocol(HTTP_2)
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.end_answer();
    }
}

impl fmt::Debug for LastAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LastAnswer")
    }
}

impl fmt::Debug for Answering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Answering")
    }
}
