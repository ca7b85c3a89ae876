//! Images as callers of qemu-img name them: by a file's name, by `--image-opts`, or by `json:{…}`.
//!
//! Such descriptions are taken from the caller only, never out of an image, and only as far as they
//! name one file and its format.

use std::ffi::OsStr;
use std::fs::Metadata;
use std::path::{Path, PathBuf};

use diskimage::container::Container;
use diskimage::format::Class;
use diskimage::{Format, OpenOptions};
use serde_json::Value;

use super::Failure;
use super::getopt::{Given, os};
use crate::args::{Joined, OpenArgs};
use crate::image::split;
use crate::report;

/// A folder from which files may be opened that an image names.
const ALLOW: &str = "DISKIMAGE_ALLOW_EXTERNAL";
/// Whether files without a signature are raw disks.
const RAW: &str = "DISKIMAGE_ASSUME_RAW";

/// An image: its file, and what it is said to be.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) path: PathBuf,
    pub(super) format: Option<Format>,
    /// Its name as the caller wrote it, where it has to be looked at what it is.
    unknown: Option<String>,
}

impl Image {
    /// The name and the path of a file that may be no disk.
    pub(super) fn unknown(&self) -> Option<(String, PathBuf)> {
        self.unknown.clone().map(|shown| (shown, self.path.clone()))
    }
}

/// What the caller names as an image that exists; `format` is the option that names its format.
pub(super) fn existing(
    given: &Given,
    name: &OsStr,
    format: &str,
    image_opts: &str,
) -> Result<Image, Failure> {
    let shown = diskimage::text::printable(name.as_encoded_bytes());
    let format = given.text(format);
    let as_opts = given.has(image_opts);
    if as_opts && format.is_some() {
        return Err(Failure::new("--image-opts and --format are mutually exclusive"));
    }
    let mut image = named(name, as_opts)?;
    if let Some(format) = format {
        image.format = Some(driver(&shown, &format)?);
    }
    let path = &image.path;
    let look = look(&shown, path)?;
    if look.is_dir() && !path.join("DiskDescriptor.xml").is_file() {
        let file = report::printable(path);
        let text = format!("'file' driver requires '{file}' to be a regular file");
        return Err(Failure::open(&shown, text));
    }
    if image.format.is_none() && look.is_file() {
        image.unknown = Some(shown);
    }
    Ok(image)
}

/// What is there; that nothing is, is told in qemu-img's words, which callers look for.
pub(super) fn look(shown: &str, path: &Path) -> Result<Metadata, Failure> {
    std::fs::metadata(path).map_err(|error| Failure::open(shown, unopened(path, &error)))
}

/// That a file cannot be opened, and why.
pub(super) fn unopened(path: &Path, error: &std::io::Error) -> String {
    // without the number that Rust puts behind it
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    format!("Could not open '{}': {text}", report::printable(path))
}

/// qemu-img takes archives and compressed files for raw disks.
pub(super) fn refuse_container(shown: &str, path: &Path) -> Result<(), Failure> {
    match OpenOptions::new().open_container(path) {
        Ok(Some(container)) => Err(Failure::open(
            shown,
            format!(
                "it is no disk but {}: take it for a raw disk with -f raw, or read what is in it \
                 with 'diskimage info' and 'diskimage convert'",
                Container::format(&container).description()
            ),
        )),
        // what is wrong with it shows when it is opened
        Ok(None) | Err(_) => Ok(()),
    }
}

/// A file that is written.
pub(super) fn target(name: &OsStr, as_opts: bool) -> Result<Image, Failure> {
    let mut image = named(name, as_opts)?;
    if image.path.as_os_str() == "-" {
        // a file of that name, as there
        image.path = Path::new(".").join(image.path);
    }
    Ok(image)
}

/// What a name stands for, be it there or not.
fn named(name: &OsStr, as_opts: bool) -> Result<Image, Failure> {
    let bytes = name.as_encoded_bytes();
    let shown = diskimage::text::printable(bytes);
    if as_opts {
        let text = name.to_str();
        let text = text.ok_or_else(|| Failure::open(&shown, "it is no UTF-8 text"))?;
        return described(&shown, &split(text));
    }
    if let Some(json) = bytes.strip_prefix(b"json:") {
        let value: Value = serde_json::from_slice(json).map_err(|error| {
            Failure::open(&shown, format!("Could not parse the JSON options: {error}"))
        })?;
        let mut found = Vec::new();
        flatten("", &value, &mut found);
        return described(&shown, &found);
    }
    Ok(Image { path: file(&shown, name)?, format: None, unknown: None })
}

/// The file of a name that may begin with `file:`; what other protocols name is no file.
fn file(shown: &str, name: &OsStr) -> Result<PathBuf, Failure> {
    let bytes = name.as_encoded_bytes();
    if let Some(rest) = bytes.strip_prefix(b"file:") {
        return Ok(os(rest).into());
    }
    let end = bytes.iter().position(|byte| matches!(byte, b':' | b'/'));
    match end {
        Some(end) if bytes[end] == b':' && !is_drive(&bytes[..end]) => {
            let protocol = diskimage::text::printable(&bytes[..end]);
            Err(Failure::open(
                shown,
                format!(
                    "Unknown protocol '{protocol}': diskimage reads files and block devices (for a \
                     file of that name, put ./ before it)"
                ),
            ))
        }
        _ => Ok(name.into()),
    }
}

/// `C:` of Windows.
fn is_drive(name: &[u8]) -> bool {
    cfg!(windows) && name.len() == 1 && name[0].is_ascii_alphabetic()
}

