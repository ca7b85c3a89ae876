//! What `info` and `map` say of every image of `testdata/` is what they said before: see
//! `testdata/golden/`. With `BLESS=1` the files there are written anew; read the difference.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod common;

use std::path::Path;

use common::*;
use serde_json::{Value, json};

/// Maps longer than this are kept as their beginning, their length and a hash of the rest.
const LONGEST: usize = 60;

fn told(folder: &Path, command: &str, fixture: &Fixture) -> Value {
    let args = [command, "--output=json", "-f", &fixture.format];
    let external = ["--allow-external=.", "--assume-raw", &fixture.file];
    let ran = ran(command_in(folder).args(args).args(external));
    let mut answer = json!({ "exit": ran.code });
    if !ran.stderr.is_empty() {
        // a name with `..` in it is shown as a clean absolute path
        let here = folder.canonicalize().unwrap();
        answer["stderr"] = ran.stderr.trim_end().replace(here.to_str().unwrap(), "FOLDER").into();
    }
    if let Ok(value) = serde_json::from_slice::<Value>(&ran.stdout) {
        answer["stdout"] = value;
    }
    answer
}

/// The command, run in a folder: so that names in answers are relative.
fn command_in(folder: &Path) -> std::process::Command {
    let mut command = std::process::Command::new(DISKIMAGE);
    command.current_dir(folder);
    command
}

fn golden(folder: &Path, fixture: &Fixture) -> Value {
    let mut info = told(folder, "info", fixture);
    if let Some(stdout) = info["stdout"].as_object_mut() {
        // how much room a file takes up is its file system's affair
        stdout.remove("actual-size");
        stdout.remove("children");
    }
    let mut map = told(folder, "map", fixture);
    if let Some(entries) = map["stdout"].as_array_mut().filter(|e| e.len() > LONGEST) {
        let all = Value::Array(entries.clone()).to_string();
        let (count, hash) = (entries.len(), sha256(all.as_bytes()));
        entries.truncate(LONGEST);
        entries.push(json!({ "entries-in-all": count, "sha256-of-all": hash }));
    }
    json!({ "info": info, "map": map })
}

/// One line for each entry of a list, so that differences can be read.
fn pretty(value: &Value) -> String {
    let mut out = String::from("{\n");
    for (index, command) in ["info", "map"].into_iter().enumerate() {
        let mut parts: Vec<String> = Vec::new();
        for (key, value) in value[command].as_object().unwrap() {
            let text = match value {
                Value::Array(list) if !list.is_empty() => {
                    let lines: Vec<String> =
                        list.iter().map(|entry| format!("   {entry}")).collect();
                    format!("[\n{}\n  ]", lines.join(",\n"))
                }
                Value::Object(map) => {
                    let lines: Vec<String> = map
                        .iter()
                        .map(|(key, value)| format!("   {}: {value}", json!(key)))
                        .collect();
                    format!("{{\n{}\n  }}", lines.join(",\n"))
                }
                other => other.to_string(),
            };
            parts.push(format!("  {}: {text}", json!(key)));
        }
        let comma = if index == 0 { "," } else { "" };
        out += &format!(" {}: {{\n{}\n }}{comma}\n", json!(command), parts.join(",\n"));
    }
    out + "}\n"
}

#[test]
fn info_and_map_say_what_they_said_before() {
    let bless = std::env::var_os("BLESS").is_some_and(|value| value == "1");
    // without holes, since not every file system has them and maps show them
    let folder = tempfile::tempdir().unwrap();
    for fixture in fixtures() {
        let copy = folder.path().join(&fixture.file);
        std::fs::create_dir_all(copy.parent().unwrap()).unwrap();
        std::fs::write(copy, fixture.bytes()).unwrap();
    }
    let mut differing = Vec::new();
    for fixture in fixtures().iter().filter(|f| !f.is("extent")) {
        let text = pretty(&golden(folder.path(), fixture));
        let stored = root().join("testdata/golden").join(ascii(&fixture.file) + ".json");
        if bless {
            std::fs::create_dir_all(stored.parent().unwrap()).unwrap();
            std::fs::write(&stored, text).unwrap();
        } else if std::fs::read_to_string(&stored).ok().as_ref() != Some(&text) {
            differing.push((fixture.file.clone(), text));
        }
    }
    let names: Vec<_> = differing.iter().map(|(name, _)| name.as_str()).collect();
    let first = differing.first().map(|(_, text)| text.as_str()).unwrap_or_default();
    assert!(
        differing.is_empty(),
        "{names:?} differ from testdata/golden (BLESS=1 writes it anew); the first says now:\n{first}"
    );
}

fn ascii(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii() { c } else { '_' }).collect()
}
