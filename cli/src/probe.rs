//! `diskimage probe`: what files are.

use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use diskimage::container::{Compressed, Container, split_name};
use diskimage::format::probe::{HEAD, Probe, TAIL, probe, probe_bytes};
use diskimage::format::{Class, Glance};
use diskimage::storage::{FileStorage, MemoryStorage};
use diskimage::{Error, Format, OpenOptions, Progress, Result, Storage};
use serde_json::{Value, json};

use crate::args::{Output, ProbeArgs};
use crate::bar::Answer;
use crate::bounds::Bounds;
use crate::watch::{Files, Watch};
use crate::{output, report};

pub(crate) fn run(args: &ProbeArgs, bounds: &Bounds) -> u8 {
    let is_many = args.recursive || args.files.len() > 1;
    let files = if args.recursive { Files::unknown() } else { Files::of(args.files.len()) };
    let watch = Watch::reading(bounds.progress(), files, is_many);
    watch.all(|| {
        let out = BufWriter::new(Answer::new());
        let mut run = Run { args, watch: &watch, out, code: report::OK, told: 0 };
        let printed = run.all().and_then(|()| run.out.flush());
        run.code.max(report::printed(printed))
    })
}

/// A run over many files. What is found is printed at once, so that any number takes no memory.
struct Run<'a> {
    args: &'a ProbeArgs,
    watch: &'a Watch,
    out: BufWriter<Answer>,
    code: u8,
    told: u64,
}

impl Run<'_> {
    fn all(&mut self) -> io::Result<()> {
        let is_json = self.args.output == Output::Json;
        if is_json {
            self.out.write_all(b"[")?;
        }
        for file in &self.args.files {
            if file.as_os_str() == "-" {
                let found = self.watch.each(|| probe_stdin(&self.watch.progress));
                self.tell(file, found)?;
            } else if self.args.recursive && file.is_dir() {
                self.folder(file)?;
            } else {
                self.file(file)?;
            }
        }
        match (is_json, self.told) {
            (true, 0) => writeln!(self.out, "]"),
            (true, _) => writeln!(self.out, "\n]"),
            (false, _) => Ok(()),
        }
    }

    /// Every file in a folder and those below it, in the order of their names. Links are not
    /// followed, and what is no regular file is passed over.
    fn folder(&mut self, folder: &Path) -> io::Result<()> {
        let mut waiting = vec![folder.to_owned()];
        while let Some(path) = waiting.pop() {
            let kind = path.symlink_metadata().map(|metadata| metadata.file_type());
            let entries = match kind {
                Ok(kind) if kind.is_dir() => list(&path),
                Ok(kind) if kind.is_file() => {
                    self.file(&path)?;
                    continue;
                }
                Ok(_) => continue,
                Err(error) => Err(error),
            };
            match entries {
                // the last one is taken first
                Ok(entries) => waiting.extend(entries.into_iter().rev()),
                Err(error) => self.failed(&path, &Error::io("list the folder", error))?,
            }
        }
        Ok(())
    }

    fn file(&mut self, file: &Path) -> io::Result<()> {
        let found = self.watch.each(|| probe_file(file, &self.watch.progress));
        self.tell(file, found)
    }

    fn failed(&mut self, file: &Path, error: &Error) -> io::Result<()> {
        // the answers before it come first where both go to one place
        self.out.flush()?;
        report::error(error, file);
        self.code = report::USAGE;
        Ok(())
    }

    fn tell(&mut self, file: &Path, found: Result<Found>) -> io::Result<()> {
        let found = match found {
            Ok(found) => found,
            Err(error) => return self.failed(file, &error),
        };
        if found.outer.matches.is_empty() {
            self.code = self.code.max(report::ERROR);
        }
        let told = self.told;
        self.told += 1;
        match self.args.output {
            Output::Json => {
                let text = serde_json::to_string_pretty(&json(file, &found, self.args.glance))?;
                let comma = if told > 0 { "," } else { "" };
                let text = output::escape(&text).replace('\n', "\n  ");
                write!(self.out, "{comma}\n  {text}")
            }
            Output::Human => {
                let words = if self.args.glance { in_glance(&found) } else { sentence(&found) };
                writeln!(self.out, "{}: {words}", report::printable(file))
            }
        }
    }
}

/// What is in a folder, by name.
fn list(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path()));
    let mut entries = entries.collect::<io::Result<Vec<_>>>()?;
    entries.sort();
    Ok(entries)
}

