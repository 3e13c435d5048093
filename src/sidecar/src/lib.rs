//! The sidecar *library*: what a Rust service links to speak verified mutual TLS, and what the CA
//! and its command line stand on themselves. (The *agent* is a process, for software that cannot
//! link Rust: `countersign-agent`.)
//!
//! # In scope
//!
//! - [`Verification`]: the trust and the revocations that all verifiers of a process obey, with the
//!   one verdict on a chain, [`identity::verify`], behind a cache; and the registry of connections.
//! - [`Credentials`]: our own chain and key, replaceable while connections are made.
//! - [`Endpoint`]: both of them at work. It listens, connects and asks over HTTP; each time the
//!   [`Peers`] that are welcome are named.
//! - [`Stream`]: a connection with its [`Peer`], which ends when that is no longer welcome.
//! - [`server_config`], [`client_config`] and `serve`: what the CA and its clients are made of,
//!   where a certificate is asked for, not required.
//! - [`fetch_trust`] and [`load_trust`]: from a trust pin to a trust state.
//! - [`AuthorityClient`]: the CA's HTTP API.
//!
//! # Out of scope
//!
//! - The rules themselves: they live in `identity`. Here they are only put where rustls asks, and
//!   asked again.
//! - What a peer may do: a service asks its [`Peer`] for the SPIFFE ID and decides.
//! - Connections made from an `unregistered_…` configuration, and those of [`AuthorityClient`]: they
//!   are verified once, and outlive a revocation.
//! - SQL, AWS, policy, and making certificates.
//!
//! # Rules
//!
//! Nothing is sent to a server before it is verified, and to be verified means: a path to an anchor,
//! a countersignature of the log, not revoked, *and* among the peers named. There is no switch to
//! believe any peer. The one exception, [`fetch_trust`], believes no peer but a signature.
//!
//! A revocation, a deny, new trust and new peers of a listener close the open connections that they
//! concern before the call that makes the change returns, whether the application polls them or
//! not: nothing more is read from such a peer, and what was written and had not left the machine is
//! dropped. What was handed to the service before then is the service's to finish or not. An expired
//! peer finishes what it has begun, within 20 s.
//!
//! # Features
//!
//! `http` (default): HTTP services and the client for them. `axum`: [`Peer`] as an extractor.
//!
//! # Example
//!
#![cfg_attr(not(feature = "http"), doc = "```ignore")]
#![cfg_attr(feature = "http", doc = "```no_run")]
//! use axum::{Extension, Router, routing::get};
//! use countersign::{Credentials, Endpoint, Peer, Peers, Verification};
//!
//! async fn hello(Extension(peer): Extension<Peer>) -> String {
//!     format!("hello {}", peer.spiffe_id())
//! }
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let trust = countersign::load_trust(&std::fs::read("trust.note")?, &"PIN".parse()?)?;
//! let endpoint = Endpoint::new(Credentials::load("/run/svid".as_ref())?, Verification::new(trust));
//!
//! let reports = Peers::one_of(["spiffe://pay.example/prod/reports"])?;
//! let interrupt = async { drop(tokio::signal::ctrl_c().await) };
//! let grace = std::time::Duration::from_secs(20);
//! let router = Router::new().route("/", get(hello));
//! endpoint.listen("0.0.0.0:8443", reports).await?.serve(router).until(interrupt, grace).await?;
//!
//! let http = endpoint.http_client(Peers::one_of(["spiffe://pay.example/prod/ledger"])?);
//! let answer = http.get("https://ledger.pay.internal:8443/accounts").await?;
//! # drop(answer);
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
pub use api::{Problem, ProblemType, Secret};
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
pub use identity::{Refusal, SerialNumber, SpiffeId, TrustPin, VerifiedSvid};
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
