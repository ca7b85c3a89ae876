//! `qemu-img dd`, with what Proxmox adds to it: `-n`, `isize=`, `osize=`, standard input and output.

use std::ffi::OsString;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use diskimage::bytes::is_zero;
use diskimage::target::{Existing, FileTarget, StreamTarget};
use diskimage::{Error, ErrorKind, Format, Target};

use super::getopt::{Given, os};
use super::{Failure, Session, convert, existing, source};
use crate::args::{Command, ConvertArgs};
use crate::deferred::Deferred;
use crate::report;
use crate::size::parse_size;
use crate::watch::{Signals, watched};

/// Largest block.
const MOST_BS: u64 = (1 << 31) - 1;
/// Most blocks.
const MOST_BLOCKS: u64 = (1 << 63) - 1;
/// What is read of a stream at once, and left out if it is zeros.
const PIECE: usize = 64 << 10;

/// The operands.
#[derive(Debug)]
struct Asked {
    bs: u64,
    count: Option<u64>,
    skip: u64,
    isize: Option<u64>,
    osize: Option<u64>,
    input: Option<OsString>,
    output: Option<OsString>,
}

impl Asked {
    fn parse(operands: &[OsString]) -> std::result::Result<Self, Failure> {
        let (count, isize, osize) = (None, None, None);
        let mut asked = Self { bs: 512, count, skip: 0, isize, osize, input: None, output: None };
        for operand in operands {
            let bytes = operand.as_encoded_bytes();
            let at = bytes.iter().position(|&byte| byte == b'=').unwrap_or(bytes.len());
            let (key, value) = bytes.split_at(at);
            let unknown = || {
                let key = diskimage::text::printable(key);
                Failure::new(format!("unrecognized operand {key}"))
            };
            let value = os(value.strip_prefix(b"=").ok_or_else(unknown)?);
            let text = || value.to_string_lossy();
            match key {
                b"bs" => asked.bs = size("bs", &text(), 1, MOST_BS)?,
                b"count" => asked.count = Some(blocks("count", &text())?),
                b"skip" => asked.skip = blocks("skip", &text())?,
                b"isize" => asked.isize = Some(size("isize", &text(), 0, MOST_BLOCKS)?),
                b"osize" => asked.osize = Some(size("osize", &text(), 0, MOST_BLOCKS)?),
                b"if" => asked.input = Some(value),
                b"of" => asked.output = Some(value),
                _ => return Err(unknown()),
            }
        }
        asked.input = asked.input.filter(|name| name != "/dev/stdin");
        asked.output = asked.output.filter(|name| name != "/dev/stdout");
        Ok(asked)
    }

    /// What is to be copied of an input of `input` bytes (of standard input nobody knows them), and
    /// how much the output has. `None`: the input ends before what is to be copied begins.
    fn plan(&self, input: Option<u64>) -> std::result::Result<Option<Plan>, Failure> {
        // as there, `count` is counted from the start of the input, what is skipped included
        let counted = self.count.map(|count| count.saturating_mul(self.bs));
        let size = match (self.osize, input.or(counted).or(self.isize)) {
            (Some(osize), _) => osize,
            (None, Some(size)) => size.min(counted.unwrap_or(u64::MAX)),
            (None, None) => {
                return Err(Failure::new("Output size must be known when reading from stdin"));
            }
        };
        let start = self.skip.saturating_mul(self.bs);
        let end = self.isize.unwrap_or(size).min(size);
        if start > size {
            return Ok(None);
        }
        let end = end.max(start);
        if let Some(input) = input.filter(|&input| input < end) {
            return Err(Failure::new(format!(
                "the input has {input} bytes, and {end} of it are to be copied: say with isize how \
                 many, or choose a smaller osize"
            )));
        }
        Ok(Some(Plan { start, end, size: self.osize.unwrap_or(size - start) }))
    }
}

/// The bytes that are copied, and how much the output has.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    start: u64,
    end: u64,
    size: u64,
}

impl Plan {
    /// As there, what is made anew has whole sectors.
    fn fill_sectors(&mut self, args: &ConvertArgs) {
        if !args.no_create && args.target.as_os_str() != "-" {
            self.size = self.size.next_multiple_of(512);
        }
    }
}

fn invalid(name: &str, text: &str) -> Failure {
    Failure::new(format!("Invalid {name} specified: '{text}'."))
}

fn outside(name: &str, least: u64, most: u64) -> Failure {
    Failure::new(format!("Invalid {name} specified. Must be between {least} and {most}."))
}