fn probe_file(path: &Path, progress: &Arc<Progress>) -> Result<Found> {
    let storage: Arc<dyn Storage> = match split_name(path) {
        (file, None) => Arc::new(FileStorage::open(file)?),
        // a member of an archive
        (_, Some(_)) => OpenOptions::new().progress(Arc::clone(progress)).open_bytes(path)?,
    };
    let outer = probe(&storage).map_err(|error| error.in_file(path))?;
    let inside = compressed(&outer).and_then(|format| {
        // what cannot be decoded is named all the same
        Compressed::new(storage, path, format, 0).peek().ok()
    });
    Ok(Found { outer, inside })
}

/// The format of a file that is compressed, and nothing else.
fn compressed(outer: &Probe) -> Option<Format> {
    Container::format_of(outer).filter(|&format| Compressed::is_one(format))
}

/// What a file is, and what lies inside if it is compressed: as far as its start tells.
struct Found {
    outer: Probe,
    inside: Option<Probe>,
}

/// Standard input is read as far as needed; its end is known only where it is short.
fn probe_stdin(progress: &Progress) -> Result<Found> {
    let (mut head, limit) = (vec![0; HEAD + 1], HEAD + 1);
    let (mut input, mut length) = (io::stdin().lock(), 0);
    while length < limit {
        match input.read(&mut head[length..]) {
            Ok(0) => break,
            Ok(more) => {
                length += more;
                progress.advance(more as u64);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::io("read standard input", error)),
        }
    }
    head.truncate(length);
    let whole = length != limit;
    let tail = &head[head.len().saturating_sub(TAIL)..];
    let outer = probe_bytes(&head, whole.then_some((tail, head.len() as u64)));
    let inside = compressed(&outer).and_then(|format| {
        let start = Arc::new(MemoryStorage::new(head));
        Compressed::new(start, Path::new("-"), format, 0).peek().ok()
    });
    Ok(Found { outer, inside })
}

fn json(file: &Path, all: &Found, glance: bool) -> Value {
    let Found { outer: found, inside } = all;
    let matches = found.matches.iter().map(|m| {
        json!({
            "format": m.format.name(),
            "description": m.format.description(),
            "class": class(m.format),
            "read": m.format.is_read() || Container::is_one(m.format),
            "offset": m.offset,
            "evidence": m.evidence,
        })
    });
    let images: Vec<_> = found.images().collect();
    let format = match &images[..] {
        [only] => Some(only.format.name()),
        [] if found.is_raw_disk() => Some(Format::Raw.name()),
        [] => found.matches.first().map(|m| m.format.name()),
        _ => None,
    };
    let mut object = json!({
        "filename": output::text_of(file.as_os_str().as_encoded_bytes()),
        "format": format,
        "matches": matches.collect::<Vec<_>>(),
        "findings": output::findings(&found.findings()),
    });
    if let Some(inside) = inside {
        let names: Vec<_> = inside.matches.iter().map(|m| m.format.name()).collect();
        object["inside"] = json!(names);
    }
    if glance {
        let words = all.glance();
        object["disk_format"] = json!(words.disk_format);
        object["container_format"] = json!(words.container_format);
    }
    object
}

impl Found {
    /// Glance's words: the disk is that inside, the container is what is around it.
    fn glance(&self) -> Glance {
        let mut words = self.outer.glance();
        if let Some(inside) = &self.inside {
            words.disk_format = inside.glance().disk_format;
        }
        words
    }
}

/// Glance's words, as they are given to it.
fn in_glance(found: &Found) -> String {
    let words = found.glance();
    let (disk, container) = (words.disk_format, words.container_format);
    let [disk, container] = [disk, container].map(|word| word.unwrap_or("-"));
    format!("disk_format {disk}, container_format {container}")
}

fn class(format: Format) -> &'static str {
    match format.class() {
        Class::Image => "image",
        Class::Content => "content",
        Class::Wrapper => "wrapper",
    }
}

/// One line on all that fits.
fn sentence(all: &Found) -> String {
    let Found { outer: found, inside } = all;
    if found.matches.is_empty() {
        return "unknown: no known signature (a raw disk may have none either)".into();
    }
    let one = |m: &diskimage::format::probe::Match| {
        format!("{} [{}], {}", m.format.description(), m.format.name(), m.evidence)
    };
    let all: Vec<_> = found.matches.iter().map(one).collect();
    let prefix = if found.is_raw_disk() { "raw disk: " } else { "" };
    let warning = if found.images().count() > 1 { "MORE THAN ONE FORMAT FITS: " } else { "" };
    let inside = inside.as_ref().map(|inside| {
        let raw = if inside.is_raw_disk() { "raw disk: " } else { "" };
        let names: Vec<_> = inside.matches.iter().map(|m| m.format.name()).collect();
        match names.is_empty() {
            true => "; inside: nothing with a known signature".to_owned(),
            false => format!("; inside: {raw}{}", names.join(", ")),
        }
    });
    format!("{warning}{prefix}{}{}", all.join("; also "), inside.unwrap_or_default())
}
