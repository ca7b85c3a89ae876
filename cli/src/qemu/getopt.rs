//! Command lines as getopt_long(3) takes them apart, which is how qemu-img reads its own: clustered
//! short options, values in the same word or the next, long options cut short, options behind
//! operands, and `--`.

use std::ffi::{OsStr, OsString};

/// Whether an option takes a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
    Nothing,
    /// Its name, for the help.
    Value(&'static str),
    /// The same behind a `=` only, or none.
    Maybe(&'static str),
}

/// An option.
#[derive(Debug)]
pub(super) struct Opt {
    /// What it is asked for by, and its first long name.
    pub(super) name: &'static str,
    pub(super) short: Option<char>,
    /// Other long names.
    pub(super) aliases: &'static [&'static str],
    pub(super) takes: Takes,
    /// Whether it is one of our own, which have to be spelled in full.
    pub(super) own: bool,
}

impl Opt {
    fn longs(&self) -> impl Iterator<Item = &'static str> {
        std::iter::once(self.name).chain(self.aliases.iter().copied())
    }
}

/// An option without a value.
pub(super) const fn flag(short: char, name: &'static str) -> Opt {
    opt(short, name, Takes::Nothing)
}

/// An option with a value.
pub(super) const fn value(short: char, name: &'static str, what: &'static str) -> Opt {
    opt(short, name, Takes::Value(what))
}

/// An option that has no short name.
pub(super) const fn long(name: &'static str, takes: Takes) -> Opt {
    Opt { name, short: None, aliases: &[], takes, own: false }
}

/// One of our own.
pub(super) const fn own(name: &'static str, takes: Takes) -> Opt {
    Opt { name, short: None, aliases: &[], takes, own: true }
}

const fn opt(short: char, name: &'static str, takes: Takes) -> Opt {
    Opt { name, short: Some(short), aliases: &[], takes, own: false }
}

impl Opt {
    pub(super) const fn or(mut self, aliases: &'static [&'static str]) -> Self {
        self.aliases = aliases;
        self
    }
}

/// What was given.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Given {
    pub(super) options: Vec<(&'static str, OsString)>,
    pub(super) operands: Vec<OsString>,
}

impl Given {
    pub(super) fn has(&self, name: &str) -> bool {
        self.options.iter().any(|(given, _)| *given == name)
    }

    /// The value that was given last, which counts.
    pub(super) fn last(&self, name: &str) -> Option<&OsStr> {
        self.all(name).last()
    }

    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &OsStr> {
        let values = self.options.iter().filter(move |(given, _)| *given == name);
        values.map(|(_, value)| value.as_os_str())
    }

    /// The same as text, for what is none of a file's names.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.last(name).map(|value| value.to_string_lossy().into_owned())
    }
}

/// Takes the arguments apart. With `first` they end before the first operand. An argument that
/// `is_operand` names is one even where it looks like an option. An error is a sentence.
pub(super) fn parse(
    options: &[&[Opt]],
    args: &[OsString],
    first: bool,
    is_operand: impl Fn(&[u8]) -> bool,
) -> Result<Given, String> {
    let options: Vec<&Opt> = options.iter().copied().flatten().collect();
    let mut given = Given::default();
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        let bytes = arg.as_encoded_bytes();
        if bytes == b"--" {
            given.operands.extend(rest.cloned());
            break;
        }
        if bytes.len() < 2 || !bytes.starts_with(b"-") || is_operand(bytes) {
            given.operands.push(arg.clone());
            if first {
                given.operands.extend(rest.cloned());
                break;
            }
            continue;
        }
        let mut next = || rest.next().cloned();
        match bytes.strip_prefix(b"--") {
            Some(long) => given.options.push(parse_long(&options, long, &mut next)?),
            None => parse_short(&options, &bytes[1..], &mut next, &mut given)?,
        }
    }
    Ok(given)
}

