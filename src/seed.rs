//! Identifiers made from what is given, and from nothing else: the same on every machine.

use md5::{Digest, Md5};

/// What the identifiers of an image are derived from.
///
/// ```
/// use diskimage::seed::Seed;
///
/// let seed = Seed::new("web-1");
/// assert_eq!(seed.identifier("disk"), Seed::new("web-1").identifier("disk"));
/// assert_ne!(seed.identifier("disk"), seed.identifier("parent"));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seed([u8; 16]);

impl Seed {
    /// From any bytes.
    #[must_use]
    pub fn new(bytes: impl AsRef<[u8]>) -> Self {
        Self(Md5::digest(bytes).into())
    }

    /// The identifier of this name: a UUID of version 3 (RFC 9562, section 5.3), in the order of its
    /// text form, with the seed as the name space.
    ///
    /// ```
    /// use diskimage::seed::Seed;
    /// use diskimage::text::uuid;
    ///
    /// let disk = uuid(&Seed::new("web-1").identifier("disk"));
    /// assert_eq!(disk.len(), 36);
    /// assert_eq!(&disk[14..15], "3"); // the version
    /// ```
    #[must_use]
    pub fn identifier(&self, name: &str) -> [u8; 16] {
        let mut hash: [u8; 16] =
            Md5::new().chain_update(self.0).chain_update(name).finalize().into();
        let [_, _, _, _, _, _, version, _, variant, ..] = &mut hash;
        *version = (*version & 0x0f) | 0x30;
        *variant = (*variant & 0x3f) | 0x80;
        hash
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_uuids_that_differ_by_name_and_seed() {
        let one = Seed::new("a").identifier("x");
        assert_eq!(one, Seed::new("a").identifier("x"));
        assert_ne!(one, Seed::new("a").identifier("y"));
        assert_ne!(one, Seed::new("b").identifier("x"));
        assert_eq!((one[6] >> 4, one[8] >> 6), (3, 2));
    }
}
