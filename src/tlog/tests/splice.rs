//! The splice rule: one input for each rule that breaks just that rule, and that nothing else
//! passes.

#![allow(clippy::unwrap_used, reason = "clippy takes the helpers of a test for product code")]

use proptest::prelude::*;
use tlog::{
    CertificateLeaf, Error, Hash, SignedCertificateTimestamp, join_certificate, sct_list_extension,
    splice_in, splice_out,
};

#[test]
fn sct_list_is_taken_out_and_put_back() {
    let with_sct = tbs(&[key_usage(), sct_list()]);
    let bare = tbs(&[key_usage()]);
    assert_eq!(splice_out(&with_sct), Ok((bare.clone(), sct())));
    assert_eq!(splice_in(&bare, &sct()), Ok(with_sct));
}

#[test]
fn leaf_is_rebuilt_from_certificate_and_issuer_key() {
    let certificate = join_certificate(&tbs(&[key_usage(), sct_list()]), &der(0x30, &[]), &[7]);
    let leaf = CertificateLeaf {
        timestamp: sct().timestamp,
        issuer_key_hash: Hash::of(b"issuer key"),
        tbs_certificate: tbs(&[key_usage()]),
        leaf_index: sct().leaf_index,
    };
    let rebuilt = CertificateLeaf::from_certificate(&certificate, b"issuer key");
    assert_eq!(rebuilt, Ok((leaf, sct())));
}

#[test]
fn certificate_without_countersignature_is_refused() {
    assert_eq!(splice_out(&tbs(&[key_usage()])), Err(Error::SctMissing));
    assert_eq!(splice_out(&tbs(&[])), Err(Error::ExtensionsEmpty));
    assert_eq!(splice_out(&der(0x30, &[&fields()])), Err(Error::ExtensionsEmpty));
}

#[test]
fn sct_list_that_is_not_last_is_refused() {
    assert_eq!(splice_out(&tbs(&[sct_list(), key_usage()])), Err(Error::SctNotLast));
}

#[test]
fn second_sct_list_is_refused() {
    let twice = tbs(&[key_usage(), sct_list(), sct_list()]);
    assert_eq!(splice_out(&twice), Err(Error::SctTwice));
    let apart = tbs(&[sct_list(), key_usage(), sct_list()]);
    assert_eq!(splice_out(&apart), Err(Error::SctTwice));
    let once = tbs(&[key_usage(), sct_list()]);
    assert_eq!(splice_in(&once, &sct()), Err(Error::SctPresent));
    let first = tbs(&[sct_list(), key_usage()]);
    assert_eq!(splice_in(&first, &sct()), Err(Error::SctPresent));
}

#[test]
fn critical_sct_list_is_refused() {
    let list = sct_list();
    let (extn_id, extn_value) = list[3..].split_at(12);
    let critical = der(0x30, &[extn_id, &[1, 1, 0xff], extn_value]);
    assert_eq!(splice_out(&tbs(&[key_usage(), critical])), Err(Error::SctCritical));
}

#[test]
fn certificate_without_another_extension_is_refused() {
    assert_eq!(splice_out(&tbs(&[sct_list()])), Err(Error::ExtensionsEmpty));
    assert_eq!(splice_in(&tbs(&[]), &sct()), Err(Error::ExtensionsEmpty));
    assert_eq!(splice_in(&der(0x30, &[&fields()]), &sct()), Err(Error::ExtensionsEmpty));
}

#[test]
fn sct_that_cannot_be_encoded_is_not_spliced_in() {
    let unsigned = SignedCertificateTimestamp { signature: vec![], ..sct() };
    let refused = splice_in(&tbs(&[key_usage()]), &unsigned);
    assert_eq!(refused, Err(Error::SctSignatureLength { length: 0 }));
}

#[test]
fn lengths_that_are_not_minimal_are_refused() {
    let extensions = [key_usage(), sct_list()].concat();
    let list = der(0x30, &[&extensions]);
    let explicit = der(0xa3, &[&list]);
    let whole = [fields(), explicit].concat();
    let cases = [
        long_form(0x30, &whole),
        der(0x30, &[&fields(), &long_form(0xa3, &list)]),
        der(0x30, &[&fields(), &der(0xa3, &[&long_form(0x30, &extensions)])]),
        tbs(&[long_form(0x30, &key_usage()[2..]), sct_list()]),
        der(0x30, &[&[0xa0, 0x81, 3, 2, 1, 2], &whole[5..]]),
    ];
    assert!(splice_out(&der(0x30, &[&whole])).is_ok());
    for tbs in cases {
        assert_eq!(splice_out(&tbs), Err(Error::DerLengthNotMinimal));
    }
}

#[test]
fn trailing_bytes_are_refused_at_every_depth() {
    let extensions = [key_usage(), sct_list()].concat();
    let list = der(0x30, &[&extensions]);
    let explicit = der(0xa3, &[&list]);
    let null = [5, 0];
    let longer = [&sct_list()[3..], &null].concat();
    let cases = [
        [&tbs(&[key_usage(), sct_list()])[..], &null].concat(),
        der(0x30, &[&fields(), &explicit, &null]),
        der(0x30, &[&fields(), &der(0xa3, &[&list, &null])]),
        tbs(&[key_usage(), der(0x30, &[&longer])]),
    ];
    for tbs in cases {
        assert_eq!(splice_out(&tbs), Err(Error::TrailingBytes { what: "DER" }));
    }
    let refused = splice_out(&tbs(&[key_usage(), sct_list(), null.to_vec()]));
    assert_eq!(refused, Err(Error::DerTag { expected: 0x30, found: 5 }));
}