fn parse_long(
    options: &[&Opt],
    word: &[u8],
    next: &mut dyn FnMut() -> Option<OsString>,
) -> Result<(&'static str, OsString), String> {
    let equals = word.iter().position(|&byte| byte == b'=');
    let (name, value) = match equals {
        Some(at) => (&word[..at], Some(os(&word[at + 1..]))),
        None => (word, None),
    };
    let shown = diskimage::text::printable(name);
    let whole = options.iter().find(|opt| opt.longs().any(|long| long.as_bytes() == name));
    let found = match whole {
        Some(found) => found,
        None => {
            let theirs = options.iter().filter(|opt| !opt.own);
            let fits: Vec<_> = theirs
                .flat_map(|opt| opt.longs().map(move |long| (opt, long)))
                .filter(|(_, long)| long.as_bytes().starts_with(name))
                .collect();
            match &*fits {
                [] => return Err(format!("unrecognized option '--{shown}'")),
                &[(first, _), ref rest @ ..]
                    if rest.iter().all(|(opt, _)| opt.name == first.name) =>
                {
                    first
                }
                _ => {
                    let names: Vec<_> =
                        fits.iter().map(|(_, long)| format!("'--{long}'")).collect();
                    return Err(format!(
                        "option '--{shown}' is ambiguous; possibilities: {}",
                        names.join(" ")
                    ));
                }
            }
        }
    };
    match (found.takes, value) {
        (Takes::Nothing, Some(_)) => Err(format!("option '--{shown}' doesn't allow an argument")),
        (Takes::Nothing | Takes::Maybe(_), None) => Ok((found.name, OsString::new())),
        (Takes::Maybe(_) | Takes::Value(_), Some(value)) => Ok((found.name, value)),
        (Takes::Value(_), None) => match next() {
            Some(value) => Ok((found.name, value)),
            None => Err(format!("option '--{shown}' requires an argument")),
        },
    }
}

fn parse_short(
    options: &[&Opt],
    word: &[u8],
    next: &mut dyn FnMut() -> Option<OsString>,
    given: &mut Given,
) -> Result<(), String> {
    for (at, &byte) in word.iter().enumerate() {
        let shown = diskimage::text::printable(&[byte]);
        let found = options.iter().find(|opt| opt.short == Some(char::from(byte)));
        let Some(found) = found.filter(|_| byte.is_ascii()) else {
            return Err(format!("invalid option -- '{shown}'"));
        };
        if !matches!(found.takes, Takes::Value(_)) {
            given.options.push((found.name, OsString::new()));
            continue;
        }
        let rest = &word[at + 1..];
        let value = if rest.is_empty() { next() } else { Some(os(rest)) };
        let missing = || format!("option requires an argument -- '{shown}'");
        given.options.push((found.name, value.ok_or_else(missing)?));
        break;
    }
    Ok(())
}

/// A part of an argument, cut where ASCII stood.
#[cfg(unix)]
pub(super) fn os(bytes: &[u8]) -> OsString {
    std::os::unix::ffi::OsStringExt::from_vec(bytes.to_vec())
}

#[cfg(not(unix))]
pub(super) fn os(bytes: &[u8]) -> OsString {
    String::from_utf8_lossy(bytes).into_owned().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: &[Opt] = &[
        flag('q', "quiet"),
        flag('p', "progress"),
        value('f', "source-format", "FMT").or(&["format"]),
        value('O', "target-format", "FMT"),
        long("target-is-zero", Takes::Nothing),
        long("salvage", Takes::Nothing),
        own("allow-external", Takes::Maybe("DIR")),
    ];

    fn given(line: &str) -> Result<(String, String), String> {
        let args: Vec<OsString> = line.split_whitespace().map(Into::into).collect();
        let given = parse(&[OPTIONS], &args, false, |_| false)?;
        let options = given.options.iter();
        let options: Vec<_> = options.map(|(name, value)| format!("{name}={value:?}")).collect();
        let operands: Vec<_> = given.operands.iter().map(|o| o.to_string_lossy()).collect();
        Ok((options.join(" ").replace('"', ""), operands.join(" ")))
    }

    #[track_caller]
    fn is(line: &str, options: &str, operands: &str) {
        assert_eq!(given(line), Ok((options.to_owned(), operands.to_owned())), "{line}");
    }

    #[test]
    fn short_options_are_taken_together_and_with_their_values() {
        is("-pq a -fraw b", "progress= quiet= source-format=raw", "a b");
        is("-pOqcow2 a", "progress= target-format=qcow2", "a");
        is("-f raw -O raw", "source-format=raw target-format=raw", "");
        is("a -- -p b", "", "a -p b");
        is("- -", "", "- -");
    }

    #[test]
    fn long_options_may_be_cut_short() {
        is("--sal --form=raw --source-f x", "salvage= source-format=raw source-format=x", "");
        is("--allow-external a", "allow-external=", "a");
        is("--allow-external=b a", "allow-external=b", "a");
    }

    #[test]
    fn errors_are_those_of_getopt() {
        for (line, error) in [
            ("-x", "invalid option -- 'x'"),
            ("-pf", "option requires an argument -- 'f'"),
            ("--nope", "unrecognized option '--nope'"),
            ("--allow", "unrecognized option '--allow'"),
            ("--source-format", "option '--source-format' requires an argument"),
            ("--quiet=1", "option '--quiet' doesn't allow an argument"),
            (
                "--target",
                "option '--target' is ambiguous; possibilities: '--target-format' '--target-is-zero'",
            ),
        ] {
            assert_eq!(given(line), Err(error.to_owned()));
        }
    }
}
