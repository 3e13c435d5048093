//! The sidecar *library*: what a Rust service links to speak verified mutual TLS, and what the CA
//! and its command line stand on themselves. (The *agent* is a process, for software that cannot
//! link Rust: `countersign-agent`.)
//!
//! # In scope
//!
//! - [`Workload`]: an identity from the CA, renewed in time, with the trust state and the revocations
//!   of now; it says by [`Status`] how it is doing, and tells the CA.
//! - [`Peers`]: who is accepted at the other end, as data.
//! - [`Listener`], [`Stream`] and [`HttpClient`]: connections with peers, verified and *registered*.
//! - [`Endpoint`]: the same with [`Credentials`] and a [`Verification`] that somebody else keeps
//!   fresh.
//! - [`svid_folder`]: the files of an SVID, for whoever renews it there.
//! - [`serve()`], [`server_config`], [`client_config`], [`fetch_trust`], [`AuthorityClient`]: what the
//!   CA and its command line are made of. A client of [`serve()`] may show no certificate.
//!
//! # Out of scope
//!
//! - The rules themselves: they live in `identity`. Here they are only put where rustls asks.
//! - What a peer may do: a service asks its [`Peer`] for the SPIFFE ID and decides.
//! - SQL, AWS, policy, and making certificates.
//!
//! # Rules
//!
//! Nothing is sent to a server before it is verified, and to be verified means: a path to an anchor,
//! a countersignature of the log, not revoked, *and* among the peers named. There is no default for
//! them, and no switch to believe any peer. The one exception, [`fetch_trust`], believes no peer but
//! a signature.
//!
//! A registered connection does not outlive what it was admitted by: it is closed when its peer is
//! revoked, denied, no longer trusted or no longer among the peers, and soon after its peer's
//! certificate has expired. A configuration given away, such as
//! [`Workload::unregistered_client_config`], verifies each handshake; connections that are open
//! outlive a revocation.
//!
//! Sessions do not resume unless [`Endpoint::allow_resumption`] says so; whoever resumes then is
//! verified again, and nobody resumes once anything has changed.
//!
//! While the CA is away all goes on, until the certificate's end. Nothing is heard of revocations
//! meanwhile, and [`Staleness`] says what follows. A workload that has never heard of any refuses
//! everybody; one whose SVID comes from files ([`FileSource`]) keeps beside them what it has heard, and
//! starts from that. Its age counts as if it had been heard by this process: [`Staleness`] says how old
//! it may be for whoever refuses then. For whoever goes on, it counts for eight days: a certificate
//! lives for seven at most, and is forgotten a day later. What is older is as if nothing was kept, so
//! that nobody gets by with an old file what
//! [`start_without_revocations`](Builder::start_without_revocations) was not given for.
//!
//! A workload whose own certificate is revoked hears nothing more, and nobody takes it: that is a
//! state of its own, [`CutOff`], and not told as a feed that is gone. The same goes for an identity that
//! is denied, a certificate that came to its end, and one that the CA alone refuses.
//!
//! # How it is built
//!
//! In the order in which one should read it; each folder knows of those before it alone.
//!
//! | folder | what |
//! |---|---|
//! | `svid_folder` | the files of an SVID, written so that no crash leaves half |
//! | `error` | what went wrong, by whose fault, and the verdicts that pass through errors of others |
//! | `refusal` | telling why a peer was refused |
//! | `peers` | who is welcome at the other end, and who is there |
//! | `places` | who gets in where places are scarce, and who gives way |
//! | `connections` | what is open, and the means to end it from outside |
//! | `verification` | how a peer is verified and let in, and judged again when anything changes |
//! | `handshake` | what TLS asks: our own certificate, the verdict on the other, sessions that resume |
//! | `listen` | how one listens: accept loop, handshake, place |
//! | `serve` | how one serves HTTP to whoever came in |
//! | `connect` | how one connects, and speaks HTTP with whoever is there |
//! | `pace` | when to ask again |
//! | `authority` | the client of the CA, and how trust in it begins |
//! | `svid` | where the own certificate comes from |
//! | `revocations` | how revocations are heard, kept for the next start, and held back |
//! | `workload` | all of that for one identity, and the upkeep of what it holds |
//!
//! # Metrics
//!
//! For the recorder that the process installs (see the crate `metrics`), if it does:
//!
//! | name | what |
//! |---|---|
//! | `countersign_seconds_without_authority` | how long all goes on should the CA be away from now on |
//! | `countersign_feed_age_seconds`, `countersign_feed_stale` | since when nothing was heard of revocations; 1 while that is too long |
//! | `countersign_cut_off{reason}` | 1 while the certificate held is refused: `revoked`, `denied`, `expired`; by the CA alone `clock`, `other-authority`, `refused`. See [`CutOff`] |
//! | `countersign_without_revocations` | 1 while nothing at all is known of revocations |
//! | `countersign_revocations_held_back` | peers to whom revocations are not applied yet: see [`Builder::hold_back_above`] |
//! | `countersign_trust_states_refused_total` | trust states offered that are older, forked or not signed as they must be |
//! | `countersign_renewals_total{result}` | renewals `done` and `failed` |
//! | `countersign_peer_connections_open`, `countersign_connections_open` | connections with verified peers; those that serve HTTP |
//! | `countersign_connections_closed_total{reason}` | closed by us, by the rule that the peer breaks |
//! | `countersign_connections_cut_total{reason}` | connections of HTTP ended for what their peer did: `unread`, `frames`, `header` (of HTTP/1, too large); for another peer, `share` |
//! | `countersign_requests_not_begun_total` | requests of HTTP/2 refused: their peer left too much unread, or their headers hold too much |
//! | `countersign_handshakes_refused_total{reason}` | clients that a listener refused: a rule, or `tls`, `timeout`, `slow`, `source`; where places are scarce, `share`, `places` |
//! | `countersign_servers_refused_total{reason}` | servers that a client refused |
//! | `countersign_own_certificate_refused_total{by}` | how often a `server` or a `client` refused our certificate |
//! | `countersign_refusals_untold_total` | refusals that are not in the diagnostics: a hundred a second are told |
//! | `countersign_accept_errors_total` | no file or memory left for a connection |
//!
//! # Features
//!
//! `http` (default): HTTP services and the client for them. `axum`: [`Peer`] as an extractor.
//!
//! # Example
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use countersign::{Peer, Peers, Workload};
//!
//! async fn data(peer: Peer) -> String { format!("hello {}", peer.spiffe_id()) }
//!
//! # async fn shutdown_signal() {}
//! # async fn service() -> Result<(), Box<dyn std::error::Error>> {
//! let workload = Workload::from_env()?.start().await?; // attests; returns with a valid SVID
//! let reports = Peers::one_of(["spiffe://pay.example/prod/reports"])?;
//! let app = axum::Router::new().route("/api/data/reports", axum::routing::get(data));
//! workload.listen("0.0.0.0:8443", reports).await?
//!     .serve(app) // any tower service; the extractor needs the feature "axum"
//!     .until(shutdown_signal(), Duration::from_secs(20)).await?; // GOAWAY, finish, close
//! workload.stop().await;
//! # Ok(())
//! # }
//! ```
//!
//! The other end, and plain TCP:
//!
//! ```no_run
//! # use countersign::{Error, Peers, Stream, Workload};
//! # async fn echo(_stream: Stream) {}
//! # async fn client(workload: Workload, peers: Peers) -> Result<(), Error> {
//! let http = workload.http_client(Peers::one_of(["spiffe://pay.example/prod/monolith"])?);
//! let reply = http.get("https://monolith.pay.internal:8443/api/data/reports").await?;
//! let report = reply.text().await?; // or bytes, json, chunk
//!
//! let stream = workload.connect("ledger:9443", peers.clone()).await?; // AsyncRead + AsyncWrite
//! let mut listener = workload.listen("0.0.0.0:9443", peers).await?;
//! while let Some(stream) = listener.accept().await { tokio::spawn(echo(stream)); }
//! # Ok(())
//! # }
//! ```

