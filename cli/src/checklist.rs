//! Lines of checksums, in the two styles of sha256sum.

use std::path::{Path, PathBuf};

use diskimage::checksum::{Algorithm, Digest};

/// What a line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) digest: Digest,
    pub(crate) file: PathBuf,
}

/// A line: `HASH  FILE`, or with the algorithm's name `ALGORITHM (FILE) = HASH`. As sha256sum does
/// it, a name with a line end or a backslash has these escaped, and the line starts with a
/// backslash.
pub(crate) fn digest_line(digest: &Digest, file: &Path, tag: bool) -> Vec<u8> {
    let name = file.as_os_str().as_encoded_bytes();
    let mut line = Vec::new();
    let mut escaped = Vec::new();
    for &byte in name {
        match byte {
            b'\\' => escaped.extend(b"\\\\"),
            b'\n' => escaped.extend(b"\\n"),
            b'\r' => escaped.extend(b"\\r"),
            other => escaped.push(other),
        }
    }
    if escaped.len() > name.len() {
        line.push(b'\\');
    }
    if tag {
        line.extend(digest.algorithm.name().to_ascii_uppercase().as_bytes());
        line.extend(b" (");
        line.extend(escaped);
        line.extend(b") = ");
        line.extend(digest.to_string().as_bytes());
    } else {
        line.extend(digest.to_string().as_bytes());
        line.extend(b"  ");
        line.extend(escaped);
    }
    line
}

/// Reads a line of either style. Without a name of an algorithm it is `algorithm`, or else the most
/// usual one with digests of that length.
pub(crate) fn parse_line(line: &[u8], algorithm: Option<Algorithm>) -> Option<Line> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let (line, escaped) = match line.strip_prefix(b"\\") {
        Some(rest) => (rest, true),
        None => (line, false),
    };
    let (algorithm, hash, name) = match tagged(line) {
        Some((algorithm, hash, name)) => (Some(algorithm), hash, name),
        None => {
            let end = line.iter().position(|&byte| byte == b' ')?;
            let (hash, rest) = line.split_at(end);
            let name = rest.strip_prefix(b"  ").or_else(|| rest.strip_prefix(b" *"))?;
            (algorithm, hash, name)
        }
    };
    let bytes = from_hex(hash)?;
    let algorithm = match algorithm {
        Some(algorithm) => algorithm,
        None => *Algorithm::ALL.iter().find(|a| a.digest_length() == bytes.len())?,
    };
    let name = if escaped { unescape(name)? } else { name.to_vec() };
    let fits = bytes.len() == algorithm.digest_length() && !name.is_empty();
    fits.then(|| Line { digest: Digest { algorithm, bytes }, file: path_of(name) })
}

/// The parts of `ALGORITHM (NAME) = HASH`.
fn tagged(line: &[u8]) -> Option<(Algorithm, &[u8], &[u8])> {
    let space = line.iter().position(|&byte| byte == b' ')?;
    let algorithm = std::str::from_utf8(&line[..space]).ok()?.parse().ok()?;
    let rest = line[space..].strip_prefix(b" (")?;
    let end = rest.windows(4).rposition(|part| part == b") = ")?;
    Some((algorithm, &rest[end + 4..], &rest[..end]))
}

pub(crate) fn from_hex(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, rest) = text.as_chunks::<2>();
    let bytes = pairs.iter().map(|&[high, low]| Some(digit(high)? << 4 | digit(low)?)).collect();
    if rest.is_empty() { bytes } else { None }
}

fn unescape(name: &[u8]) -> Option<Vec<u8>> {
    let mut plain = Vec::with_capacity(name.len());
    let mut bytes = name.iter();
    while let Some(&byte) = bytes.next() {
        plain.push(match byte {
            b'\\' => match bytes.next()? {
                b'\\' => b'\\',
                b'n' => b'\n',
                b'r' => b'\r',
                _ => return None,
            },
            other => other,
        });
    }
    Some(plain)
}

#[cfg(unix)]
fn path_of(name: Vec<u8>) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    std::ffi::OsString::from_vec(name).into()
}

#[cfg(not(unix))]
fn path_of(name: Vec<u8>) -> PathBuf {
    String::from_utf8_lossy(&name).into_owned().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_they_were_written() {
        for name in ["plain", " lead", "two  spaces", "a\nb", "c\\d", "e\rf", "x) = y", "\\"] {
            for &algorithm in Algorithm::ALL {
                let bytes = (0..algorithm.digest_length()).map(|i| (i * 37) as u8).collect();
                let digest = Digest { algorithm, bytes };
                for tag in [true, false] {
                    let line = digest_line(&digest, name.as_ref(), tag);
                    let read = parse_line(&line, Some(algorithm)).unwrap();
                    let wanted = Line { digest: digest.clone(), file: name.into() };
                    assert_eq!(read, wanted);
                    assert!(!line.contains(&b'\n'));
                }
            }
        }
    }

    #[test]
    fn other_lines_are_none() {
        let hash = "00".repeat(32);
        for line in [
            String::new(),
            "bad".into(),
            hash.clone(),
            format!("{hash} name"),
            format!("{hash}  "),
            format!("{}  name", &hash[1..]),
            format!("{}  name", &hash[2..]),
            format!("zz{}  name", &hash[2..]),
            format!("SHA999 (name) = {hash}"),
            format!("SHA1 (name) = {hash}"),
            format!("\\{hash}  a\\x"),
            format!("\\{hash}  a\\"),
        ] {
            assert_eq!(parse_line(line.as_bytes(), None), None, "{line}");
        }
        let binary = parse_line(format!("{hash} *name\r").as_bytes(), None).unwrap();
        assert_eq!((binary.digest.algorithm, &*binary.file), (Algorithm::Sha256, "name".as_ref()));
    }
}