/// Key and value pairs as in `--image-opts`: `{"file": {"filename": …}}` is `file.filename`.
fn flatten(prefix: &str, value: &Value, found: &mut Vec<(String, String)>) {
    let Some(object) = value.as_object() else {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        found.push((prefix.to_owned(), text));
        return;
    };
    for (key, value) in object {
        let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        flatten(&key, value, found);
    }
}

/// The image that is described, if nothing but a file and a format is.
fn described(shown: &str, pairs: &[(String, String)]) -> Result<Image, Failure> {
    let (mut format, mut path, mut is_plain) = (None, None, false);
    for (key, value) in pairs {
        let is_file = || matches!(&**value, "file" | "host_device");
        match &**key {
            "driver" if is_file() => is_plain = true,
            "driver" => format = Some(driver(shown, value)?),
            "file.driver" if is_file() => {}
            "file.filename" | "filename" => path = Some(PathBuf::from(value)),
            // how a file is opened makes no difference to one that is read only
            "read-only"
            | "file.read-only"
            | "file.locking"
            | "locking"
            | "force-share"
            | "file.force-share"
            | "auto-read-only"
            | "file.auto-read-only"
            | "cache.direct"
            | "cache.no-flush"
            | "file.cache.direct"
            | "file.cache.no-flush"
            | "discard"
            | "file.discard"
            | "detect-zeroes"
            | "file.aio"
            | "aio"
            | "node-name"
            | "file.node-name" => {}
            key if key.contains("encrypt") || key.ends_with("key-secret") => {
                return Err(Failure::open(
                    shown,
                    format!("diskimage does not read encrypted images, as '{key}' asks for"),
                ));
            }
            key => {
                let key = diskimage::text::printable_str(key);
                return Err(Failure::open(
                    shown,
                    format!(
                        "the option '{key}' is not supported: diskimage takes driver, file.driver \
                         (file, host_device) and file.filename"
                    ),
                ));
            }
        }
    }
    let missing = || Failure::open(shown, "A file must be named: file.filename=NAME");
    let path = path.ok_or_else(missing)?;
    let format = format.or(is_plain.then_some(Format::Raw));
    Ok(Image { path, format, unknown: None })
}

/// A format by the name of its driver.
fn driver(shown: &str, name: &str) -> Result<Format, Failure> {
    let known = name.parse().ok();
    let known = known.filter(|format: &Format| format.class() == Class::Image);
    let unknown = || Failure::open(shown, format!("Unknown driver '{name}'"));
    known.ok_or_else(unknown)
}

/// How to open images, of which the first has this format.
pub(super) fn open_args(given: &Given, format: Option<Format>) -> Result<OpenArgs, Failure> {
    let folder = |value: &OsStr| (!value.is_empty()).then(|| PathBuf::from(value));
    let variable = std::env::var_os(ALLOW).filter(|value| !value.is_empty());
    let allow_external = match (given.last("allow-external"), variable) {
        (Some(value), _) => Some(folder(value)),
        (None, Some(value)) => Some(Some(value.into())),
        (None, None) => None,
    };
    let mut resolve = Vec::new();
    for pair in given.all("resolve") {
        let pair = crate::args::parse_pair(&pair.to_string_lossy());
        resolve.push(pair.map_err(Failure::new)?);
    }
    let join = match given.text("join").as_deref() {
        None => None,
        Some("" | "yes") => Some(Joined::Yes),
        Some("no") => Some(Joined::No),
        Some(other) => return Err(Failure::new(format!("--join is yes or no, not '{other}'"))),
    };
    let says_raw = std::env::var_os(RAW).is_some_and(|value| value == "1");
    Ok(OpenArgs {
        format,
        allow_external,
        resolve,
        assume_raw: given.has("assume-raw") || says_raw,
        join,
        trust_broken: given.has("trust-broken"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(name: &str, as_opts: bool) -> Result<(String, Option<Format>), String> {
        let image = named(OsStr::new(name), as_opts).map_err(|failure| failure.text)?;
        Ok((image.path.display().to_string(), image.format))
    }

    #[test]
    fn one_file_and_its_format_are_taken() {
        let raw = || Ok(("a,b".to_owned(), Some(Format::Raw)));
        assert_eq!(found("driver=raw,file.filename=a,,b", true), raw());
        assert_eq!(found("driver=file,filename=a,,b", true), raw());
        let json = r#"json:{"driver":"raw","file":{"driver":"file","filename":"a,b"}}"#;
        assert_eq!(found(json, false), raw());
        assert_eq!(found(r#"json:{"file.filename":"x"}"#, false), Ok(("x".to_owned(), None)));
        assert_eq!(found("file:x:y", false), Ok(("x:y".to_owned(), None)));
        assert_eq!(found("/a:b", false), Ok(("/a:b".to_owned(), None)));
    }

    #[test]
    fn everything_else_is_refused_by_name() {
        for (name, as_opts, word) in [
            ("nbd:localhost:1", false, "Unknown protocol 'nbd'"),
            ("https://example.org/x", false, "Unknown protocol 'https'"),
            ("json:{", false, "Could not parse the JSON"),
            ("json:[]", false, "the option '' is not supported"),
            (r#"json:{"driver":"qcow2"}"#, false, "A file must be named"),
            (
                r#"json:{"driver":"qcow2","file.filename":"x","backing":{"file":{"filename":"y"}}}"#,
                false,
                "'backing.file.filename' is not supported",
            ),
            ("driver=raw,offset=512,file.filename=x", true, "'offset' is not supported"),
            ("driver=nbd,host=x", true, "Unknown driver 'nbd'"),
            ("file.driver=nbd,file.host=x", true, "'file.driver' is not supported"),
            ("driver=luks,key-secret=s,file.filename=x", true, "encrypted"),
        ] {
            let told = found(name, as_opts).unwrap_err();
            assert!(told.contains(word), "{told}");
        }
    }
}
