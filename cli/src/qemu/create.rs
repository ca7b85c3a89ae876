//! `qemu-img create`.

use std::io::{self, Write};
use std::path::PathBuf;

use diskimage::Format;

use super::convert::settled;
use super::getopt::Given;
use super::{Failure, Session, source, written_format};
use crate::args::{BackingArgs, Command, CreateArgs};
use crate::create::create;
use crate::deferred::Deferred;
use crate::image::split;
use crate::package::AimArgs;
use crate::package::name_of;
use crate::report;
use crate::size::parse_size;
use crate::watch::{Signals, watched};

pub(super) fn run(session: &Session, given: &Given) -> Result<u8, Failure> {
    let format = match given.text("format") {
        None => Format::Raw,
        name => {
            let file = given.operands.first().map(|file| file.to_string_lossy());
            written_format(name).map_err(|failure| Failure {
                text: format!("{}: {}", file.unwrap_or_default(), failure.text),
                ..failure
            })?
        }
    };
    let options = given.all("options").map(|text| text.to_string_lossy().into_owned());
    let backing_format = given.text("backing-format");
    let mut settled = settled(format, options.collect(), backing_format)?;
    if let Some(help) = settled.target.help(format) {
        return Ok(report::printed(io::stdout().lock().write_all(help.as_bytes())));
    }
    let (name, size) = match &*given.operands {
        [] => return Err(Failure::usage("create", "Expecting image file name")),
        [name] => (name, None),
        [name, size] => (name, Some(size)),
        [_, _, more, ..] => {
            let text = format!("Unexpected argument: {}", more.to_string_lossy());
            return Err(Failure::usage("create", text));
        }
    };
    let file = source::target(name, false)?.path;
    let shown = report::printable(&file);
    let size = match size {
        None => settled.size.take(),
        Some(text) => {
            let text = text.to_string_lossy();
            let wrong = |_| Failure::new(format!("Invalid image size specified: '{text}'."));
            Some(parse_size(&text).map_err(wrong)?)
        }
    };
    let backing = given.last("backing").filter(|name| !name.is_empty()).map(PathBuf::from);
    let unopened = given.has("backing-unsafe");
    let has_backing = backing.is_some() || settled.backing.is_some();
    let text = if size.is_none() && (unopened || !has_backing) {
        Some("Image creation needs a size parameter")
    } else if has_backing && settled.target.backing_format.is_none() && !settled.names_format {
        Some("Backing file specified without backing format")
    } else {
        None
    };
    if let Some(text) = text {
        return Err(Failure::new(format!("{shown}: {text}")));
    }
    let open = source::open_args(given, None)?;
    let mut command = Command::Create(Deferred(CreateArgs {
        file,
        // as many sectors as hold it
        size: size.map(|size| size.checked_next_multiple_of(512).unwrap_or(size)),
        format: Some(format),
        aimed: AimArgs::default(),
        target: settled.target,
        backing,
        open: BackingArgs { allow_external: open.allow_external },
        no_sync: false,
        unopened,
    }));
    session.begin(&mut command, [])?;
    let Command::Create(Deferred(args)) = command else { return Ok(report::USAGE) };
    let signals = Signals::catch(false);
    let (bounds, progress) = (&session.bounds, session.bounds.progress());
    let created = watched(None, &signals, &progress, || {
        create(&args, (None, format), bounds, &progress, &signals)
    });
    match created {
        Ok(_) if given.has("quiet") => Ok(report::OK),
        Ok(made) => {
            let line = formatting(&args, format, size.unwrap_or(made));
            Ok(report::printed(writeln!(io::stdout(), "{line}")))
        }
        Err(error) => {
            report::error(&error, &args.file);
            Ok(report::code(&error, signals.caught()))
        }
    }
}

/// The line that tells what was made: the options in qemu-img's order, with its defaults.
fn formatting(args: &CreateArgs, format: Format, size: u64) -> String {
    let pairs: Vec<_> = args.target.options.iter().flat_map(|options| split(options)).collect();
    let given =
        |name: &str| pairs.iter().rev().find(|(key, _)| key == name).map(|(_, v)| v.clone());
    let bytes = |name: &str, default: &str| {
        let size = given(name).and_then(|size| parse_size(&size).ok());
        size.map_or(default.to_owned(), |size| size.to_string())
    };
    let or = |name: &str, default: &str| given(name).unwrap_or_else(|| default.to_owned());
    let named = args.backing.as_ref().map(|name| name.to_string_lossy().into_owned());
    let backing_format = args.target.backing_format.map(|format| format.name().to_owned());
    let mut all: Vec<(&str, Option<String>)> = vec![("fmt", Some(name_of(format).to_owned()))];
    if format == Format::Qcow2 {
        all.extend([
            ("cluster_size", Some(bytes("cluster_size", "65536"))),
            ("extended_l2", Some(or("extended_l2", "off"))),
            ("preallocation", given("preallocation")),
            ("compression_type", Some(or("compression_type", "zlib"))),
        ]);
    }
    all.push(("size", Some(size.to_string())));
    if format == Format::Qcow2 {
        all.extend([
            ("compat", given("compat")),
            ("data_file", given("data_file")),
            ("data_file_raw", given("data_file_raw")),
            ("backing_file", named.or_else(|| given("backing_file"))),
            ("backing_fmt", backing_format.or_else(|| given("backing_fmt"))),
            ("lazy_refcounts", Some(or("lazy_refcounts", "off"))),
            ("refcount_bits", Some(or("refcount_bits", "16"))),
        ]);
    } else {
        all.extend(pairs.iter().map(|(key, value)| (&**key, Some(value.clone()))));
    }
    let mut line = format!("Formatting '{}',", report::printable(&args.file));
    for (key, value) in all {
        let value = value.map(|value| diskimage::text::printable_str(&value));
        line.push_str(&value.map(|value| format!(" {key}={value}")).unwrap_or_default());
    }
    line
}