mod authority;
mod clock;
mod connect;
mod connections;
mod endpoint;
mod error;
mod handshake;
mod host;
mod input;
mod limits;
mod listen;
mod pace;
mod peers;
mod places;
mod refusal;
mod revocations;
#[cfg(feature = "http")]
mod serve;
mod svid;
pub mod svid_folder;
#[cfg(test)]
#[expect(dead_code, reason = "the tests of the library use more of it")]
#[path = "../tests/sidecar/authority.rs"]
mod test_authority;
mod verification;
mod workload;

pub use api::{Problem, ProblemType, Secret};
pub use authority::bootstrap::{FetchedTrust, fetch_trust, follow_trust, load_trust};
pub use authority::client::AuthorityClient;
pub use authority::feed_stream::FeedStream;
#[cfg(feature = "http")]
pub use connect::client::HttpClient;
#[cfg(feature = "http")]
pub use connect::reply::{Reply, ReplyBody};
pub use connections::ConnectionCounts;
pub use connections::stream::Stream;
pub use endpoint::Endpoint;
pub use error::obstacle::Obstacle;
pub use error::{AnswerFault, ConfigurationFault, Error, ReplyFault};
pub use handshake::credentials::Credentials;
pub use handshake::{client_config, server_config};
pub use host::{Host, HostPort};
pub use identity::{Refusal, SerialNumber, SpiffeId, TrustPin, VerifiedSvid};
pub use limits::Limits;
pub use listen::accept::Drained;
pub use listen::listener::{Listener, ListenerPeers};
pub use peers::Peers;
pub use peers::peer::{Peer, RemoteAddress};
pub use peers::welcome::ExpectedServer;
pub use places::taken::{Crowded, Standing};
pub use places::{Kept, Place, Places, StandingOf};
pub use revocations::hold_back::HeldBack;
#[cfg(feature = "http")]
pub use serve::last_answer::{Answering, LastAnswer};
#[cfg(feature = "http")]
pub use serve::serving::Serving;
#[cfg(feature = "http")]
pub use serve::without_end::WithoutEnd;
#[cfg(feature = "http")]
pub use serve::{serve, serve_plaintext};
pub use svid::{FileSource, Svid, SvidFuture, SvidSource};
pub use verification::Verification;
pub use verification::epoch::Epoch;
pub use verification::staleness::{Staleness, WhenStale};
pub use workload::cut_off::{CutOff, CutOffRule};
pub use workload::status::Status;
pub use workload::{Builder, Workload};
