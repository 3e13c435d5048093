//! The sidecar *library*: what a Rust service links to speak verified mutual TLS, and what the CA
//! and its command line stand on themselves. (The *agent* is a process, for software that cannot
//! link Rust: `countersign-agent`.)
//!
//! # In scope
//!
//! - [`Verification`]: the trust and the revocations that all verifiers of a process obey, with the
//!   one verdict on a chain, [`identity::verify`], behind a cache.
//! - [`Credentials`]: our own chain and key, replaceable while connections are made.
//! - [`server_config`] and [`client_config`]: rustls, with its ways around a verifier closed.
//! - [`serve()`]: the accept loop, from TCP to requests that know their [`Peer`], within [`Limits`].
//! - [`fetch_trust`] and [`load_trust`]: from a trust pin to a trust state.
//! - [`AuthorityClient`]: the CA's HTTP API.
//!
//! # Out of scope
//!
//! - The rules themselves: they live in `identity`. Here they are only put where rustls asks.
//! - What a peer may do: a service asks its [`Peer`] for the SPIFFE ID and decides.
//! - Connections that are open: they outlive a revocation, and their peer's certificate.
//! - SQL, AWS, policy, and making certificates.
//!
//! # Rules
//!
//! Nothing is sent to a server before it is verified, and to be verified means: a path to an anchor,
//! a countersignature of the log, not revoked, *and* exactly the SPIFFE ID expected. A client that
//! shows a certificate which fails is refused in the handshake; one without is served, as nobody.
//! There is no switch to believe any peer. The one exception, [`fetch_trust`], believes no peer
//! but a signature.
//!
//! # Example
//!
//! ```no_run
//! use axum::{Extension, Router, routing::get};
//! use countersign::{Credentials, Limits, Peer, Verification};
//! use hyper_util::service::TowerToHyperService;
//!
//! async fn hello(Extension(peer): Extension<Peer>) -> String {
//!     format!("hello {}", peer.spiffe_id())
//! }
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let trust = countersign::load_trust(&std::fs::read("trust.note")?, &"PIN".parse()?)?;
//! let verification = Verification::new(trust);
//! let credentials = Credentials::load("/run/svid".as_ref())?;
//! let tls = countersign::server_config(credentials, verification.clone(), None)?;
//! let listener = tokio::net::TcpListener::bind("0.0.0.0:8443").await?;
//! let service = TowerToHyperService::new(Router::new().route("/", get(hello)));
//! let interrupt = async { drop(tokio::signal::ctrl_c().await) };
//! let limits = Limits::default();
//! countersign::serve(listener, tls, verification, service, limits, interrupt).await?;
//! # Ok(())
//! # }
//! ```

mod accept;
mod authority_client;
mod authority_source;
mod bootstrap;
mod chain_cache;
#[cfg(feature = "http")]
mod client;
mod connections;
mod connector;
mod credentials;
mod endpoint;
mod error;
mod feed_stream;
mod handshake;
mod http_client;
mod limits;
mod listener;
mod peer;
mod peers;
mod refusal;
mod renewal;
mod request;
mod retry;
mod secure;
#[cfg(feature = "http")]
mod serve;
#[cfg(feature = "http")]
mod serving;
mod source;
mod staleness;
mod status;
mod stream;
mod upkeep;
mod verification;
mod workload;

pub use accept::Drained;
pub use authority_client::AuthorityClient;
pub use bootstrap::{FetchedTrust, fetch_trust, load_trust};
#[cfg(feature = "http")]
pub use client::HttpClient;
pub use connections::ConnectionCounts;
pub use credentials::Credentials;
pub use endpoint::Endpoint;
pub use error::{AnswerFault, ConfigurationFault, Error};
pub use feed_stream::FeedStream;
pub use handshake::{ExpectedServer, client_config, server_config};
pub use limits::Limits;
pub use listener::{Listener, ListenerPeers};
pub use peer::{Peer, RemoteAddress};
pub use peers::Peers;
#[cfg(feature = "http")]
pub use serve::{serve, serve_plaintext};
#[cfg(feature = "http")]
pub use serving::Serving;
pub use source::{FileSource, Svid, SvidFuture, SvidSource};
pub use staleness::{Staleness, WhenStale};
pub use status::Status;
pub use stream::Stream;
pub use verification::{Epoch, Verification};
pub use workload::{Builder, Workload};
