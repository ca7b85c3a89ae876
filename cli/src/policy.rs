//! Policies from files.

use std::collections::BTreeMap;
use std::path::Path;

use diskimage::finding::Code;
use diskimage::inspect::Policy;
use diskimage::{Error, ErrorKind, Format, Result};
use serde::Deserialize;

use crate::size::parse_size;

/// Policies are written by hand: one that is longer is none.
const LONGEST: u64 = 1 << 20;

/// A policy as it is written in TOML. What is left out is as in the policy `base` names.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Written {
    base: Option<String>,
    formats: Option<Vec<String>>,
    subformats: Option<BTreeMap<String, Vec<String>>>,
    max_virtual_size: Option<Size>,
    max_file_size: Option<Size>,
    forbidden: Option<Vec<String>>,
    allowed: Option<Vec<String>>,
    sane_partition_table: Option<bool>,
    allow_unseen: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Size {
    Bytes(u64),
    Text(String),
}

/// The file that holds the policy, if it is none that has a name.
pub(crate) fn file_of(name: &str) -> Option<&Path> {
    (!Policy::NAMES.contains(&name)).then(|| Path::new(name))
}

/// The policy of a name, or of a file.
pub(crate) fn read(name: &str) -> Result<Policy> {
    if let Some(policy) = Policy::by_name(name) {
        return Ok(policy);
    }
    let path = Path::new(name);
    let read = || {
        let length = std::fs::metadata(path)?.len();
        if length > LONGEST {
            return Err(std::io::Error::other("it is too long for a policy"));
        }
        std::fs::read_to_string(path)
    };
    let text = read().map_err(|error| {
        let names = Policy::NAMES.join(", ");
        Error::io("read the policy", error)
            .in_file(path)
            .advise(format!("name one of {names}, or a TOML file"))
    })?;
    parse(&text, name).map_err(|message| {
        Error::other(ErrorKind::InvalidInput, format!("is no policy: {message}")).in_file(path)
    })
}

fn parse(text: &str, name: &str) -> std::result::Result<Policy, String> {
    // the text of an error may show a line of the file
    let printable =
        |error: &dyn std::fmt::Display| diskimage::text::printable_str(&error.to_string());
    let written: Written = toml::from_str(text).map_err(|error| printable(&error))?;
    let base = written.base.as_deref().unwrap_or("strict");
    let mut policy = Policy::by_name(base).ok_or_else(|| {
        format!("there is no policy '{}' to start from", diskimage::text::printable_str(base))
    })?;
    policy.name = name.to_owned().into();
    let format = |name: &String| name.parse::<Format>().map_err(|error| error.to_string());
    if let Some(formats) = written.formats {
        policy.formats = Some(formats.iter().map(format).collect::<Result<_, _>>()?);
    }
    if let Some(subformats) = written.subformats {
        policy.subformats = Vec::new();
        for (of, names) in subformats {
            policy.subformats.push((format(&of)?, names.into_iter().map(Into::into).collect()));
        }
    }
    let size = |size: Size| match size {
        Size::Bytes(bytes) => Ok(bytes),
        Size::Text(text) => parse_size(&text),
    };
    if let Some(limit) = written.max_virtual_size {
        policy.max_virtual_size = Some(size(limit)?);
    }
    if let Some(limit) = written.max_file_size {
        policy.max_file_size = Some(size(limit)?);
    }
    if let Some(codes) = written.forbidden {
        policy.forbidden = codes.iter().map(|name| code(name)).collect::<Result<_, _>>()?;
    }
    if let Some(codes) = written.allowed {
        let codes: Vec<_> = codes.iter().map(|name| code(name)).collect::<Result<_, _>>()?;
        policy.forbidden.retain(|code| !codes.contains(code));
    }
    policy.sane_partition_table =
        written.sane_partition_table.unwrap_or(policy.sane_partition_table);
    policy.allow_unseen = written.allow_unseen.unwrap_or(policy.allow_unseen);
    Ok(policy)
}

fn code(name: &str) -> std::result::Result<Code, String> {
    let found = Code::ALL.iter().find(|code| code.as_str() == name);
    found.copied().ok_or_else(|| {
        format!(
            "there is no finding '{}'; docs/findings.md lists them",
            diskimage::text::printable_str(name)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_what_is_written_over_its_base() {
        let text = "base = 'openstack'\nformats = ['qcow2', 'vhd']\nmax-virtual-size = '2T'\n\
                    max-file-size = 1000\nallowed = ['backing-file', 'external-reference']\n\
                    allow-unseen = false\n[subformats]\nqcow2 = ['1.1']\n";
        let policy = parse(text, "site").unwrap();
        assert_eq!(policy.formats, Some(vec![Format::Qcow2, Format::Vhd]));
        assert_eq!(policy.max_virtual_size, Some(2 << 40));
        assert_eq!(policy.max_file_size, Some(1000));
        assert!(!policy.forbidden.contains(&Code::BackingFile));
        assert!(policy.forbidden.contains(&Code::DataFile));
        assert!(policy.sane_partition_table && !policy.allow_unseen);
        assert_eq!(policy.subformats, [(Format::Qcow2, vec!["1.1".into()])]);
        assert_eq!(policy.name, "site");
    }

    #[test]
    fn what_makes_no_sense_is_told() {
        for (text, word) in [
            ("base = 'lax'", "'lax'"),
            ("formats = ['nbd']", "'nbd'"),
            ("forbidden = ['sin']", "'sin'"),
            ("max-file-size = 'big'", "'big'"),
            ("maximum = 1", "maximum"),
            ("formats = 3", "formats"),
            ("=", "1"),
        ] {
            let message = parse(text, "p").unwrap_err();
            assert!(message.contains(word), "{text}: {message}");
        }
    }
}
