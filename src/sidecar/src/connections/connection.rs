//! One connection with a verified peer, and the means to end it from outside.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use hyper_util::client::legacy::connect::CaptureConnection;
use identity::{Refusal, SerialNumber, Usage};
use rustls::pki_types::CertificateDer;
use rustls::{AlertDescription, HandshakeKind};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio_rustls::TlsStream;

use crate::connections::wire::Wire;
use crate::error::Error;
use crate::error::cause::{BoxError, RefusedPeer, RefusedUs, refusal_by_peer, refuse, tls_error};
use crate::peers::peer::Peer;
use crate::peers::welcome::Welcome;
#[cfg(feature = "http")]
use crate::places::Place;
use crate::places::Seat;
use crate::refusal::report_own;

/// What the registry, the stream and the HTTP on it share.
pub(crate) struct Connection {
    peer: Peer,
    usage: Usage,
    welcome: Welcome,
    remote: SocketAddr,
    has_resumed: bool,
    /// What we showed when it was admitted.
    own: Option<SerialNumber>,
    phase: AtomicU8,
    moved: Notify,
    state: Mutex<State>,
}

/// How far a connection is in its life; it only moves forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Phase {
    /// In use.
    Open,
    /// The peer's certificate has expired: finish what is begun.
    Ending,
    /// The peer is no longer welcome, by its own request: finish the answer to that one.
    Leaving,
    /// Gone.
    Closed,
}

#[derive(Default)]
struct State {
    /// None once the connection is closed: the stream owns its socket and everything read.
    tls: Option<TlsStream<Wire>>,
    reader: Option<Waker>,
    writer: Option<Waker>,
    place: Option<Seat>,
    /// How an HTTP client's pool knows the connection. It leads back here, so it goes when the
    /// connection is closed.
    pooled: Option<CaptureConnection>,
    end: Option<End>,
    /// Requests being answered by which the peer may end itself.
    answering: usize,
}

/// Why a connection ended, as far as it is known.
#[derive(Clone)]
enum End {
    /// Its place was needed for another.
    GaveWay,
    Refused(Refusal),
    Tls(rustls::Error),
}

impl Connection {
    pub(crate) fn new(
        tls: TlsStream<Wire>,
        remote: SocketAddr,
        peer: Peer,
        usage: Usage,
        welcome: Welcome,
        own: Option<SerialNumber>,
    ) -> Arc<Self> {
        let has_resumed = tls.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
        let state = State { tls: Some(tls), ..State::default() };
        let (phase, moved) = (AtomicU8::new(Phase::Open as u8), Notify::new());
        Arc::new(Self {
            peer,
            usage,
            welcome,
            remote,
            has_resumed,
            own,
            phase,
            moved,
            state: Mutex::new(state),
        })
    }

    pub(crate) fn peer(&self) -> &Peer {
        &self.peer
    }

    pub(crate) fn usage(&self) -> Usage {
        self.usage
    }

    pub(crate) fn remote(&self) -> SocketAddr {
        self.remote
    }

    pub(crate) fn has_resumed(&self) -> bool {
        self.has_resumed
    }

    /// Whom the connection was opened for.
    pub(crate) fn welcome(&self) -> &Welcome {
        &self.welcome
    }

    /// Whether it is one of the CA's clients that opened it: nobody counts the CA among its peers.
    pub(crate) fn is_with_authority(&self) -> bool {
        matches!(self.welcome, Welcome::Authority(_))
    }

