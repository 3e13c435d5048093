//! Each rule refuses by itself, in both directions, and takes nothing with it but the one connection.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, Once};

use countersign::{Error, Verification};
use identity::{CountersignatureRule, Refusal, SvidRule};
use rcgen::{BasicConstraints, IsCa};
use time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tracing::subscriber::DefaultGuard;

use crate::authority::{Log, TestAuthority, TestSvid, now, uri};
use crate::endpoints::{LEDGER, REPORTS, WITNESS, assert_echoes, echo, until};
use crate::server::{connect, soon};

/// What is said while it lives, on this thread.
pub(crate) struct Diagnostics {
    text: Arc<Mutex<Vec<u8>>>,
    _guard: DefaultGuard,
}

impl Diagnostics {
    pub(crate) fn capture() -> Self {
        listen_everywhere();
        let text = Arc::<Mutex<Vec<u8>>>::default();
        let writer = Writer(Arc::clone(&text));
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_max_level(tracing::Level::INFO)
            .with_writer(move || writer.clone())
            .finish();
        Self { text, _guard: tracing::subscriber::set_default(subscriber) }
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.text.lock().unwrap().clone()).unwrap()
    }
}

/// Elsewhere it is said, too, and written nowhere: what another test says first, on a thread where
/// nobody listens, would be unsaid for all threads from then on.
fn listen_everywhere() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let nowhere = tracing_subscriber::fmt().with_writer(io::sink).finish();
        tracing::subscriber::set_global_default(nowhere).unwrap();
    });
}

#[derive(Clone)]
struct Writer(Arc<Mutex<Vec<u8>>>);

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The SVID is refused as a client's, and as a server's; `prepare` changes what the other side
/// believes first.
async fn assert_refused(
    authority: &TestAuthority,
    svid: TestSvid,
    prepare: impl Fn(&Verification),
    rule: &str,
    is_expected: fn(&Refusal) -> bool,
) {
    assert_refused_as_client(authority, svid.again(), &prepare, rule).await;
    let refusal = refusal_as_server(authority, svid, prepare, rule).await;
    assert!(is_expected(&refusal), "{refusal:?}");
}

async fn assert_refused_as_client(
    authority: &TestAuthority,
    svid: TestSvid,
    prepare: impl Fn(&Verification),
    rule: &str,
) {
    let diagnostics = Diagnostics::capture();
    let server = authority.endpoint(LEDGER);
    let own_serial_number = server.credentials().serial_number().unwrap();
    prepare(server.verification());
    let listener = authority.listener(&server).await;
    let address = listener.local_address();
    echo(listener);
    let mut good = authority.connect(&authority.endpoint(WITNESS), address).await;
    assert_echoes(&mut good).await;
    let serial_number = svid.serial_number;
    let mut refused = authority.connect(&authority.endpoint_of(svid), address).await;
    let error = soon(refused.read(&mut [0; 1])).await.unwrap_err();
    let error = refused.explain(error);
    assert!(matches!(error, Error::Refused { .. }), "{error:?}");
    assert!(error.to_string().contains(&format!("countersign show {serial_number}")), "{error}");
    assert_echoes(&mut good).await;
    let mut late = authority.connect(&authority.endpoint(WITNESS), address).await;
    assert_echoes(&mut late).await;
    assert_eq!(server.verification().connections().open, 2);
    let said = diagnostics.text();
    for part in [
        format!("rule=\"{rule}\""),
        format!("peer_serial_number={serial_number}"),
        format!("own_serial_number={own_serial_number}"),
        "remote=127.0.0.1:".to_owned(),
        // The other end knows less.
        "our certificate was refused".to_owned(),
        format!("alert={}", alert(rule)),
        format!("own_serial_number={serial_number}"),
    ] {
        assert!(said.contains(&part), "{part}: {said}");
    }
}

/// What TLS says of a rule, where it has a word for it.
fn alert(rule: &str) -> &'static str {
    match rule {
        "denied" | "not-among-peers" => "AccessDenied",
        "expired" | "not-yet-valid" => "CertificateExpired",
        "revoked" => "CertificateRevoked",
        "unknown-authority" | "unknown-trust-domain" => "UnknownCA",
        _ => "CertificateUnknown",
    }
}