#[test]
fn other_fields_than_those_of_a_version_3_certificate_are_refused() {
    let extensions = tbs(&[key_usage(), sct_list()]);
    let explicit = der(0xa3, &[&der(0x30, &[&key_usage(), &sct_list()])]);
    assert!(extensions.ends_with(&explicit));
    let unique_identifier = der(0x30, &[&fields(), &[0x81, 2, 0, 7], &explicit]);
    let refused = splice_out(&unique_identifier);
    assert_eq!(refused, Err(Error::DerTag { expected: 0xa3, found: 0x81 }));
    let version_1 = der(0x30, &[&fields()[5..], &explicit]);
    assert_eq!(splice_out(&version_1), Err(Error::DerTag { expected: 0xa0, found: 2 }));
    let twice = der(0x30, &[&fields(), &explicit, &explicit]);
    assert_eq!(splice_out(&twice), Err(Error::TrailingBytes { what: "DER" }));
}

proptest! {
    #[test]
    fn splicing_in_undoes_splicing_out((extensions, sct) in (any_extensions(), any_sct())) {
        let bare = tbs(&extensions);
        let with_sct = tbs(&[&extensions[..], &[sct_list_extension(&sct).unwrap()]].concat());
        prop_assert_eq!(splice_in(&bare, &sct).unwrap(), &with_sct[..]);
        prop_assert_eq!(splice_out(&with_sct).unwrap(), (bare, sct));
    }

    #[test]
    fn changed_byte_is_refused_or_seen(
        (extensions, sct) in (any_extensions(), any_sct()),
        position in any::<prop::sample::Index>(),
        change in 1u8..,
    ) {
        let bare = tbs(&extensions);
        let mut changed = splice_in(&bare, &sct).unwrap();
        *position.get_mut(&mut changed) ^= change;
        if let Ok((changed_bare, changed_sct)) = splice_out(&changed) {
            prop_assert_ne!((&changed_bare, &changed_sct), (&bare, &sct));
            prop_assert_eq!(splice_in(&changed_bare, &changed_sct).unwrap(), changed);
        }
    }

    #[test]
    fn part_of_a_certificate_is_refused(
        (extensions, sct) in (any_extensions(), any_sct()),
        length in any::<prop::sample::Index>(),
    ) {
        let whole = splice_in(&tbs(&extensions), &sct).unwrap();
        prop_assert!(splice_out(&whole[..length.index(whole.len())]).is_err());
    }

    #[test]
    fn arbitrary_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(splice_out(&bytes).is_err());
        prop_assert!(splice_in(&bytes, &sct()).is_err());
        prop_assert!(CertificateLeaf::from_certificate(&bytes, &[]).is_err());
    }
}

/// Extensions around the sizes where lengths get another octet.
fn any_extensions() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let value = prop::collection::vec(any::<u8>(), 0..300);
    let extension = (1u8..=127, any::<bool>(), value).prop_map(|(id, critical, value)| {
        let critical: &[u8] = if critical { &[1, 1, 0xff] } else { &[] };
        der(0x30, &[&[6, 1, id], critical, &der(4, &[&value])])
    });
    prop::collection::vec(extension, 1..5)
}

fn any_sct() -> impl Strategy<Value = SignedCertificateTimestamp> {
    let signature = prop::collection::vec(any::<u8>(), 1..=72);
    (any::<[u8; 32]>(), any::<u64>(), 0u64..1 << 40, signature).prop_map(
        |(log_id, timestamp, leaf_index, signature)| {
            let log_id = Hash::new(log_id);
            SignedCertificateTimestamp { log_id, timestamp, leaf_index, signature }
        },
    )
}

fn sct() -> SignedCertificateTimestamp {
    SignedCertificateTimestamp {
        log_id: Hash::of(b"log key"),
        timestamp: 1_795_222_899_575,
        leaf_index: 2,
        signature: vec![7; 70],
    }
}

fn sct_list() -> Vec<u8> {
    sct_list_extension(&sct()).unwrap()
}

fn key_usage() -> Vec<u8> {
    vec![0x30, 14, 6, 3, 0x55, 0x1d, 15, 1, 1, 0xff, 4, 4, 3, 2, 7, 0x80]
}

fn tbs(extensions: &[Vec<u8>]) -> Vec<u8> {
    let list = der(0x30, &[&extensions.concat()]);
    der(0x30, &[&fields(), &der(0xa3, &[&list])])
}

/// Version 3, serial number 77, and five sequences.
fn fields() -> Vec<u8> {
    let sequences = [0x30, 2, 5, 0].repeat(5);
    [&[0xa0, 3, 2, 1, 2, 2, 1, 77][..], &sequences].concat()
}

fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let value = parts.concat();
    let length = value.len();
    let header = match length {
        0..0x80 => vec![tag, length as u8],
        0x80..0x100 => vec![tag, 0x81, length as u8],
        _ => vec![tag, 0x82, (length >> 8) as u8, length as u8],
    };
    [header, value].concat()
}

/// The same with more octets of length than it needs.
fn long_form(tag: u8, value: &[u8]) -> Vec<u8> {
    let length = value.len();
    [&[tag, 0x83, 0, (length >> 8) as u8, length as u8], value].concat()
}
