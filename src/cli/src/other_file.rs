//! What a file is that was given in a certificate's place, and what to do with it. Nothing of its
//! contents is shown: it may be a secret.

use std::fmt;
use std::path::Path;

use identity::{is_pem, is_pkcs7, pem_blocks, utf8_text};
use rustls_pki_types::PrivateKeyDer;
use tlog::{Checkpoint, SignedNote};
use x509_parser::prelude::{
    CertificateRevocationList, FromDer, SubjectPublicKeyInfo, X509CertificationRequest,
};

use crate::shell::quoted;

/// A kind of file that holds no certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OtherFile {
    Bundle,
    Checkpoint,
    Crl,
    Empty,
    Json,
    Key,
    Pkcs12,
    Pkcs7,
    Pkcs7Der,
    Proof,
    PublicKey,
    Record,
    Request,
    Token,
    TrustState,
    Workloads,
}

impl OtherFile {
    /// What these bytes are; none where that is not known, or it is a certificate after all.
    pub(crate) fn of(bytes: &[u8]) -> Option<Self> {
        if bytes.trim_ascii().is_empty() {
            return Some(Self::Empty);
        }
        if is_pkcs7(bytes) {
            return Some(if is_pem(bytes) { Self::Pkcs7 } else { Self::Pkcs7Der });
        }
        if is_pem(bytes) {
            let blocks = pem_blocks(bytes).ok()?;
            return blocks.iter().find_map(|block| Self::of_label(&block.label));
        }
        match utf8_text(bytes) {
            Ok(text) => Self::of_text(text.trim_start()),
            Err(_) => Self::of_der(bytes),
        }
    }

    fn of_label(label: &str) -> Option<Self> {
        match label {
            label if label.ends_with("PRIVATE KEY") => Some(Self::Key),
            "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST" => Some(Self::Request),
            "X509 CRL" => Some(Self::Crl),
            label if label.ends_with("PUBLIC KEY") => Some(Self::PublicKey),
            _ => None,
        }
    }

    fn of_text(text: &str) -> Option<Self> {
        if text.starts_with("c2sp.org/tlog-proof@") {
            return Some(Self::Proof);
        }
        if text.starts_with("ct1.") {
            return Some(Self::Token);
        }
        if let Ok(json) = serde_json::from_str::<serde_json::Value>(text) {
            return json.is_object().then(|| Self::of_json(&json));
        }
        let text = text.replace("\r\n", "\n");
        let note = SignedNote::parse(text.as_bytes()).ok()?;
        Some(match Checkpoint::parse(note.text()) {
            Ok(_) => Self::Checkpoint,
            Err(_) => Self::TrustState,
        })
    }

    fn of_json(json: &serde_json::Value) -> Self {
        let has = |key| json.get(key).is_some();
        match () {
            () if has("keys") => Self::Bundle,
            () if has("serial_number") && has("trust_pin") => Self::Record,
            () if has("workloads") => Self::Workloads,
            () if has("anchors") && has("trust_keys") => Self::TrustState,
            () => Self::Json,
        }
    }

    fn of_der(der: &[u8]) -> Option<Self> {
        let whole = |rest: &[u8]| rest.is_empty();
        if CertificateRevocationList::from_der(der).is_ok_and(|(rest, _)| whole(rest)) {
            return Some(Self::Crl);
        }
        if X509CertificationRequest::from_der(der).is_ok_and(|(rest, _)| whole(rest)) {
            return Some(Self::Request);
        }
        if SubjectPublicKeyInfo::from_der(der).is_ok_and(|(rest, _)| whole(rest)) {
            return Some(Self::PublicKey);
        }
        if is_pkcs12(der) {
            return Some(Self::Pkcs12);
        }
        PrivateKeyDer::try_from(der).is_ok().then_some(Self::Key)
    }

    /// What to do with it, where it was named so: the commands name it, too.
    pub(crate) fn next_step(self, subject: &Path) -> Option<String> {
        let step = self.step()?;
        if !subject.is_file() {
            return Some(step.to_owned());
        }
        let folder = subject.parent().filter(|it| !it.as_os_str().is_empty());
        let folder = quoted(folder.unwrap_or_else(|| Path::new(".")));
        // A command that reads this file makes another of it.
        let words = step.split(' ').map(|word| match word.strip_suffix(';').unwrap_or(word) {
            "FILE" => word.replace("FILE", &quoted(subject)),
            "DIR" if self != Self::Token => word.replace("DIR", &folder),
            _ => word.to_owned(),
        });
        Some(words.collect::<Vec<_>>().join(" "))
    }

    fn step(self) -> Option<&'static str> {
        match self {
            Self::Bundle => Some("its anchors as certificates: countersign bundle show"),
            Self::Checkpoint => Some("of the folder that it stands in: countersign inspect DIR"),
            Self::Crl => Some("openssl crl -in FILE -noout -text"),
            Self::Empty | Self::Json | Self::Proof => None,
            Self::Key => Some("whether it is a certificate's: countersign inspect DIR"),
            Self::Pkcs12 => Some(
                "openssl pkcs12 -in FILE -nokeys -out chain.pem; countersign inspect chain.pem",
            ),
            Self::Pkcs7 => Some(
                "openssl pkcs7 -in FILE -print_certs -out chain.pem; countersign inspect chain.pem",
            ),
            Self::Pkcs7Der => Some(
                "openssl pkcs7 -inform DER -in FILE -print_certs -out chain.pem; countersign inspect \
                 chain.pem",
            ),
            Self::PublicKey => Some(
                "a token for this key alone: countersign token create SPIFFE_ID --pin-key FILE",
            ),
            Self::Record => Some("of the folder that it stands in: countersign inspect DIR"),
            Self::Request => Some("to have it certified: countersign issue SPIFFE_ID --csr FILE"),
            Self::Token => Some("countersign issue SPIFFE_ID --out DIR --token-file FILE"),
            Self::TrustState => Some("what it trusts: countersign trust show"),
            Self::Workloads => {
                Some("of the folder that it stands in: countersign policy check DIR")
            }
        }
    }
}

impl fmt::Display for OtherFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bundle => "a SPIFFE bundle (JWKS)",
            Self::Checkpoint => "a checkpoint of a log",
            Self::Crl => "a CRL",
            Self::Empty => "empty",
            Self::Json => "JSON",
            Self::Key => "a private key",
            Self::Pkcs12 => "a PKCS #12 file",
            Self::Pkcs7 | Self::Pkcs7Der => "a PKCS #7 file",
            Self::Proof => "a proof of a log (tlog-proof)",
            Self::PublicKey => "a public key",
            Self::Record => "the record of an SVID (svid.json)",
            Self::Request => "a certificate request (PKCS #10)",
            Self::Token => "a bootstrap token",
            Self::TrustState => "a trust state",
            Self::Workloads => "a workload table",
        })
    }
}

/// RFC 7292 §4: a SEQUENCE that begins with version 3, and goes on with another SEQUENCE.
fn is_pkcs12(der: &[u8]) -> bool {
    let length = match der {
        [0x30, 0x80, ..] => 2,
        [0x30, long, ..] if long & 0x80 != 0 => 2 + usize::from(long & 0x7f),
        [0x30, ..] => 2,
        _ => return false,
    };
    der.get(length..).is_some_and(|rest| rest.starts_with(&[2, 1, 3, 0x30]))
}
