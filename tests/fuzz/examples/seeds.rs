//! Writes the committed corpus: a few valid inputs for each target.
//!
//! `cd tests/fuzz && cargo run --example seeds`
#![allow(clippy::unwrap_used, reason = "a corpus that cannot be written is no corpus")]

use std::fs;
use std::path::Path;

use api::BootstrapToken;
use fuzz::{
    ISSUER_SEED, NOW, ORIGIN, OTHER_KEY, OTHER_SEED, P256_SPKI, ROOT_KEY, ROOT_SEED,
    checkpoint_key, issue, p256_signature, trust_domain, trust_state,
};
use identity::feed::{Content, Envelope, Message, Position, SnapshotHead, signed_text};
use identity::{Der, TrustState, pem};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ED25519, SanType,
};
use rustls_pki_types::PrivatePkcs8KeyDer;
use time::macros::datetime;
use tlog::{
    CertificateLeaf, Checkpoint, Hash, SignedCertificateTimestamp, SignedNote, encode_bundle_entry,
    split_certificate,
};

fn main() {
    let root = certificates();
    requests();
    notes(&root);
    texts();
    bodies();
    policies();
    feed();
}

/// Returns the root, which the trust states name.
fn certificates() -> Vec<u8> {
    let [root_key, issuer_key, key] = [ROOT_SEED, ISSUER_SEED, OTHER_SEED].map(key_pair);
    let root = ca("root").self_signed(&root_key).unwrap();
    let root_as_issuer = Issuer::new(ca("root"), &root_key);
    let issuer = ca("issuer").signed_by(&issuer_key, &root_as_issuer).unwrap();
    let stranger = ca("issuer").signed_by(&key, &root_as_issuer).unwrap();
    let issuer_as_issuer = Issuer::new(ca("issuer"), &issuer_key);
    let bare = |params: CertificateParams| {
        let certificate = params.signed_by(&key, &issuer_as_issuer).unwrap();
        split_certificate(certificate.der()).unwrap().tbs.to_vec()
    };
    let plain = bare(workload());
    let leaf = issue(&plain).unwrap();
    let named = bare(named_workload());

    let (root, issuer) = (root.der(), issuer.der());
    seed("chain", "leaf-issuer-root", chain(&[&leaf, issuer, root]));
    seed("chain", "leaf-issuer", chain(&[&leaf, issuer]));
    seed("chain", "leaf-stranger-root-issuer", chain(&[&leaf, stranger.der(), root, issuer]));
    seed("svid", "plain", &plain);
    seed("svid", "named", &named);
    let tbs = split_certificate(&leaf).unwrap().tbs;
    seed("splice", "bare", &named);
    seed("splice", "spliced", tbs);
    seed("splice", "certificate", &leaf);
    let (entry, sct) = CertificateLeaf::from_certificate(&leaf, b"issuer").unwrap();
    seed("certificate_leaf", "entry", entry.encode().unwrap());
    seed("certificate_leaf", "certificate", &leaf);
    let list = tlog::sct_list_extension(&sct).unwrap();
    seed("sct", "bare", sct.encode().unwrap());
    seed("sct", "list", &list[EXTENSION_HEADER..]);
    let largest = tlog::sct_list_extension(&SignedCertificateTimestamp::largest()).unwrap();
    seed("sct", "largest-list", &largest[EXTENSION_HEADER..]);
    seed("pem", "chain", pem("CERTIFICATE", &leaf) + &pem("CERTIFICATE", issuer));
    root.to_vec()
}

/// Length of an SCT extension's header: SEQUENCE, OID, OCTET STRING, in short lengths.
const EXTENSION_HEADER: usize = 17;

fn requests() {
    let request = |mut params: CertificateParams, key: KeyPair| {
        params.serial_number = None;
        params.use_authority_key_identifier_extension = false;
        params.serialize_request(&key).unwrap().der().to_vec()
    };
    let plain = request(workload(), key_pair(OTHER_SEED));
    let named = request(named_workload(), key_pair(OTHER_SEED));
    seed("csr", "plain", &plain);
    seed("csr", "named", &named);
    seed("csr", "p256", request(workload(), KeyPair::generate().unwrap()));
    seed("csr", "ca", request(ca("issuer"), key_pair(OTHER_SEED)));
    seed("pem", "request", pem("CERTIFICATE REQUEST", &plain));
    seed("pem", "new-request", pem("NEW CERTIFICATE REQUEST", &named));
}

