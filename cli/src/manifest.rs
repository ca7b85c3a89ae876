//! Reading manifests that `checksum --blocks` wrote. They come from files, and may be of any length:
//! hashes are taken as they are met.

use std::fmt;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use diskimage::checksum::{Algorithm, Block, Manifest};
use diskimage::{Error, ErrorKind, Result};
use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};

use crate::checklist::from_hex;

pub(crate) fn read(path: &Path) -> Result<Manifest> {
    let file = File::open(path).map_err(|error| Error::io("open the manifest", error))?;
    let mut json = serde_json::Deserializer::from_reader(BufReader::new(file));
    let manifest = json.deserialize_map(Document).and_then(|manifest| {
        json.end()?;
        Ok(manifest)
    });
    manifest.map_err(|error| {
        if error.is_io() {
            return Error::io("read the manifest", error.into());
        }
        let message = format!("is no manifest: {error}");
        let error = Error::other(ErrorKind::Corrupt, diskimage::text::printable_str(&message));
        error.advise("make one with checksum --blocks")
    })
}

/// The document: the hashes come after all that they are understood by.
struct Document;

impl<'de> Visitor<'de> for Document {
    type Value = Manifest;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Manifest, A::Error> {
        let (mut version, mut algorithm, mut block_size, mut size) = (None, None, None, None);
        let mut manifest = None;
        while let Some(key) = map.next_key::<String>()? {
            match &*key {
                "version" => version = Some(map.next_value::<u64>()?),
                "algorithm" => {
                    let name = map.next_value::<String>()?;
                    algorithm = Some(name.parse::<Algorithm>().map_err(A::Error::custom)?);
                }
                "block-size" => block_size = Some(map.next_value::<u64>()?),
                "size" => size = Some(map.next_value::<u64>()?),
                "hashes" => {
                    let (Some(1), Some(algorithm), Some(block_size), Some(size), None) =
                        (version, algorithm, block_size, size, &manifest)
                    else {
                        return Err(A::Error::custom("it is not of version 1"));
                    };
                    let empty = Manifest::new(algorithm, block_size, size);
                    let mut empty = empty.map_err(A::Error::custom)?;
                    map.next_value_seed(Hashes(&mut empty))?;
                    manifest = Some(empty);
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        let manifest = manifest.ok_or_else(|| A::Error::custom("it has no hashes"))?;
        manifest.check_whole().map_err(A::Error::custom)?;
        Ok(manifest)
    }
}

struct Hashes<'a>(&'a mut Manifest);

impl<'de> DeserializeSeed<'de> for Hashes<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Hashes<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of hashes")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(Entry(self.0))?.is_some() {}
        Ok(())
    }
}

/// One entry of the list.
struct Entry<'a>(&'a mut Manifest);

impl<'de> DeserializeSeed<'de> for Entry<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl Visitor<'_> for Entry<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a hash, or a number of blocks of zeros")
    }

    fn visit_u64<E: serde::de::Error>(self, blocks: u64) -> Result<(), E> {
        self.0.push(Block::Zeros(blocks)).map_err(E::custom)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<(), E> {
        let digest = from_hex(text.as_bytes()).ok_or_else(|| E::custom("a hash is no number"))?;
        self.0.push(Block::Digest(&digest)).map_err(E::custom)
    }
}
