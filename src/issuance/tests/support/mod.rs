//! OpenSSL in a temporary folder, and a CA in memory whose bytes all come from `issuance`.
#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

#[path = "../../../identity/tests/support/der.rs"]
pub(crate) mod der;
pub(crate) mod said;

use std::path::PathBuf;
use std::process::Command;

use data_encoding::BASE64;
use identity::{SerialNumber, SpiffeId, TrustDomain};
use issuance::{
    CaCertificate, EndEntity, Error, IssuerCertificate, KeyType, LintedTbs, Profile, ProfileConfig,
    assemble, prepare_issuer, prepare_root,
};
use rcgen::{KeyPair, PublicKeyData, SigningKey};
use time::OffsetDateTime;
use time::macros::datetime;
use tlog::{CertificateLeaf, SignedCertificateTimestamp};

pub(crate) const NOW: OffsetDateTime = datetime!(2026-11-21 12:00 UTC);

/// The `openssl` command, in a folder of its own.
pub(crate) struct OpenSsl {
    folder: tempfile::TempDir,
}

impl OpenSsl {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    /// Runs `openssl` with these words and returns what it says; fails where it fails.
    pub(crate) fn run(&self, words: &str) -> String {
        let (success, text) = self.try_run(words);
        assert!(success, "openssl {words}\n{text}");
        text
    }

    /// Runs `openssl`: whether it ended well, and what it said.
    pub(crate) fn try_run(&self, words: &str) -> (bool, String) {
        let output = Command::new("openssl")
            .args(words.split_whitespace())
            .current_dir(self.folder.path())
            .env("OPENSSL_CONF", "/dev/null")
            .output()
            .expect("openssl is on the path");
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), content).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }
}

/// A root and an issuer in one trust domain, with a log's key.
pub(crate) struct Ca {
    pub(crate) root: Vec<u8>,
    pub(crate) root_key: KeyPair,
    pub(crate) issuer: IssuerCertificate,
    pub(crate) key: KeyPair,
    pub(crate) log: KeyPair,
}

impl Ca {
    pub(crate) fn new() -> Self {
        let day = time::Duration::DAY;
        Self::valid(NOW - 365 * day, NOW + 365 * day)
    }

    /// A CA whose certificates, root and issuer, are valid for this time.
    pub(crate) fn valid(not_before: OffsetDateTime, not_after: OffsetDateTime) -> Self {
        let [root_key, key, log] = [(); 3].map(|()| KeyPair::generate().unwrap());
        let trust_domain = trust_domain();
        let (root_spki, spki) = (root_key.subject_public_key_info(), key.subject_public_key_info());
        let describe = |common_name, public_key, octet| CaCertificate {
            trust_domain: &trust_domain,
            common_name,
            public_key,
            serial_number: SerialNumber::from_octets(&[octet]).unwrap(),
            not_before,
            not_after,
        };
        let root = prepare_root(&describe("Pay root", &root_spki, 1)).unwrap();
        let root = assemble(&root, &root_key.sign(&root).unwrap());
        let parent = IssuerCertificate::from_der(&root).unwrap();
        let issuer = prepare_issuer(&describe("Pay issuer", &spki, 2), &parent).unwrap();
        let issuer = assemble(&issuer, &root_key.sign(&issuer).unwrap());
        let issuer = IssuerCertificate::from_der(&issuer).unwrap();
        Self { root, root_key, issuer, key, log }
    }

    /// What the engine does with prepared bytes: leaf, countersignature, signature.
    pub(crate) fn issue(&self, prepared: &LintedTbs) -> Vec<u8> {
        let leaf = CertificateLeaf {
            timestamp: 1, // before every time that a test tries
            issuer_key_hash: *self.issuer.key_hash(),
            tbs_certificate: prepared.der().to_vec(),
            leaf_index: 7,
        };
        let sct = SignedCertificateTimestamp {
            log_id: tlog::log_id(&self.log.subject_public_key_info()),
            timestamp: leaf.timestamp,
            leaf_index: leaf.leaf_index,
            signature: self.log.sign(&leaf.encode().unwrap()).unwrap(),
        };
        self.sign(&tlog::splice_in(prepared.der(), &sct).unwrap())
    }

    /// Signs with the issuer's key.
    pub(crate) fn sign(&self, tbs: &[u8]) -> Vec<u8> {
        assemble(tbs, &self.key.sign(tbs).unwrap())
    }

    /// A flawless certificate for `/prod/reports`, an hour long.
    pub(crate) fn certificate(&self) -> Vec<u8> {
        let public_key = KeyPair::generate().unwrap().subject_public_key_info();
        let prepared = self.prepare(&profile(|_| {}), &public_key, |_| {}).unwrap();
        self.issue(&prepared)
    }

    /// Prepares a certificate for a P-256 key, as described but for the edit.
    pub(crate) fn prepare(
        &self,
        profile: &Profile,
        public_key: &[u8],
        edit: impl FnOnce(&mut EndEntity<'_>),
    ) -> Result<LintedTbs, Error> {
        let spiffe_id = id();
        let mut end_entity = EndEntity {
            spiffe_id: &spiffe_id,
            dns: &[],
            ip: &[],
            public_key,
            key_type: KeyType::EcdsaP256,
            serial_number: issuance::serial_number(NOW.unix_timestamp() as u64 * 1000, [7; 14]),
            validity: None,
            now: NOW,
            crl_url: None,
        };
        edit(&mut end_entity);
        profile.prepare(&end_entity, &self.issuer)
    }
}

/// The widest profile, but for the edit.
pub(crate) fn profile(edit: impl FnOnce(&mut ProfileConfig)) -> Profile {
    Profile::new(profile_config(edit)).unwrap()
}

pub(crate) fn profile_config(edit: impl FnOnce(&mut ProfileConfig)) -> ProfileConfig {
    let mut config = ProfileConfig {
        name: "default".to_owned(),
        validity: "1h".to_owned(),
        shortest: "5m".to_owned(),
        longest: "7d".to_owned(),
        key_types: vec![KeyType::EcdsaP256, KeyType::EcdsaP384, KeyType::Ed25519, KeyType::Rsa],
        common_name: issuance::CommonName::None,
        revocation: issuance::RevocationInformation::Crl,
    };
    edit(&mut config);
    config
}

pub(crate) fn trust_domain() -> TrustDomain {
    TrustDomain::parse("pay.example").unwrap()
}

pub(crate) fn id() -> SpiffeId {
    SpiffeId::parse("spiffe://pay.example/prod/reports").unwrap()
}

pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in BASE64.encode(der).as_bytes().chunks(64) {
        text.push_str(std::str::from_utf8(line).unwrap());
        text.push('\n');
    }
    text + &format!("-----END {label}-----\n")
}

/// The bytes of the first PEM block.
pub(crate) fn unpem(text: &str) -> Vec<u8> {
    let block = text.split("-----").nth(2).unwrap();
    BASE64.decode(block.replace(char::is_whitespace, "").as_bytes()).unwrap()
}
