//! What somebody may have meant who mistyped a name, and the names for shells to complete.

use std::ffi::OsStr;

use clap::builder::{PossibleValue, StringValueParser, TypedValueParser};
use diskimage::checksum::Algorithm;
use diskimage::{Format, Platform};

use crate::image::WRITTEN;
use crate::package::name_of;

/// Names less alike than this are others; clap takes the same number.
const ALIKE: f64 = 0.7;

/// The name that is most like `name`, if one is.
pub(crate) fn nearest<'a>(name: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_ascii_lowercase();
    let names: Vec<_> = names.into_iter().collect();
    // who says more than there is, as vhdfixed
    let begins = names.iter().filter(|other| other.len() > 2 && name.starts_with(**other));
    if let Some(begin) = begins.max_by_key(|other| other.len()) {
        return Some(begin);
    }
    let likeness = |other: &str| strsim::jaro_winkler(&name, other);
    let all = names.into_iter().map(|other| (other, likeness(other)));
    let best = all.max_by(|a, b| a.1.total_cmp(&b.1))?;
    (best.1 > ALIKE).then_some(best.0)
}

/// `: did you mean 'x'?`, where there is something.
pub(crate) fn did_you_mean<'a>(name: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    nearest(name, names).map(|near| format!(": did you mean '{near}'?")).unwrap_or_default()
}

/// The same behind an advice that lists all names.
pub(crate) fn with_guess<'a>(
    name: &str,
    names: impl IntoIterator<Item = &'a str>,
    advice: &str,
) -> String {
    match nearest(name, names) {
        Some(near) => format!("{advice}; did you mean '{near}'?"),
        None => advice.to_owned(),
    }
}

/// The names of formats that images are read from.
pub(crate) fn formats() -> Vec<&'static str> {
    let described = Format::ALL.iter().filter(|format| format.is_described());
    described.map(|format| format.name()).chain(["vhd"]).collect()
}

/// The names of formats that are written.
pub(crate) fn targets() -> Vec<&'static str> {
    WRITTEN.iter().copied().map(name_of).chain(["vhd"]).collect()
}

/// The names of checksums.
pub(crate) fn algorithms() -> Vec<&'static str> {
    Algorithm::ALL.iter().map(|algorithm| algorithm.name()).collect()
}

/// The names of platforms.
pub(crate) fn platforms() -> Vec<&'static str> {
    Platform::ALL.iter().map(|platform| platform.name()).collect()
}

/// Reads an argument by `parse`; `names` are what shells complete, and not all that is taken.
pub(crate) fn named<T: Clone + Send + Sync + 'static>(
    parse: fn(&str) -> Result<T, String>,
    names: fn() -> Vec<&'static str>,
) -> Named<T> {
    Named { parse, names }
}

#[derive(Debug, Clone)]
pub(crate) struct Named<T> {
    parse: fn(&str) -> Result<T, String>,
    names: fn() -> Vec<&'static str>,
}

impl<T: Clone + Send + Sync + 'static> TypedValueParser for Named<T> {
    type Value = T;

    fn parse_ref(
        &self,
        command: &clap::Command,
        argument: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<T, clap::Error> {
        let parse = self.parse;
        let parser = StringValueParser::new().try_map(move |text| parse(&text));
        parser.parse_ref(command, argument, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new((self.names)().into_iter().map(PossibleValue::new)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_format_is_recognised() {
        for (typed, meant) in [
            ("qcwo2", Some("qcow2")),
            ("QCOW", Some("qcow")),
            ("vhdfixed", Some("vhd")),
            ("vdmk", Some("vmdk")),
            ("vhx", Some("vhdx")),
            ("qcow2-compressed", Some("qcow2")),
            ("wra", None),
            ("zzz", None),
            ("", None),
        ] {
            assert_eq!(nearest(typed, formats()), meant, "{typed}");
        }
        assert_eq!(nearest("qcow", targets()), Some("qcow2"));
        assert_eq!(nearest("sha-256", algorithms()), Some("sha256"));
        assert_eq!(nearest("azur", platforms()), Some("azure"));
    }

    #[test]
    fn every_name_is_taken() {
        for name in formats() {
            assert!(crate::args::parse_format(name).is_ok(), "{name}");
        }
        for name in targets() {
            assert!(crate::package::parse_target(name).is_ok(), "{name}");
        }
    }
}
