//! The manifest of an OVA: a line `SHA256(NAME)= HASH` for each file (DSP0243, section 6).

use crate::num::to_u64;

/// The longest manifest that is read.
pub(super) const MAX_SIZE: u64 = 1 << 20;

/// A line of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) algorithm: Algorithm,
    pub(super) name: Vec<u8>,
    pub(super) hash: Vec<u8>,
    /// Where the line starts.
    pub(super) at: u64,
}

/// How a file was hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    Sha1,
    Sha256,
    Sha512,
}

impl Algorithm {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "SHA1",
            Self::Sha256 => "SHA256",
            Self::Sha512 => "SHA512",
        }
    }
}

/// The lines, and where the first one lies that makes no sense.
pub(super) fn parse(text: &[u8]) -> (Vec<Entry>, Option<u64>) {
    let (mut entries, mut wrong, mut at) = (Vec::new(), None, 0u64);
    for line in text.split(|&b| b == b'\n') {
        let trimmed = line.trim_ascii();
        if !trimmed.is_empty() && !trimmed.iter().all(|&b| b == 0) {
            match entry(trimmed, at) {
                Some(entry) => entries.push(entry),
                None => wrong = wrong.or(Some(at)),
            }
        }
        at = at.saturating_add(to_u64(line.len())).saturating_add(1);
    }
    (entries, wrong)
}

fn entry(line: &[u8], at: u64) -> Option<Entry> {
    let open = line.iter().position(|&b| b == b'(')?;
    let close = line.iter().rposition(|&b| b == b')')?;
    let (word, name) = (line.get(..open)?.trim_ascii(), line.get(open.checked_add(1)?..close)?);
    let hash = line.get(close.checked_add(1)?..)?.trim_ascii_start().strip_prefix(b"=")?;
    let algorithm = match word.to_ascii_uppercase().as_slice() {
        b"SHA1" => Algorithm::Sha1,
        b"SHA256" => Algorithm::Sha256,
        b"SHA512" => Algorithm::Sha512,
        _ => return None,
    };
    let digits = hash.trim_ascii();
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let byte = |pair: &[u8; 2]| Some(digit(pair[0])? << 4 | digit(pair[1])?);
    let (pairs, rest) = digits.as_chunks::<2>();
    let hash: Vec<u8> = pairs.iter().map(byte).collect::<Option<_>>()?;
    let length = match algorithm {
        Algorithm::Sha1 => 20,
        Algorithm::Sha256 => 32,
        Algorithm::Sha512 => 64,
    };
    let fits = rest.is_empty() && hash.len() == length && !name.is_empty();
    fits.then(|| Entry { algorithm, name: name.to_vec(), hash, at })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_taken_apart_and_what_is_none_is_told() {
        let sha1 = "0123456789abcdef0123456789ABCDEF01234567";
        let text = format!("SHA1(a (1).vmdk)= {sha1}\r\n\nsha1 (b)={sha1}\nMD5(c)= 12\n");
        let (entries, wrong) = parse(text.as_bytes());
        assert_eq!(entries.len(), 2);
        assert_eq!(entries[0].name, b"a (1).vmdk");
        assert_eq!(entries[1].hash[..3], [1, 0x23, 0x45]);
        assert_eq!(wrong, Some(text.find("MD5").unwrap() as u64));
        for bad in ["SHA256(a)= 12", "SHA1(a) 12", "SHA1()= ", "x", "SHA1)a(= "] {
            assert_eq!(parse(bad.as_bytes()), (vec![], Some(0)), "{bad}");
        }
    }
}
