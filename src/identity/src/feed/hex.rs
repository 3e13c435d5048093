//! Hashes as lower-case hex, in JSON.

use data_encoding::HEXLOWER;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serializer};
use tlog::Hash;

pub(super) fn serialize<S: Serializer>(hash: &Hash, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&hash.to_hex())
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Hash, D::Error> {
    let text = String::deserialize(from)?;
    let bytes = HEXLOWER.decode(text.as_bytes()).map_err(D::Error::custom)?;
    Hash::try_from(&bytes[..]).map_err(D::Error::custom)
}

/// Several, as an array.
pub(super) mod list {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use tlog::Hash;

    #[derive(Serialize, Deserialize)]
    #[serde(transparent)]
    struct Hex(#[serde(with = "crate::feed::hex")] Hash);

    pub(crate) fn serialize<S: Serializer>(hashes: &[Hash], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(hashes.iter().map(|hash| Hex(*hash)))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Hash>, D::Error> {
        let hashes = Vec::<Hex>::deserialize(from)?;
        Ok(hashes.into_iter().map(|Hex(hash)| hash).collect())
    }
}