/// A size, which may have a suffix.
fn size(name: &str, text: &str, least: u64, most: u64) -> std::result::Result<u64, Failure> {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match parse_size(text) {
        Ok(size) if (least..=most).contains(&size) => Ok(size),
        Ok(_) => Err(outside(name, least, most)),
        Err(_) if is_number(text.strip_prefix('-').unwrap_or(text)) => {
            Err(outside(name, least, most))
        }
        Err(_) => Err(invalid(name, text)),
    }
}

/// A number of blocks: decimal, hexadecimal behind `0x`, octal behind `0`.
fn blocks(name: &str, text: &str) -> std::result::Result<u64, Failure> {
    let number = text.strip_prefix('-').unwrap_or(text);
    let (digits, radix) = match number.strip_prefix("0x").or(number.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None if number.len() > 1 && number.starts_with('0') => (&number[1..], 8),
        None => (number, 10),
    };
    if digits.is_empty() || !digits.chars().all(|digit| digit.is_digit(radix)) {
        return Err(invalid(name, text));
    }
    let value = u64::from_str_radix(digits, radix).ok();
    let value = value.filter(|&value| value <= MOST_BLOCKS && (number == text || value == 0));
    value.ok_or_else(|| outside(name, 0, MOST_BLOCKS))
}

pub(super) fn run(session: &Session, given: &Given) -> std::result::Result<u8, Failure> {
    let asked = Asked::parse(&given.operands)?;
    let says_raw = given.text("format").as_deref() == Some("raw");
    if asked.input.is_none() && asked.output.is_none() && !says_raw {
        return Err(Failure::new("Must specify both input and output files"));
    }
    if asked.input.is_none() && !says_raw {
        return Err(Failure::new("Input format must be raw when reading from stdin: -f raw"));
    }
    let image = match &asked.input {
        Some(name) => Some(source::existing(given, name, "format", "image-opts")?),
        None => None,
    };
    let format = super::written_format(given.text("output-format"));
    let format = format.map_err(|_| Failure::new("Unknown file format"))?;
    if format != Format::Raw && (asked.output.is_none() || asked.input.is_none()) {
        return Err(Failure::new(format!(
            "Output format must be raw when {}",
            if asked.output.is_none() { "writing to stdout" } else { "reading from stdin" }
        )));
    }
    let target = match &asked.output {
        Some(name) => source::target(name, false)?.path,
        None => "-".into(),
    };
    let no_create = given.has("no-create");
    if no_create && asked.output.is_some() {
        source::look(&report::printable(&target), &target)?;
    }
    let settled = convert::settled(format, Vec::new(), None)?.target;
    let open = source::open_args(given, image.as_ref().and_then(|image| image.format))?;
    let unknown = image.as_ref().and_then(|image| image.unknown());
    let source = image.map_or_else(|| PathBuf::from("/dev/stdin"), |image| image.path);
    let is_stream = asked.input.is_none();
    let mut command = Command::Convert(Deferred(ConvertArgs {
        no_create: no_create && asked.output.is_some(),
        ..convert::plain((source, target), open, format, settled)
    }));
    session.begin(&mut command, unknown)?;
    let Command::Convert(Deferred(mut args)) = command else { return Ok(report::USAGE) };
    if is_stream {
        if asked.skip > 0 {
            return Err(Failure::new("skip does not go with standard input"));
        }
        let Some(mut plan) = asked.plan(None)? else { return Ok(report::OK) };
        plan.fill_sectors(&args);
        return Ok(stream(session, &args, &plan));
    }
    let size = existing::size_of(session, &args.open, &[&*args.source])?;
    let mut plan = asked.plan(Some(size))?.unwrap_or_else(|| {
        let name = report::printable(&args.source);
        report::message(&format!("{name}: cannot skip to specified offset"));
        Plan { start: 0, end: 0, size: 0 }
    });
    plan.fill_sectors(&args);
    if args.no_create && format == Format::Qcow2 {
        args.grow_to = existing::anew(session, &args.target, &mut args.written, plan.size)?;
        args.no_create = false;
    }
    args.grow_to = args.grow_to.max(plan.size);
    args.part = Some(plan.start..plan.end);
    Ok(crate::convert::run(&args, &session.bounds))
}

