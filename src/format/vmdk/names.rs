//! File names in descriptors: bytes in an encoding that the descriptor declares.

use encoding_rs::Encoding;

/// The text that `raw` is in the `encoding` of the descriptor (UTF-8 where it declares none);
/// `None` if it is no valid text of it, or the encoding is not known.
pub(super) fn decode(raw: &[u8], encoding: Option<&[u8]>) -> Option<String> {
    let encoding = match encoding {
        None => encoding_rs::UTF_8,
        Some(label) => Encoding::for_label(label)?,
    };
    let text = encoding.decode_without_bom_handling_and_without_replacement(raw)?;
    Some(text.into_owned())
}

/// The names a file may be known under, the likeliest first: as UTF-8 with `/` between folders,
/// as Windows is not what most readers run on; as UTF-8; as the bytes themselves.
pub(super) fn candidates(raw: &[u8], encoding: Option<&[u8]>) -> Vec<Vec<u8>> {
    let mut names = Vec::new();
    if let Some(text) = decode(raw, encoding) {
        names.push(text.replace('\\', "/").into_bytes());
        names.push(text.into_bytes());
    }
    names.push(raw.to_owned());
    names.dedup();
    names
}

/// A UUID from its text, in the byte order of that text.
pub(super) fn parse_uuid(text: &[u8]) -> Option<[u8; 16]> {
    let groups: Vec<&[u8]> = text.split(|&byte| byte == b'-').collect();
    let lengths = groups.iter().map(|group| group.len());
    if !lengths.eq([8, 4, 4, 4, 12]) {
        return None;
    }
    let digits: Vec<u8> = groups.concat();
    let mut uuid = [0; 16];
    for (byte, pair) in uuid.iter_mut().zip(digits.as_chunks::<2>().0) {
        if !pair.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(uuid)
}

/// The text of a UUID: lower-case hexadecimal in groups of 8-4-4-4-12.
pub(super) fn uuid_text(uuid: &[u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (index, byte) in uuid.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_decoded_where_they_can_be_and_kept_where_not() {
        let names =
            |raw: &[u8], encoding: Option<&str>| candidates(raw, encoding.map(str::as_bytes));
        assert_eq!(names(b"a.vmdk", None), [b"a.vmdk"]);
        assert_eq!(
            names(b"a\xe9", Some("windows-1252")),
            [b"a\xc3\xa9".to_vec(), b"a\xe9".to_vec()]
        );
        assert_eq!(names(b"a\xe9", None), [b"a\xe9"]);
        assert_eq!(names(b"a\xe9", Some("no-such")), [b"a\xe9"]);
        // the second byte of this character is that of a backslash
        let shift_jis = b"C:\\\x83\x5c.vmdk";
        assert_eq!(
            names(shift_jis, Some("Shift_JIS")),
            ["C:/ソ.vmdk".into(), "C:\\ソ.vmdk".into(), shift_jis.to_vec()]
        );
        assert_eq!(names(shift_jis, Some("Shift-JIS")).len(), 3);
    }

    #[test]
    fn a_uuid_is_read_in_the_order_of_its_text() {
        let text = "01020304-0506-0708-090A-0b0c0d0e0f10";
        let uuid = parse_uuid(text.as_bytes()).unwrap();
        assert_eq!(uuid, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]);
        assert_eq!(uuid_text(&uuid), text.to_lowercase());
        for bad in ["", "01020304", "01020304-0506-0708-090a-0b0c0d0e0f1", &text.replace('1', "+")]
        {
            assert_eq!(parse_uuid(bad.as_bytes()), None, "{bad}");
        }
    }
}
