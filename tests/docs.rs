//! The documents that are made from the code say what the code says. `BLESS=1` writes them anew.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::fmt::Write;
use std::path::Path;

use diskimage::{Code, Format};

#[test]
fn every_finding_is_listed() {
    let mut text = String::from(
        "# Findings\n\nWhat `info`, `probe` and `check` say about an image, by code. The codes are \
         stable. This page is made from\n`src/finding.rs` (`BLESS=1 cargo test --test docs`).\n\n\
         | code | severity | meaning |\n|---|---|---|\n",
    );
    for code in Code::ALL {
        let meaning = code.meaning();
        writeln!(text, "| `{code}` | {} | {meaning} |", code.severity()).unwrap();
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/findings.md");
    if std::env::var_os("BLESS").is_some_and(|v| v == "1") {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &text).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(written, text, "docs/findings.md is behind the code: BLESS=1 writes it anew");
}

#[test]
fn every_format_that_is_opened_is_in_the_table_of_formats() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/formats.md");
    let text = std::fs::read_to_string(path).unwrap();
    // the first table: format, names, read, …
    let rows = text.lines().skip_while(|line| !line.starts_with('|')).skip(2);
    let rows = rows.take_while(|line| line.starts_with('|'));
    let mut listed = Vec::new();
    for row in rows {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        // every other piece between two backquotes is a name; the first one is the format's
        let name = cells[2].split('`').nth(1).unwrap();
        let format: Format = name.parse().unwrap();
        assert_eq!(cells[3] == "yes", format.is_read(), "{row}");
        listed.push(format);
    }
    for format in Format::ALL.iter().filter(|format| format.is_described()) {
        assert!(listed.contains(format), "docs/formats.md does not list {format}");
    }
}
