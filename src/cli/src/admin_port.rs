//! The CA's admin port, taken for its API: who was asked for TLS there and has none is asked once
//! more, for nothing, and says where the API is.
//!
//! Nobody vouches for that answer: it is shown, and never followed.

use std::time::Duration;

use api::paths::API_HEADER;
use countersign::{ConfigurationFault, Error as LibraryError, Obstacle};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::error::{Error, library_error};

/// The error itself, or that the address is the admin port's, where that is why.
pub(crate) async fn recognised(error: anyhow::Error) -> anyhow::Error {
    let Some(address) = without_tls(&error) else { return error };
    let asked = tokio::time::timeout(PATIENCE, ask(&address)).await;
    match asked {
        Ok(Ok(Some(api))) => {
            let instead = match library_error(&error) {
                Some(_) => format!("{api} as the URL"),
                None => api.trim_start_matches("https://").to_owned(),
            };
            Error::AdminPort { address, api, instead }.into()
        }
        _ => error,
    }
}

/// `HOST:PORT` of who speaks no TLS, or was not asked to.
fn without_tls(error: &anyhow::Error) -> Option<String> {
    let url = match library_error(error) {
        Some(LibraryError::Configuration(ConfigurationFault::Url { url, .. })) => {
            url.strip_prefix("http://")?
        }
        Some(error @ LibraryError::Unreachable { url, .. }) => {
            (error.obstacle()? == Obstacle::NoTls).then(|| url.strip_prefix("https://"))??
        }
        _ => match error.downcast_ref()? {
            Error::Server { address, speaks_tls: false, .. } => address,
            _ => return None,
        },
    };
    let address = url.split('/').next()?;
    address.contains(':').then(|| address.to_owned())
}

async fn ask(address: &str) -> std::io::Result<Option<String>> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(MOST).read_to_end(&mut answer).await?;
    Ok(api_named_in(&String::from_utf8_lossy(&answer)))
}

fn api_named_in(answer: &str) -> Option<String> {
    let head = answer.split("\r\n\r\n").next()?;
    let mut fields = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    let (_, api) = fields.find(|(name, _)| name.eq_ignore_ascii_case(API_HEADER))?;
    let api = api.trim();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/.-:[]".contains(c);
    (api.starts_with("https://") && api.chars().all(is_plain)).then(|| api.to_owned())
}

const PATIENCE: Duration = Duration::from_secs(3);
const MOST: u64 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_url_is_taken_from_an_answer_that_nobody_vouches_for() {
        let answer =
            |value: &str| format!("HTTP/1.1 404 Not Found\r\nCounterSign-API: {value}\r\n\r\n");
        let named = |value: &str| api_named_in(&answer(value));
        assert_eq!(named("https://[::1]:8443").as_deref(), Some("https://[::1]:8443"));
        for other in
            ["", "http://a:1", "https://a;rm -rf /", "https://a b", "https://\u{1b}[2J", "x"]
        {
            assert_eq!(named(other), None, "{other:?}");
        }
        assert_eq!(api_named_in("SSH-2.0-OpenSSH_9\r\n"), None);
        assert_eq!(api_named_in("HTTP/1.1 200 OK\r\n\r\ncountersign-api: https://a:1"), None);
    }
}