fn notes(root: &[u8]) {
    let checkpoint = Checkpoint { origin: ORIGIN.to_owned(), size: 4, root: Hash::new([7; 32]) };
    let signed = SignedNote::unsigned(checkpoint.text()).unwrap();
    let signature = OTHER_KEY.sign(checkpoint.text().as_bytes());
    let signed =
        signed.with_signature(ORIGIN, checkpoint_key().key_id(), signature.as_ref()).unwrap();
    let witnessed = signed.clone().with_signature("witness.example/w1", 7, &[4; 72]).unwrap();
    let others = vector("checkpoint");
    for target in ["checkpoint", "note"] {
        seed(target, "ours", signed.encode());
        seed(target, "witnessed", witnessed.encode());
        seed(target, "others", &others);
    }
    seed("checkpoint", "text", checkpoint.text());
    seed("note", "lines", "text\n\nmore\n\n\u{2014} pay.example/log AAAAAQID\n");

    let state = trust_state(root);
    seed("trust_state", "first", trust_note(&state));
    let next = TrustState { sequence: 2, ..state };
    seed("trust_state", "second", next.text());
    let keys = [P256_SPKI.clone(), fuzz::ed25519_spki(&ROOT_KEY)].map(Der::new).to_vec();
    let rotated = TrustState { sequence: 3, trust_keys: keys.clone(), threshold: 2, ..next };
    seed("trust_state", "rotated", TrustState { feed_keys: keys, ..rotated }.text());

    seed("bundle", "entries", vector("tile/entries/000.p/4"));
    seed("bundle", "hashes", vector("tile/0/000.p/4"));
}

fn trust_note(state: &TrustState) -> Vec<u8> {
    let name = TrustState::signer_name(&state.trust_domain);
    let signature = p256_signature(state.text().as_bytes());
    let note = SignedNote::unsigned(state.text()).unwrap();
    note.with_signature(&name, tlog::ecdsa_key_id(&P256_SPKI), &signature).unwrap().encode()
}

fn texts() {
    seed("spiffe_id", "workload", "spiffe://pay.example/prod/reports");
    seed("spiffe_id", "trust-domain", "spiffe://pay.example");
    seed("spiffe_id", "operator", "spiffe://pay.example/countersign/operator/a.b-c_d");
    seed("spiffe_id", "name", "pay.example");
    let pin = trust_state(&[]).pin();
    let token = BootstrapToken::new([7; 32], pin).expose();
    for (name, text) in [
        ("pin", pin.to_string()),
        ("pin-with-sequence", pin.at_least(3).to_string()),
        ("token", token),
        ("ttl", "1h 30m".to_owned()),
        ("serial", "4d8f01".to_owned()),
        ("dns", "reports.pay.internal".to_owned()),
        ("tile", "tile/0/x001/x234/067".to_owned()),
        ("partial", "tile/entries/000.p/4".to_owned()),
        ("vkey", checkpoint_key().to_string()),
    ] {
        seed("text_forms", name, text);
    }
}

