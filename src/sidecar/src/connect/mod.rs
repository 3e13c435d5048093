//! Connecting to a peer.

#[cfg(feature = "http")]
pub(crate) mod client;
pub(crate) mod connector;
#[cfg(feature = "http")]
pub(crate) mod reply;

use std::sync::Arc;

use crate::connect::connector::Connector;
use crate::connections::stream::Stream;
use crate::endpoint::Endpoint;
use crate::error::{ConfigurationFault, Error};
use crate::handshake::resumption::Tls;
use crate::host::HostPort;
use crate::peers::welcome::Welcome;
use crate::peers::{LivePeers, Peers};

impl Endpoint {
    /// Connects to `HOST:PORT`, whoever of these peers is there. Nothing is sent to anybody else.
    ///
    /// TLS 1.3 tells a client that *it* was refused only when it reads: see [`Stream::explain`].
    pub async fn connect(&self, address: &str, peers: Peers) -> Result<Stream, Error> {
        let given = || address.to_owned();
        let HostPort { host, port } = HostPort::parse(address).map_err(|why| {
            Error::Configuration(ConfigurationFault::Target { given: given(), why })
        })?;
        let peers = LivePeers::new(peers);
        let tls = self.client_config(Arc::clone(&peers))?;
        let tls = Arc::new(Tls::Given(Arc::new(tls)));
        let verification = Arc::clone(self.verification());
        let credentials = Some(Arc::clone(self.credentials()));
        let welcome = Welcome::Among(peers);
        let connector = Connector { tls, credentials, verification, welcome };
        let connected = connector.open(host.as_str(), port).await;
        connected.map_err(|error| Error::of_connection(given(), error.into()))
    }
}
