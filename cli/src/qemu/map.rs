//! `qemu-img map`.

use std::io::{self, Write};

use diskimage::{Chain, Extent, ExtentKind, VirtualDisk};

use super::getopt::Given;
use super::{Failure, Session, failed, one_file, output, source};
use crate::args::{Command, MapArgs, Output};
use crate::deferred::Deferred;
use crate::map::{Form, Json, open, write};
use crate::report;
use crate::size::parse_size;

pub(super) fn run(session: &Session, given: &Given) -> Result<u8, Failure> {
    let form = output("map", given)?;
    let size = |name: &str, what: &str| {
        let Some(text) = given.text(name) else { return Ok(None) };
        let wrong = |_| Failure::new(format!("Invalid {what} specified: '{text}'."));
        parse_size(&text).map(Some).map_err(wrong)
    };
    let start_offset = size("start-offset", "start offset")?.unwrap_or(0);
    let max_length = size("max-length", "max length")?;
    let image = source::existing(given, one_file("map", given)?, "format", "image-opts")?;
    let unknown = image.unknown();
    let args = MapArgs {
        open: source::open_args(given, image.format)?,
        file: image.path,
        snapshot: None,
        start_offset,
        max_length,
        picture: None,
        output: form,
    };
    let mut command = Command::Map(Deferred(args));
    session.begin(&mut command, unknown)?;
    let Command::Map(Deferred(args)) = command else { return Ok(report::USAGE) };
    let progress = session.bounds.progress();
    let printed = open(&args, &session.bounds, &progress).and_then(|disk| match form {
        Output::Json => write(&args, &disk, &progress, &mut Json::new(&disk)),
        Output::Human => write(&args, &disk, &progress, &mut Table(&disk)),
    });
    match printed {
        Ok(Err(error)) if error.kind() == io::ErrorKind::Unsupported => {
            Err(Failure::new("File contains external, encrypted or compressed clusters."))
        }
        Ok(printed) => Ok(report::printed(printed)),
        Err(error) => Ok(failed(&error, &args.file)),
    }
}

/// What is stored, and where.
struct Table<'a>(&'a Chain);

impl Form for Table<'_> {
    fn start(&mut self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{:<16}{:<16}{:<16}File", "Offset", "Length", "Mapped to")
    }

    fn extent(&mut self, out: &mut dyn Write, extent: &Extent) -> io::Result<()> {
        let location = match extent.kind {
            ExtentKind::Stored(location) => location,
            ExtentKind::Encoded => {
                // what was found before is told first
                out.flush()?;
                return Err(io::ErrorKind::Unsupported.into());
            }
            _ => return Ok(()),
        };
        let path = self.0.storage(location.storage).and_then(|storage| storage.path());
        writeln!(
            out,
            "{:<16}{:<16}{:<16}{}",
            hex(extent.start),
            hex(extent.length),
            hex(location.offset),
            path.map(report::printable).unwrap_or_default(),
        )
    }

    fn end(&mut self, _out: &mut dyn Write) -> io::Result<()> {
        Ok(())
    }
}

/// `%#x` of C, which puts nothing before a zero.
fn hex(number: u64) -> String {
    if number == 0 { "0".into() } else { format!("{number:#x}") }
}
