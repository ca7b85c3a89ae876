//! The JSON area: segments, key slots and digests (section 3).

use serde_json::{Map, Value as Json};
use sha2::{Digest, Sha256, Sha512};

use crate::layer::Value;
use crate::text::printable_str;

use super::super::cipher;

/// The longest JSON that is read: what bounds the memory. That of real headers has some KiB.
const LONGEST: usize = 1 << 20;
/// The most objects of a kind that are told.
const MOST: usize = 64;

/// What the JSON says.
#[derive(Debug, Default)]
pub(super) struct Metadata {
    /// Where the data start, if they are in this file.
    pub(super) payload_offset: Option<u64>,
    /// How many bytes they are, if that is a number of its own.
    pub(super) payload_size: Option<u64>,
    pub(super) details: Vec<(&'static str, Value)>,
}

/// Whether the checksum of a header is right: that of its area with the checksum as zeros. `None`
/// where it is of an algorithm that is not known.
pub(super) fn checksum(area: &[u8], algorithm: &str) -> Option<bool> {
    let (before, rest) = area.split_at_checked(448)?;
    let (stored, behind) = rest.split_at_checked(64)?;
    fn digest<D: Digest>(before: &[u8], behind: &[u8]) -> Vec<u8> {
        D::new().chain_update(before).chain_update([0; 64]).chain_update(behind).finalize().to_vec()
    }
    let computed = match algorithm {
        "sha256" => digest::<Sha256>(before, behind),
        "sha512" => digest::<Sha512>(before, behind),
        _ => return None,
    };
    Some(stored.starts_with(&computed))
}

/// A number: the format has 64-bit ones as strings.
fn number(value: &Json) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

fn string(object: &Json, key: &str) -> Option<String> {
    object.get(key)?.as_str().map(printable_str)
}

fn objects<'a>(json: &'a Json, key: &str) -> Vec<(&'a String, &'a Json)> {
    let map = json.get(key).and_then(Json::as_object);
    let mut found: Vec<_> = map.into_iter().flat_map(Map::iter).take(MOST).collect();
    found.sort_by_key(|(name, _)| (name.len(), *name));
    found
}

/// Adds what is there of these texts and numbers of an object.
fn add(into: &mut Vec<(&'static str, Value)>, object: &Json, keys: &[(&'static str, &str)]) {
    for (name, key) in keys {
        match object.get(*key) {
            // numbers of 64 bits are strings
            Some(Json::String(text)) => into.push((
                *name,
                text.parse().map_or_else(|_| printable_str(text).into(), Value::Number),
            )),
            Some(other) => into.extend(other.as_u64().map(|number| (*name, number.into()))),
            None => {}
        }
    }
}

impl Metadata {
    /// Reads it; the error is a sentence.
    pub(super) fn parse(json: &[u8]) -> Result<Self, String> {
        if json.len() > LONGEST {
            return Err(format!("the JSON has {} bytes; up to 1 MiB are read", json.len()));
        }
        let json: Json = serde_json::from_slice(json)
            .map_err(|error| format!("the JSON area makes no sense: {error}"))?;
        let slots = objects(&json, "keyslots");
        let key_size = slots.iter().find_map(|(_, slot)| slot.get("key_size")?.as_u64());
        let mut found = Self::default();
        let segments = objects(&json, "segments");
        if let Some((_, first)) = segments.first() {
            found.payload_offset = first.get("offset").and_then(number);
            found.payload_size = first.get("size").and_then(number);
            if let Some(encryption) = string(first, "encryption") {
                let (name, mode) = encryption.split_once('-').unwrap_or((&encryption, ""));
                found.details = cipher(name, mode, key_size.unwrap_or_default());
            }
        }
        let digests = objects(&json, "digests");
        if let Some((_, digest)) = digests.first() {
            add(
                &mut found.details,
                digest,
                &[("hash-alg", "hash"), ("master-key-iters", "iterations")],
            );
        }
        if let Some(offset) = found.payload_offset {
            found.details.push(("payload-offset", offset.into()));
        }
        let segments = segments.into_iter().map(|(id, segment)| {
            let mut values = vec![("id", printable_str(id).into())];
            let keys = [("type", "type"), ("encryption", "encryption"), ("offset", "offset")];
            add(&mut values, segment, &keys);
            add(&mut values, segment, &[("size", "size"), ("sector-size", "sector_size")]);
            if let Some(integrity) = segment.get("integrity") {
                add(&mut values, integrity, &[("integrity", "type")]);
            }
            Value::Map(values)
        });
        let is_detached = found.payload_offset == Some(0);
        found.details.push(("detached-header", is_detached.into()));
        found.details.push(("segments", Value::List(segments.collect())));
        let slots = slots.into_iter().map(|(id, slot)| {
            // every one that is there holds a key
            let mut values = vec![("id", printable_str(id).into()), ("active", true.into())];
            add(&mut values, slot, &[("type", "type"), ("key-size", "key_size")]);
            let priority = match slot.get("priority").and_then(Json::as_u64) {
                Some(0) => "ignore",
                Some(2) => "prefer",
                _ => "normal",
            };
            values.push(("priority", priority.into()));
            let inner = |key: &str| slot.get(key).unwrap_or(&Json::Null);
            let kdf = [("kdf", "type"), ("hash-alg", "hash"), ("iters", "iterations")];
            add(&mut values, inner("kdf"), &kdf);
            add(
                &mut values,
                inner("kdf"),
                &[("time", "time"), ("memory", "memory"), ("cpus", "cpus")],
            );
            add(
                &mut values,
                inner("area"),
                &[("encryption", "encryption"), ("key-offset", "offset")],
            );
            add(&mut values, inner("af"), &[("stripes", "stripes")]);
            Value::Map(values)
        });
        found.details.push(("slots", Value::List(slots.collect())));
        Ok(found)
    }
}