    /// The chain that the peer showed; empty once closed.
    pub(crate) fn chain(&self) -> Vec<CertificateDer<'static>> {
        let state = self.state();
        let tls = state.tls.as_ref().map(|tls| tls.get_ref().1);
        tls.and_then(|tls| tls.peer_certificates()).unwrap_or_default().to_vec()
    }

    /// The name of the handshake's key exchange; none once closed.
    pub(crate) fn key_exchange(&self) -> Option<String> {
        let state = self.state();
        let tls = state.tls.as_ref().map(|tls| tls.get_ref().1)?;
        Some(format!("{:?}", tls.negotiated_key_exchange_group()?.name()))
    }

    /// Whether the handshake has chosen this application protocol.
    pub(crate) fn has_protocol(&self, protocol: &[u8]) -> bool {
        let state = self.state();
        let tls = state.tls.as_ref().map(|tls| tls.get_ref().1);
        tls.and_then(|tls| tls.alpn_protocol()) == Some(protocol)
    }

    /// Gives back its place when it is closed.
    pub(crate) fn keep_place(&self, place: Seat) {
        let mut state = self.state();
        if state.tls.is_some() {
            state.place = Some(place);
        }
    }

    /// The place that it has at a listener.
    #[cfg(feature = "http")]
    pub(crate) fn place(&self) -> Option<Place> {
        self.state().place.as_ref().map(|seat| seat.place().clone())
    }

    /// Asks whoever uses the connection to finish.
    pub(crate) fn end_gracefully(&self) {
        self.move_to(Phase::Ending);
        let pooled = self.state().pooled.take();
        pooled.iter().for_each(leave_pool);
    }

    /// A request of an HTTP client goes over it: no other does once it is to end.
    pub(crate) fn used_by(&self, captured: &CaptureConnection) {
        let mut state = self.state();
        // Under the lock: whoever moves the phase looks here afterwards.
        if self.phase() > Phase::Open {
            drop(state);
            leave_pool(captured);
        } else if state.pooled.is_none() {
            state.pooled = Some(captured.clone());
        }
    }

    /// A request begins by which the peer may end itself.
    #[cfg(feature = "http")]
    pub(crate) fn begin_answer(&self) {
        self.state().answering += 1;
    }

    /// Its answer is made.
    #[cfg(feature = "http")]
    pub(crate) fn end_answer(&self) {
        self.state().answering -= 1;
    }

    /// Whether nothing is begun any more.
    pub(crate) fn is_leaving(&self) -> bool {
        self.phase() >= Phase::Leaving
    }

    /// Closes the connection, as [`close_now`](Self::close_now) does, unless its peer has asked for
    /// that by a request that is being answered: then it is closed after the answer.
    pub(crate) fn close(self: &Arc<Self>, refusal: &Refusal) -> bool {
        // Without a runtime there is nobody to close it later.
        let Ok(runtime) = Handle::try_current() else { return self.close_now(refusal) };
        let mut state = self.state();
        if state.answering == 0 || state.tls.is_none() || self.is_leaving() {
            drop(state);
            return self.close_now(refusal);
        }
        state.end = Some(End::Refused(refusal.clone()));
        self.move_to(Phase::Leaving);
        drop(state);
        let (connection, refusal) = (Arc::clone(self), refusal.clone());
        runtime.spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(LAST_ANSWER) => {}
                _ = connection.past(Phase::Leaving) => {}
            }
            connection.close_now(&refusal);
        });
        true
    }

    /// Closes the socket and wakes whoever waits for it; false if it was closed before.
    ///
    /// After the return nothing that the peer sent is read any more. What was written and has not
    /// left the machine is dropped: with a linger of zero the kernel resets the connection.
    fn close_now(&self, refusal: &Refusal) -> bool {
        self.end(End::Refused(refusal.clone()))
    }

    /// The same, for another peer that has no place.
    pub(crate) fn give_way(&self) {
        self.end(End::GaveWay);
    }

    fn end(&self, end: End) -> bool {
        let mut state = self.state();
        let Some(tls) = state.tls.take() else { return false };
        state.end = Some(end);
        let freed = (state.place.take(), state.pooled.take());
        let waiting = [state.reader.take(), state.writer.take()];
        // Before all that takes its time: whoever serves the connection begins nothing more.
        self.move_to(Phase::Closed);
        drop(state);
        // A socket that cannot linger is gone already.
        let _ = tls.get_ref().0.socket().set_zero_linger();
        drop((tls, freed));
        waiting.into_iter().flatten().for_each(Waker::wake);
        true
    }

    pub(crate) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Open,
            1 => Phase::Ending,
            2 => Phase::Leaving,
            _ => Phase::Closed,
        }
    }

    /// Why we closed the connection, if we did.
    pub(crate) fn refusal(&self) -> Option<Refusal> {
        match &self.state().end {
            Some(End::Refused(refusal)) => Some(refusal.clone()),
            _ => None,
        }
    }

    /// Waits until the connection is past a phase.
    pub(crate) async fn past(&self, phase: Phase) -> Phase {
        loop {
            // Made before the look: a move between the two is not missed.
            let moved = self.moved.notified();
            let now = self.phase();
            if now > phase {
                return now;
            }
            moved.await;
        }
    }

    /// What an error on this connection means. HTTP/2 keeps no more of it than a text.
    pub(crate) fn explain(&self, peer: String, error: BoxError) -> Error {
        Error::of_connection(peer, self.cause(error))
    }

    /// What lies behind an error on this connection: our refusal of the peer, or TLS.
    pub(crate) fn cause(&self, error: BoxError) -> BoxError {
        match self.state().end.clone() {
            Some(End::Refused(refusal)) => {
                let serial_number = Some(*self.peer.serial_number());
                refuse(RefusedPeer { refusal, serial_number }).into()
            }
            Some(End::Tls(tls)) => match refusal_by_peer(&tls) {
                Some(alert) => RefusedUs { alert, serial_number: self.own }.into(),
                None => tls.into(),
            },
            Some(End::GaveWay) | None => error,
        }
    }

    fn move_to(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Ordering::AcqRel);
        self.moved.notify_waiters();
    }

    /// Closes the socket as its owner wishes, politely or not.
    pub(crate) fn abandon(&self) {
        let mut state = self.state();
        let taken = (state.tls.take(), state.place.take(), state.pooled.take());
        // Under the lock: whoever finds nothing left to close finds it closed.
        self.move_to(Phase::Closed);
        drop(state);
        drop(taken);
    }

    /// Reads from the stream below: see [`poll`](Self::poll).
    pub(crate) fn poll_read<T>(
        &self,
        cx: &mut Context<'_>,
        poll: impl FnOnce(Pin<&mut TlsStream<Wire>>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        self.poll(cx, |state| &mut state.reader, poll)
    }

    /// Writes into it, or ends it.
    pub(crate) fn poll_write<T>(
        &self,
        cx: &mut Context<'_>,
        poll: impl FnOnce(Pin<&mut TlsStream<Wire>>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        self.poll(cx, |state| &mut state.writer, poll)
    }

    /// Polls the stream below, under the lock: whoever closes the connection comes before or after.
    fn poll<T>(
        &self,
        cx: &mut Context<'_>,
        side: fn(&mut State) -> &mut Option<Waker>,
        poll: impl FnOnce(Pin<&mut TlsStream<Wire>>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let mut state = self.state();
        let Some(tls) = &mut state.tls else { return Poll::Ready(Err(state.aborted())) };
        let polled = poll(Pin::new(tls), cx);
        match &polled {
            Poll::Pending => keep(side(&mut state), cx.waker()),
            Poll::Ready(Err(error)) => {
                let refused_us = state.remember(error);
                // Diagnostics may take their time, and a revocation has none.
                drop(state);
                if let Some(alert) = refused_us {
                    report_own(alert, &self.remote, self.own);
                }
            }
            Poll::Ready(Ok(_)) => {}
        }
        polled
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn aborted(&self) -> io::Error {
        match &self.end {
            Some(End::Refused(refusal)) => {
                io::Error::new(io::ErrorKind::ConnectionAborted, refusal.clone())
            }
            Some(End::GaveWay) => {
                let why = "places are scarce, and this peer has more of them than others";
                io::Error::new(io::ErrorKind::ConnectionAborted, why)
            }
            _ => io::ErrorKind::NotConnected.into(),
        }
    }

    /// Keeps the first error of TLS; says whether the other end refused us by it.
    fn remember(&mut self, error: &io::Error) -> Option<AlertDescription> {
        let error = tls_error(error).filter(|_| self.end.is_none())?;
        self.end = Some(End::Tls(error.clone()));
        refusal_by_peer(error)
    }
}

/// No further request goes over a connection of hyper's pool: it does not know of certificates.
fn leave_pool(captured: &CaptureConnection) {
    if let Some(connected) = &*captured.connection_metadata() {
        connected.poison();
    }
}

fn keep(slot: &mut Option<Waker>, waker: &Waker) {
    if !slot.as_ref().is_some_and(|kept| kept.will_wake(waker)) {
        *slot = Some(waker.clone());
    }
}

/// So long an answer may take to leave, once its peer is no longer welcome.
const LAST_ANSWER: Duration = Duration::from_secs(1);