async fn refusal_as_server(
    authority: &TestAuthority,
    svid: TestSvid,
    prepare: impl Fn(&Verification),
    rule: &str,
) -> Refusal {
    let diagnostics = Diagnostics::capture();
    let serial_number = svid.serial_number;
    let listener = authority.listener(&authority.endpoint_of(svid)).await;
    let address = listener.local_address().to_string();
    echo(listener);
    let client = authority.endpoint(WITNESS);
    prepare(client.verification());
    let error = soon(client.connect(&address, authority.peers(&[REPORTS]))).await.unwrap_err();
    let own_serial_number = client.credentials().serial_number().unwrap();
    let said = |part: &str| diagnostics.text().contains(part);
    assert!(said(&format!("rule=\"{rule}\"")), "{}", diagnostics.text());
    assert!(said(&format!("peer_serial_number={serial_number}")), "{}", diagnostics.text());
    assert!(said(&format!("own_serial_number={own_serial_number}")), "{}", diagnostics.text());
    until(|| said("our certificate was refused")).await;
    assert!(said(&format!("alert={}", alert(rule))), "{}", diagnostics.text());
    assert!(said(&format!("own_serial_number={serial_number}")), "{}", diagnostics.text());
    match error {
        Error::Peer { refusal, peer } if peer == address => refusal,
        other => panic!("{other:?}"),
    }
}

fn nothing(_: &Verification) {}

#[tokio::test]
async fn good_peer_is_let_in() {
    let authority = TestAuthority::new();
    let listener = authority.listener(&authority.endpoint(LEDGER)).await;
    let address = listener.local_address();
    echo(listener);
    let flawless = authority.flawed_svid(REPORTS, |_| {}, TestAuthority::sct);
    for svid in [authority.svid(REPORTS), flawless] {
        let mut stream = authority.connect(&authority.endpoint_of(svid), address).await;
        assert_echoes(&mut stream).await;
        assert_eq!(stream.peer().spiffe_id(), &authority.id(LEDGER));
    }
}

#[tokio::test]
async fn client_without_a_certificate_is_refused() {
    let diagnostics = Diagnostics::capture();
    let authority = TestAuthority::new();
    let server = authority.endpoint(LEDGER);
    let listener = authority.listener(&server).await;
    let address = listener.local_address();
    echo(listener);
    let mut good = authority.connect(&authority.endpoint(WITNESS), address).await;
    let verification = Verification::new(authority.trust());
    let expected = countersign::ExpectedServer(authority.id(LEDGER));
    let config = countersign::client_config(verification, expected, None).unwrap();
    let mut stream = connect(address, config).await.unwrap();
    let error = soon(stream.read(&mut [0; 1])).await.unwrap_err();
    assert!(error.to_string().contains("CertificateRequired"), "{error}");
    assert!(diagnostics.text().contains("rule=\"no-certificate\""), "{}", diagnostics.text());
    assert_echoes(&mut good).await;
    let mut late = authority.connect(&authority.endpoint(WITNESS), address).await;
    assert_echoes(&mut late).await;
    assert_eq!(server.verification().connections().open, 2);
}

#[tokio::test]
async fn expired_peer_is_refused() {
    let authority = TestAuthority::new();
    let svid = authority.svid_at(REPORTS, now() - Duration::days(2), Log::Asked);
    let expected = |refusal: &Refusal| matches!(refusal, Refusal::Expired { .. });
    assert_refused(&authority, svid, nothing, "expired", expected).await;
}

#[tokio::test]
async fn peer_of_the_future_is_refused() {
    let authority = TestAuthority::new();
    let svid = authority.svid_at(REPORTS, now() + Duration::hours(2), Log::Asked);
    let expected = |refusal: &Refusal| matches!(refusal, Refusal::NotYetValid { .. });
    assert_refused(&authority, svid, nothing, "not-yet-valid", expected).await;
}

#[tokio::test]
async fn peer_of_another_trust_domain_is_refused() {
    let authority = TestAuthority::new();
    let foreign = vec![uri("spiffe://other.example/prod/reports")];
    let edit = |params: &mut rcgen::CertificateParams| params.subject_alt_names = foreign;
    let svid = authority.flawed_svid(REPORTS, edit, TestAuthority::sct);
    let expected = |refusal: &Refusal| matches!(refusal, Refusal::UnknownTrustDomain(_));
    assert_refused(&authority, svid, nothing, "unknown-trust-domain", expected).await;
}

#[tokio::test]
async fn peer_of_another_ca_is_refused() {
    let authority = TestAuthority::new();
    let svid = TestAuthority::new().svid(REPORTS);
    let expected = |refusal: &Refusal| matches!(refusal, Refusal::UnknownAuthority(_));
    assert_refused(&authority, svid, nothing, "unknown-authority", expected).await;
}

#[tokio::test]
async fn peer_with_two_uri_names_is_refused() {
    let authority = TestAuthority::new();
    let second = uri(authority.id(WITNESS).as_str());
    let edit = |params: &mut rcgen::CertificateParams| params.subject_alt_names.push(second);
    let svid = authority.flawed_svid(REPORTS, edit, TestAuthority::sct);
    let expected = |refusal: &Refusal| *refusal == Refusal::NotAnSvid(SvidRule::OneUri(2));
    assert_refused(&authority, svid, nothing, "not-an-svid", expected).await;
}

