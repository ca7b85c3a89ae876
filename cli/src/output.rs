//! JSON, safe for terminals and valid whatever a file says.

use std::cell::Cell;
use std::io::{self, BufWriter, Write};

use diskimage::checksum::Digest;
use diskimage::layer::Value as Described;
use diskimage::{Finding, text};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::args::Output;
use crate::style;

/// Prints a document and a line end. It is written as it is made, so that one of any length takes no
/// memory.
pub(crate) fn print_json(value: &(impl Serialize + ?Sized)) -> io::Result<()> {
    let mut out = Escaping { out: BufWriter::new(io::stdout().lock()), rest: Vec::new() };
    serde_json::to_writer_pretty(&mut out, value)?;
    out.write_all(b"\n")?;
    out.flush()
}

/// Where documents go: each for itself, or all of them in an array.
#[derive(Debug)]
pub(crate) struct Documents {
    /// How many are in the array so far, if it is one.
    listed: Option<Cell<u64>>,
}

impl Documents {
    /// For answers about so many files: one stands alone. Nothing is printed where the answers are
    /// for people.
    pub(crate) fn of(files: usize, form: Output) -> Self {
        Self { listed: (files > 1 && form == Output::Json).then(Cell::default) }
    }

    pub(crate) fn print(&self, value: &(impl Serialize + ?Sized)) -> io::Result<()> {
        if let Some(count) = &self.listed {
            let separator = if count.replace(count.get() + 1) == 0 { "[" } else { "," };
            writeln!(io::stdout().lock(), "{separator}")?;
        }
        print_json(value)
    }

    /// Ends the array.
    pub(crate) fn end(&self) -> io::Result<()> {
        match &self.listed {
            None => Ok(()),
            Some(count) if count.get() == 0 => writeln!(io::stdout().lock(), "[]"),
            Some(_) => writeln!(io::stdout().lock(), "]"),
        }
    }
}

/// Escapes what passes through it, which is UTF-8 in pieces of any length.
struct Escaping<W> {
    out: W,
    /// The start of a character whose end has not come yet.
    rest: Vec<u8>,
}

impl<W: Write> Write for Escaping<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.rest.is_empty() && bytes.iter().all(|&byte| byte.is_ascii() && byte != 0x7f) {
            self.out.write_all(bytes)?;
            return Ok(bytes.len());
        }
        self.rest.extend(bytes);
        let valid = match str::from_utf8(&self.rest) {
            Ok(text) => text.len(),
            Err(error) => error.valid_up_to(),
        };
        let rest = self.rest.split_off(valid);
        let whole = std::mem::replace(&mut self.rest, rest);
        self.out.write_all(escape(&String::from_utf8_lossy(&whole)).as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Escapes what JSON leaves as it is but a terminal may obey.
pub(crate) fn escape(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        let code = u32::from(c);
        if (0x7f..0xa0).contains(&code) || text::is_invisible(c) {
            // an escape for each half of what lies beyond the first plane
            for unit in c.encode_utf16(&mut [0; 2]) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            out.push(c);
        }
    }
    out
}

/// Bytes of a file as JSON text; what is no UTF-8 becomes the replacement character.
pub(crate) fn text_of(bytes: &[u8]) -> Value {
    Value::String(String::from_utf8_lossy(bytes).into_owned())
}

/// Checksums by algorithm; null if there are none.
pub(crate) fn digests(digests: &[Digest]) -> Value {
    if digests.is_empty() {
        return Value::Null;
    }
    let entries = digests.iter().map(|d| (d.algorithm.name().to_owned(), json!(d.to_string())));
    Value::Object(entries.collect())
}

/// What a layer says of itself, as JSON.
pub(crate) fn described(value: &Described) -> Value {
    match value {
        Described::Bool(yes) => json!(yes),
        Described::Number(number) => json!(number),
        Described::Text(text) => json!(text),
        Described::List(list) => Value::Array(list.iter().map(described).collect()),
        Described::Map(map) => described_map(map),
    }
}

/// The same for keys and values.
pub(crate) fn described_map(map: &[(&'static str, Described)]) -> Value {
    let entries = map.iter().map(|(key, value)| ((*key).to_owned(), described(value)));
    Value::Object(entries.collect::<Map<_, _>>())
}

/// Findings as JSON.
pub(crate) fn findings(findings: &[Finding]) -> Value {
    let one = |finding: &Finding| {
        let mut object = json!({
            "code": finding.code.as_str(),
            "severity": finding.code.severity().as_str(),
            "message": finding.message,
        });
        if let Some(offset) = finding.offset {
            object["offset"] = json!(offset);
        }
        if let Some(structure) = &finding.structure {
            object["structure"] = json!(structure);
        }
        if let Some(fix) = &finding.fix {
            object["fix"] = json!(fix);
        }
        object
    };
    Value::Array(findings.iter().map(one).collect())
}

/// A finding for people, behind `indent` spaces.
pub(crate) fn print_finding(
    finding: &Finding,
    indent: usize,
    out: &mut impl Write,
) -> io::Result<()> {
    let at = finding.offset.map(|at| format!(" (at offset {at:#x})")).unwrap_or_default();
    let (severity, code) = (style::severity(finding.code.severity()), finding.code);
    writeln!(out, "{:indent$}{severity}: {}{at} [{code}]", "", finding.message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_characters_are_put_together() {
        let text = "a\u{9b}é\u{202e}\u{e0041}z";
        for length in 1..=text.len() {
            let mut out = Escaping { out: Vec::new(), rest: Vec::new() };
            for piece in text.as_bytes().chunks(length) {
                out.write_all(piece).unwrap();
            }
            assert_eq!(String::from_utf8(out.out).unwrap(), escape(text), "{length}");
            assert!(out.rest.is_empty());
        }
    }

    #[test]
    fn json_holds_no_character_that_a_terminal_obeys() {
        let text = serde_json::to_string(&json!("a\u{1b}\u{9b}\u{7f}\u{202e}\u{e0041}é")).unwrap();
        let escaped = escape(&text);
        assert_eq!(escaped, "\"a\\u001b\\u009b\\u007f\\u202e\\udb40\\udc41é\"");
        let back: String = serde_json::from_str(&escaped).unwrap();
        assert_eq!(back, "a\u{1b}\u{9b}\u{7f}\u{202e}\u{e0041}é");
    }
}
