//! The documents that are made from the code say what the code says. `BLESS=1` writes them anew.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::fmt::Write;
use std::path::Path;

use diskimage::Code;

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