/// Copies standard input as it comes.
fn stream(session: &Session, args: &ConvertArgs, plan: &Plan) -> u8 {
    // nobody knows when the next byte comes
    let signals = Signals::catch(true);
    let progress = session.bounds.progress();
    let done = watched(None, &signals, &progress, || {
        let target: Box<dyn Target> = if args.target.as_os_str() == "-" {
            Box::new(StreamTarget::new(io::stdout()))
        } else if args.no_create {
            Box::new(FileTarget::existing(&args.target, plan.size, Existing::Unknown)?)
        } else {
            Box::new(FileTarget::create(&args.target, plan.size)?)
        };
        let fresh = target.capabilities().fresh_zeros;
        let mut input = io::stdin().lock();
        let mut piece = vec![0; PIECE];
        let mut at = 0;
        while at < plan.end {
            progress.check()?;
            let left = usize::try_from(plan.end - at).map_or(PIECE, |left| left.min(PIECE));
            let part = &mut piece[..left];
            input.read_exact(part).map_err(|error| ended(error, plan.end))?;
            match is_zero(part) {
                true if fresh => {}
                true => target.write_zeros(at, left as u64)?,
                false => target.write_at(part, at)?,
            }
            at += left as u64;
        }
        if at < plan.size && !fresh {
            target.write_zeros(at, plan.size - at)?;
        }
        target.finish()
    });
    match done {
        Ok(()) => report::OK,
        Err(error) => {
            report::error(&error, Path::new("standard input"));
            report::code(&error, signals.caught())
        }
    }
}

fn ended(error: io::Error, wanted: u64) -> Error {
    if error.kind() != io::ErrorKind::UnexpectedEof {
        return Error::io("read", error);
    }
    let message = format!("Input ended unexpectedly, before the {wanted} bytes that were expected");
    Error::other(ErrorKind::InvalidInput, message).advise("say with isize how many there are")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(line: &str) -> std::result::Result<Asked, String> {
        let operands: Vec<OsString> = line.split_whitespace().map(Into::into).collect();
        Asked::parse(&operands).map_err(|failure| failure.text)
    }

    #[test]
    fn numbers_are_read_as_qemu_img_reads_them() {
        let found = asked("bs=1.5k count=0x10 skip=010 if=a of=b").unwrap();
        assert_eq!((found.bs, found.count, found.skip), (1536, Some(16), 8));
        for (line, told) in [
            ("bs=0", "Invalid bs specified. Must be between 1 and 2147483647."),
            ("bs=2G", "Invalid bs specified. Must be between 1 and 2147483647."),
            ("bs=x", "Invalid bs specified: 'x'."),
            ("bs=", "Invalid bs specified: ''."),
            ("count=1k", "Invalid count specified: '1k'."),
            ("count=-1", "Invalid count specified. Must be between 0 and 9223372036854775807."),
            ("skip=0x", "Invalid skip specified: '0x'."),
            ("conv=sync", "unrecognized operand conv"),
            ("bs", "unrecognized operand bs"),
        ] {
            assert_eq!(asked(line).unwrap_err(), told, "{line}");
        }
    }

    #[test]
    fn what_is_copied_follows_from_the_operands() {
        let plan = |line: &str, input: Option<u64>| {
            let plan = asked(line).unwrap().plan(input).map_err(|failure| failure.text);
            plan.map(|plan| plan.map(|plan| (plan.start, plan.end, plan.size)))
        };
        for (line, input, wanted) in [
            ("bs=1k", Some(8192), Some((0, 8192, 8192))),
            ("bs=1k count=3", Some(8192), Some((0, 3072, 3072))),
            ("bs=1k count=9", Some(8192), Some((0, 8192, 8192))),
            ("bs=1k skip=2", Some(8192), Some((2048, 8192, 6144))),
            ("bs=1k count=3 skip=2", Some(8192), Some((2048, 3072, 1024))),
            ("bs=1k skip=8", Some(8192), Some((8192, 8192, 0))),
            ("bs=1k skip=9", Some(8192), None),
            ("skip=9223372036854775807", Some(8192), None),
            ("osize=4k", Some(8192), Some((0, 4096, 4096))),
            ("osize=9k isize=4k", Some(8192), Some((0, 4096, 9216))),
            ("osize=4k", None, Some((0, 4096, 4096))),
            ("isize=4k", None, Some((0, 4096, 4096))),
            ("count=4", None, Some((0, 2048, 2048))),
        ] {
            assert_eq!(plan(line, input), Ok(wanted), "{line}");
        }
        assert!(plan("osize=9k", Some(8192)).unwrap_err().contains("8192"));
        assert!(plan("", None).unwrap_err().contains("must be known"));
    }
}
