//! Names that come from a file, made safe to print.

use std::fmt::Write;

/// `bytes` as text that no terminal obeys: valid UTF-8 stays, control characters, direction
/// overrides and bytes that are no UTF-8 become escapes such as `\x1b` and `\u{202e}`.
///
/// ```
/// use diskimage::text::printable;
///
/// assert_eq!(printable(b"a name"), "a name");
/// assert!(!printable(b"\x1b[31mred").contains('\x1b'));
/// ```
#[must_use]
pub fn printable(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            push_printable(&mut out, c);
        }
        for byte in chunk.invalid() {
            // writing to a String cannot fail
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    out
}

/// The same for text.
///
/// ```
/// use diskimage::text::printable_str;
///
/// // a name that would show itself as `invoice-exe.img`, and set the title of a window
/// assert_eq!(printable_str("invoice-\u{202e}gmi.exe"), r"invoice-\u{202e}gmi.exe");
/// assert_eq!(printable_str("\u{1b}]0;title\u{7}"), r"\x1b]0;title\x07");
/// ```
#[must_use]
pub fn printable_str(text: &str) -> String {
    printable(text.as_bytes())
}

fn push_printable(out: &mut String, c: char) {
    if c.is_control() && c.is_ascii() {
        let _ = write!(out, "\\x{:02x}", u32::from(c));
    } else if c.is_control() || is_invisible(c) {
        let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
    } else {
        out.push(c);
    }
}

/// Characters that reorder or hide text: bidirectional controls, line separators, those without any
/// width, and the tags that repeat ASCII unseen (Unicode, `Bidi_Control`, `Default_Ignorable`).
///
/// ```
/// use diskimage::text::is_invisible;
///
/// let name = "base\u{200b}.qcow2"; // with a space of no width
/// assert!(name.chars().any(is_invisible));
/// assert!(!"основа.qcow2".chars().any(is_invisible));
/// ```
#[must_use]
pub fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{feff}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e0fff}'
    )
}

/// Text as it stands in XML 1.0, in attributes between double quotes too. What XML has no way to say
/// (section 2.2: most control characters) becomes U+FFFD.
///
/// ```
/// use diskimage::text::xml;
///
/// let name = "R&D \"new\"";
/// let element = format!("<Item name=\"{}\"/>", xml(name));
/// assert_eq!(element, "<Item name=\"R&amp;D &quot;new&quot;\"/>");
/// assert_eq!(xml("\u{1b}"), "\u{fffd}"); // which no XML can hold
/// ```
#[must_use]
pub fn xml(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\t' | '\n' | '\r' => out.push(c),
            '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// A UUID, its bytes in the order of the text, as `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx`.
///
/// ```
/// use diskimage::text::uuid;
///
/// assert_eq!(uuid(&[0xab; 16]), "abababab-abab-abab-abab-abababababab");
/// ```
#[must_use]
pub fn uuid(bytes: &[u8; 16]) -> String {
    let mut out = String::with_capacity(36);
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            out.push('-');
        }
        let _ = write!(out, "{byte:02x}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_a_terminal_obeys_passes() {
        assert_eq!(printable(b"plain \xc3\xa9"), "plain é");
        assert_eq!(printable(b"\x1b[31m\n\xff"), "\\x1b[31m\\x0a\\xff");
        assert_eq!(printable_str("\u{9b}x\u{202e}y"), "\\u{9b}x\\u{202e}y");
        assert_eq!(printable_str("\u{2028}\u{61c}\u{e0041}"), "\\u{2028}\\u{61c}\\u{e0041}");
    }

    #[test]
    fn any_text_stands_in_xml() {
        let text = "<a b=\"c\">&'\u{1b}\u{9b}\u{ffff}\n";
        let escaped = xml(text);
        let document = format!("<x y=\"{escaped}\">{escaped}</x>");
        let document = roxmltree::Document::parse(&document).unwrap();
        let told = "<a b=\"c\">&'\u{fffd}\u{fffd}\u{fffd}";
        assert_eq!(document.root_element().text(), Some(&*format!("{told}\n")));
        assert_eq!(document.root_element().attribute("y"), Some(&*format!("{told} ")));
    }

    #[test]
    fn a_uuid_has_its_dashes() {
        let bytes = [0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde, 0xf0, 1, 2, 3, 4, 5, 6, 7, 8];
        assert_eq!(uuid(&bytes), "12345678-9abc-def0-0102-030405060708");
    }
}