#[tokio::test]
async fn peer_that_is_a_ca_is_refused() {
    let authority = TestAuthority::new();
    let edit = |params: &mut rcgen::CertificateParams| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    };
    let svid = authority.flawed_svid(REPORTS, edit, TestAuthority::sct);
    let expected =
        |refusal: &Refusal| *refusal == Refusal::NotAnSvid(SvidRule::CertificateAuthority);
    assert_refused(&authority, svid, nothing, "not-an-svid", expected).await;
}

#[tokio::test]
async fn peer_without_countersignature_is_refused() {
    let authority = TestAuthority::new();
    let svid = authority.svid_at(REPORTS, now(), Log::NotAsked);
    let expected = |refusal: &Refusal| {
        matches!(refusal, Refusal::NotCountersigned(CountersignatureRule::Absent(_)))
    };
    assert_refused(&authority, svid, nothing, "not-countersigned", expected).await;
}

#[tokio::test]
async fn peer_with_the_countersignature_of_another_certificate_is_refused() {
    let authority = TestAuthority::new();
    let mut others = None;
    authority.flawed_svid(
        WITNESS,
        |_| {},
        |authority, bare| {
            others = authority.sct(bare);
            None
        },
    );
    let svid = authority.flawed_svid(REPORTS, |_| {}, |_, _| others);
    let expected =
        |refusal: &Refusal| *refusal == Refusal::NotCountersigned(CountersignatureRule::Signature);
    assert_refused(&authority, svid, nothing, "not-countersigned", expected).await;
}

#[tokio::test]
async fn peer_countersigned_by_a_retired_key_is_refused() {
    let authority = TestAuthority::new();
    let half_an_hour_ago = (now() - Duration::minutes(30)).unix_timestamp() as u64 * 1000;
    let retire = |verification: &Verification| {
        verification.replace_trust(authority.trust_with(|state| {
            state.countersignature_keys[0].not_after = Some(half_an_hour_ago);
        }));
    };
    let expected = |refusal: &Refusal| {
        *refusal == Refusal::NotCountersigned(CountersignatureRule::KeyNotInUse)
    };
    let svid = authority.svid(REPORTS);
    assert_refused(&authority, svid, retire, "not-countersigned", expected).await;
}

#[tokio::test]
async fn revoked_peer_is_refused() {
    let authority = TestAuthority::new();
    let svid = authority.svid(REPORTS);
    let serial_number = svid.serial_number;
    let revoke = |verification: &Verification| {
        verification.update_revocations(|held| held.revoke_serial(serial_number));
    };
    let expected = |refusal: &Refusal| matches!(refusal, Refusal::Revoked { .. });
    assert_refused(&authority, svid, revoke, "revoked", expected).await;
}

#[tokio::test]
async fn denied_peer_is_refused() {
    let authority = TestAuthority::new();
    let deny = |verification: &Verification| {
        verification.update_revocations(|held| held.deny(authority.id(REPORTS), 0));
    };
    let expected = |refusal: &Refusal| *refusal == Refusal::Denied;
    assert_refused(&authority, authority.svid(REPORTS), deny, "denied", expected).await;
}

#[tokio::test]
async fn peer_that_is_not_among_those_named_is_refused() {
    let authority = TestAuthority::new();
    let svid = authority.svid("/prod/reports/stranger");
    let expected = |refusal: &Refusal| {
        let named = "spiffe://pay.example/prod/reports";
        matches!(refusal, Refusal::NotAmongPeers { spiffe_id, accepted, .. }
            if spiffe_id.path() == "/prod/reports/stranger" && accepted == named)
    };
    assert_refused(&authority, svid, nothing, "not-among-peers", expected).await;
}

#[tokio::test]
async fn whoever_speaks_no_tls_is_closed() {
    let authority = TestAuthority::new();
    let listener = authority.listener(&authority.endpoint(LEDGER)).await;
    let address = listener.local_address();
    echo(listener);
    for said in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"get /", &[0; 64], &[0x16; 64]] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, said).await.unwrap();
        let mut answer = Vec::new();
        let _ = soon(stream.read_to_end(&mut answer)).await;
        let is_told = answer.starts_with(b"HTTP/1.1 400 ") && answer.ends_with(b"https://\n");
        match said {
            [b'G', ..] => assert!(is_told, "{answer:?}"),
            _ => assert!(answer.len() < 16, "an alert at most: {answer:?}"),
        }
    }
    let mut good = authority.connect(&authority.endpoint(WITNESS), address).await;
    assert_echoes(&mut good).await;
}

#[tokio::test]
async fn address_that_is_none_is_named() {
    let authority = TestAuthority::new();
    let client = authority.endpoint(REPORTS);
    for address in ["ledger", ":1", "ledger:port", "ledger:70000", ""] {
        let refused = client.connect(address, authority.peers(&[LEDGER])).await;
        assert!(matches!(refused, Err(Error::Configuration(_))), "{address}");
    }
}