/// The files that ship, and texts that take a rule of theirs to its edge.
fn policies() {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../policies"));
    let shipped = |name| fs::read_to_string(root.join(name)).unwrap();
    let files = |cedar: &str, workloads: &str, profiles: &str, schema: &str| {
        [cedar, workloads, profiles, schema].join(POLICY_FILES)
    };
    let rows = shipped("workloads.json");
    let condition = |when: &str| format!("permit(principal, action, resource) when {{ {when} }};");
    let all = "permit(principal, action, resource);";
    seed("policies", "shipped", files(&shipped("countersign.cedar"), &rows, "", ""));
    seed("policies", "schema", files(all, &rows, "", &shipped("schema.cedarschema")));
    seed("policies", "profiles", files(all, &rows, &shipped("profiles.json"), ""));
    let brackets = |depth| format!("{}true{}", "(".repeat(depth), ")".repeat(depth));
    for (name, when) in [
        ("brackets", brackets(198)),
        ("more-brackets", brackets(1000)),
        ("operators", format!("{}true", "true && ".repeat(190))),
        ("more-operators", format!("{}true", "true || ".repeat(400))),
        ("signs", format!("{}true", "!".repeat(1000))),
        ("minuses", format!("{}1 == 1", "-".repeat(1000))),
        ("attributes", format!("context{}", ".dns".repeat(900))),
        ("calls", format!("context.dns{}", ".contains(context.dns)".repeat(150))),
        ("ifs", format!("{}true", "if true then true else ".repeat(150))),
        ("like", "context.profile like \"a*\" && context has dns".to_owned()),
        ("hidden", "\"((((\" == \"\\\"((((\" // ((((\n".to_owned()),
        ("validity", "context has validity_seconds && context.validity_seconds < 3600".to_owned()),
    ] {
        seed("policies", name, files(&condition(&when), &rows, "", ""));
    }
    let types: String = (0..90).map(|at| format!("type T{at} = {{\"a\": T{}}};", at + 1)).collect();
    seed("policies", "types", files(all, &rows, "", &format!("{types}type T90 = Long;")));
    let deep = format!("{}Long{}", "Set<".repeat(40), ">".repeat(40));
    seed("policies", "sets", files(all, &rows, "", &format!("type T = {deep};")));
    let row = |id: &str| format!(r#"{{"workloads": [{{"id": "{id}", "dns": ["a.b"]}}]}}"#);
    seed("policies", "path", files(all, &row(&"/a".repeat(1000)), "", ""));
    seed("policies", "json", files(all, &"[".repeat(200), "", ""));
}

const POLICY_FILES: &str = "\n---\n";

fn bodies() {
    for (name, json) in BODIES {
        seed("api_bodies", name, json);
    }
}

const BODIES: [(&str, &str); 15] = [
    (
        "issue",
        r#"{"csr":"","spiffe_id":"spiffe://a/b","dns":["c.d"],"ip":["::1"],"profile":"default","ttl":"1h","attestation":{"type":"token","token":"ct1.x.y"}}"#,
    ),
    ("renew", r#"{"csr":"","attestation":{"type":"svid"}}"#),
    ("revoke", r#"{"target":"4d","reason":"superseded","dry_run":true}"#),
    ("deny", r#"{"spiffe_id":"spiffe://a/b","reason":"key-compromise"}"#),
    ("token", r#"{"spiffe_id":"spiffe://a/b","ttl":"15m","key_sha256":"00"}"#),
    ("policies", r#"{"files":{"workloads.json":"{}"}}"#),
    (
        "explain",
        r#"{"as":"spiffe://a/b","action":"issue","resource":"spiffe://a/b","dns":["c.d"],"ip":["10.0.0.1"]}"#,
    ),
    (
        "issued",
        r#"{"spiffe_id":"spiffe://a/b","serial_number":"4d","chain":"","not_before":"2026-11-21T12:00:00Z","not_after":"2026-11-22T12:00:00Z","renewal":{"start":"2026-11-22T04:00:00Z","end":"2026-11-22T06:00:00Z"},"log_index":2,"trust_sequence":1}"#,
    ),
    (
        "problem",
        r#"{"type":"urn:countersign:problem:policy-denied","title":"t","status":403,"detail":"d","request_id":"r","policies":["p"]}"#,
    ),
    (
        "report",
        r#"{"trust_sequence":1,"feed_sequence":9,"checkpoint_size":12,"closed":[{"log_index":9,"connections":2}],"open_connections":3,"peers":["spiffe://a/b"],"seconds_without_authority":3600,"replaces":"4d"}"#,
    ),
    (
        "workloads",
        r#"{"items":[{"spiffe_id":"spiffe://a/b","serial_number":"4d","seconds_ago":1,"report_seconds_ago":2,"report":{"trust_sequence":1,"feed_sequence":9,"open_connections":3,"seconds_without_authority":3600}}],"next":"4d"}"#,
    ),
    (
        "reach",
        r#"{"log_index":9,"live":2,"reached":1,"silent":1,"connections_closed":3,"waiting":[{"spiffe_id":"spiffe://a/b","serial_number":"4d"}]}"#,
    ),
    (
        "key-step",
        r#"{"purpose":"issuer","public_key":"AAAA","certificate":{"signed":{"announced_at":7,"signed":"AAAA"}},"trust_state":{"announced":{"to_be_signed":"AAAA"}}}"#,
    ),
    ("key-step-outcome", r#"{"announced":{"certificate":7,"trust_state":8}}"#),
    (
        "keys",
        r#"{"items":[{"id":"00","purpose":"countersignature","state":"active","log_index":2,"since":"2026-11-21T12:00:00Z","public_key":"AAAA","certified_by":"01","not_after":"2026-11-22T12:00:00Z","next":{"step":"retire","waiting":1,"certificates":[{"spiffe_id":"spiffe://a/b","serial_number":"4d"}],"until":"2026-11-22T12:00:00Z","first":"02"}}]}"#,
    ),
];

/// Lines of bodies, whose hashes the target puts in where there are zeros.
fn feed() {
    for (name, bodies) in [
        ("snapshot", &[SNAPSHOT][..]),
        ("first", &[DELTA, HEARTBEAT]),
        ("delta", &[SNAPSHOT, DELTA, HEARTBEAT]),
        ("overlap", &[FIRST_DELTA, DELTA, WHOLE_DELTA, HEARTBEAT]),
        ("gap", &[FIRST_DELTA, HEARTBEAT, SNAPSHOT, DELTA]),
        ("back", &[FIRST_DELTA, DELTA, FIRST_DELTA, SNAPSHOT]),
    ] {
        let bodies = bodies.iter().map(|(sequence, content)| {
            format!(
                r#"{{"v":2,"trust_domain":"pay.example","at":{}000,"sequence":{sequence},"hash":"{}","content":{content}}}"#,
                NOW,
                "0".repeat(64),
            )
        });
        let lines = bodies.collect::<Vec<_>>().join("\n").replace("BLANK", &"0".repeat(64));
        // After the head that names them.
        let lines = match lines.find(r#"{"snapshot""#) {
            Some(head) => {
                let end = lines[head..].find('\n').map_or(lines.len(), |end| head + end);
                format!("{}\n{CHUNKS}{}", &lines[..end], &lines[end..])
            }
            None => lines,
        };
        seed("feed", name, lines);
    }
    let hash = Position::genesis(&trust_domain()).hash;
    let content = Content::Snapshot(SnapshotHead { chunks: vec![] });
    let trust_domain = trust_domain();
    let message =
        Message { v: Message::VERSION, trust_domain, at: NOW * 1000, sequence: 0, hash, content };
    let body = message.body();
    let signature = OTHER_KEY.sign(signed_text(&message.trust_domain, &body).as_bytes());
    let envelope = Envelope::new(&fuzz::ed25519_spki(&OTHER_KEY), signature.as_ref(), body);
    seed("feed", "signed", envelope.encode());
}

const FIRST_DELTA: (u64, &str) = (
    3,
    r#"{"delta":{"previous_sequence":0,"previous_hash":"BLANK","items":[{"log_index":3,"change":{"revoke_serial":{"serial_number":"4d","until":1795262400}}}]}}"#,
);
const DELTA: (u64, &str) = (
    9,
    r#"{"delta":{"previous_sequence":3,"previous_hash":"BLANK","items":[{"log_index":5,"change":{"revoke_identity":"spiffe://pay.example/a"}},{"log_index":9,"change":{"deny":"spiffe://pay.example/b"}}]}}"#,
);
const WHOLE_DELTA: (u64, &str) = (
    12,
    r#"{"delta":{"previous_sequence":0,"previous_hash":"BLANK","items":[{"log_index":3,"change":{"revoke_serial":{"serial_number":"4d","until":1795262400}}},{"log_index":5,"change":{"revoke_identity":"spiffe://pay.example/a"}},{"log_index":9,"change":{"deny":"spiffe://pay.example/b"}},{"log_index":12,"change":{"allow":"spiffe://pay.example/b"}}]}}"#,
);
/// Its head stands for the bodies' form, its chunks for themselves.
const SNAPSHOT: (u64, &str) = (3, r#"{"snapshot":{"chunks":["BLANK","BLANK"]}}"#);
const CHUNKS: &str = r#"{"serials":{"1795262400":["4d"]}}
{"identities":[{"spiffe_id":"spiffe://pay.example/a","before":2}],"denied":["spiffe://pay.example/a"]}"#;
const HEARTBEAT: (u64, &str) = (
    9,
    r#"{"heartbeat":{"checkpoint":"pay.example/log\n9\nBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=\n","trust_sequence":1,"trust_hash":"BLANK"}}"#,
);

fn workload() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.serial_number = Some(vec![0x4d, 1, 2, 3].into());
    (params.not_before, params.not_after) =
        (datetime!(2026-11-21 11:59 UTC), datetime!(2026-11-22 12:00 UTC));
    params.distinguished_name = DistinguishedName::new();
    let uri = "spiffe://pay.example/prod/reports";
    params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params
}

fn named_workload() -> CertificateParams {
    let mut params = workload();
    params.distinguished_name.push(DnType::CommonName, "reports.pay.internal");
    params.subject_alt_names.push(SanType::DnsName("reports.pay.internal".try_into().unwrap()));
    params.subject_alt_names.push(SanType::IpAddress([10, 0, 0, 1].into()));
    params
}

fn ca(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.serial_number = Some(vec![0x15].into());
    (params.not_before, params.not_after) =
        (datetime!(2026-01-01 0:00 UTC), datetime!(2027-01-01 0:00 UTC));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    params
}

/// The same key as in the library, for rcgen (RFC 8410 §7).
fn key_pair(seed: [u8; 32]) -> KeyPair {
    let header = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    let pkcs8 = [&header[..], &seed].concat();
    let pkcs8 = PrivatePkcs8KeyDer::from(pkcs8);
    KeyPair::from_pkcs8_der_and_sign_algo(&pkcs8, &PKCS_ED25519).unwrap()
}

fn chain(certificates: &[&[u8]]) -> Vec<u8> {
    let mut chain = Vec::new();
    certificates.iter().for_each(|der| encode_bundle_entry(der, &mut chain).unwrap());
    chain
}

fn vector(name: &str) -> Vec<u8> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../src/tlog/tests/vectors");
    fs::read(Path::new(folder).join(name)).unwrap()
}

fn seed(target: &str, name: &str, bytes: impl AsRef<[u8]>) {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus")).join(target);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(name), bytes).unwrap();
}
