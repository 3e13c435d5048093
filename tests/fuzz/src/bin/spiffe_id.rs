//! SPIFFE IDs and trust domains.
#![no_main]

use identity::{SpiffeId, TrustDomain};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = str::from_utf8(data) else { return };
    if let Ok(id) = SpiffeId::parse(text) {
        well_formed(text);
        assert_eq!(id.as_str(), text);
        assert_eq!(SpiffeId::new(&id.trust_domain(), id.path()), Ok(id.clone()));
        assert!(id.is_member_of(&id.trust_domain()));
        let json = serde_json::to_string(&id).expect("an ID is text");
        assert_eq!(serde_json::from_str::<SpiffeId>(&json).ok(), Some(id));
    }
    if let Ok(domain) = TrustDomain::parse(text) {
        assert_eq!(domain.id().as_str(), format!("spiffe://{text}"));
        assert_eq!(domain.id().trust_domain(), domain);
    }
});

/// SPIFFE ID §2, said in another way than the parser does.
fn well_formed(id: &str) {
    let mut parts = id.split('/');
    assert_eq!((parts.next(), parts.next()), (Some("spiffe:"), Some("")));
    let domain = parts.next().expect("a trust domain follows");
    assert!((1..=255).contains(&domain.len()) && id.len() <= 2048);
    assert!(domain.chars().all(|c| c.is_ascii_lowercase() || is_common(c)));
    for segment in parts {
        assert!(!matches!(segment, "" | "." | ".."));
        assert!(segment.chars().all(|c| c.is_ascii_alphabetic() || is_common(c)));
    }
}

fn is_common(c: char) -> bool {
    c.is_ascii_digit() || "._-".contains(c)
}
