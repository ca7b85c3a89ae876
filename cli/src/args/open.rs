//! How to open an image.

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use diskimage::container::split_name;
use diskimage::resolve::Listed;
use diskimage::split::Join;
use diskimage::{Beneath, DenyAll, Format, OpenOptions, Result};

use super::parse_format;
use crate::suggest::{self, named};

/// How to open an image: what all commands that read one share.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct OpenArgs {
    /// Takes the image for this format instead of detecting it
    #[arg(short, long, value_name = "FORMAT", value_parser = named(parse_format, suggest::formats), hide_possible_values = true)]
    pub(crate) format: Option<Format>,
    /// Opens files that the image names (backing files, data files), if they lie in the image's
    /// folder or below; with =DIR, in that folder or below. Without it no other file is opened
    #[arg(long, value_name = "DIR", num_args = 0..=1, require_equals = true)]
    pub(crate) allow_external: Option<Option<PathBuf>>,
    /// Opens FILE where the image names NAME, as it is written there; can be given several times.
    /// Formats that know a parent by UUID only name it by that
    #[arg(long, value_name = "NAME=FILE", value_parser = parse_pair)]
    pub(crate) resolve: Vec<(String, PathBuf)>,
    /// Takes files without a known signature for raw disks, backing files included
    #[arg(long)]
    pub(crate) assume_raw: bool,
    /// Reads a disk that was split into several files (x.001, x.002, …) as one, its first part being
    /// named; with =no, reads that part as a disk of its own
    #[arg(long, value_enum, value_name = "WHETHER", num_args = 0..=1, require_equals = true,
        default_missing_value = "yes")]
    pub(crate) join: Option<Joined>,
    /// Reads images that are marked as corrupt or use unknown incompatible features
    #[arg(long)]
    pub(crate) trust_broken: bool,
}

impl OpenArgs {
    /// The options for the image at `path`.
    pub(crate) fn options(&self, path: &Path) -> Result<OpenOptions> {
        self.options_as(path, self.format)
    }

    /// The same for an image of this format, if one is named.
    pub(crate) fn options_as(&self, path: &Path, format: Option<Format>) -> Result<OpenOptions> {
        // what lies in an archive has the folder of the archive
        let path = &*split_name(path).0;
        let mut options =
            OpenOptions::new().assume_raw(self.assume_raw).trust_broken(self.trust_broken);
        if let Some(format) = format {
            options = options.format(format);
        }
        options = options.join(match self.join {
            None => Join::Refuse,
            Some(Joined::Yes) => Join::Parts,
            Some(Joined::No) => Join::Alone,
        });
        let mut listed = Listed::new();
        for (name, file) in &self.resolve {
            listed = listed.with(name.as_bytes(), file);
        }
        let listed = match &self.allow_external {
            Some(folder) => {
                // a bundle is a folder, and what it needs is inside
                let parent = path.parent().unwrap_or(Path::new(""));
                let own = if path.is_dir() { path } else { parent };
                listed.or_else(Beneath::new(folder.as_deref().unwrap_or(own))?)
            }
            None => listed.or_else(DenyAll),
        };
        options = options.resolver(listed);
        Ok(options)
    }
}

/// Whether the parts of a split disk are joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Joined {
    /// All parts are one disk
    Yes,
    /// The named one is a disk of its own
    No,
}

/// The same for a backing file whose format is named otherwise.
#[derive(Debug, clap::Args)]
pub(crate) struct BackingArgs {
    /// Opens files that the backing file names, if they lie in its folder or below; with =DIR, in
    /// that folder or below. Without it no other file is opened
    #[arg(long, value_name = "DIR", num_args = 0..=1, require_equals = true)]
    pub(crate) allow_external: Option<Option<PathBuf>>,
}

impl BackingArgs {
    /// As for any image.
    pub(crate) fn open_args(&self) -> OpenArgs {
        OpenArgs {
            format: None,
            allow_external: self.allow_external.clone(),
            resolve: Vec::new(),
            assume_raw: false,
            join: None,
            trust_broken: false,
        }
    }
}

pub(crate) fn parse_pair(pair: &str) -> Result<(String, PathBuf), String> {
    match pair.split_once('=') {
        Some((name, file)) if !name.is_empty() => Ok((name.to_owned(), file.into())),
        _ => Err(format!("'{pair}' is not of the form NAME=FILE")),
    }
}
