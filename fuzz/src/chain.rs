//! An image and the files that it needs, whatever bytes there are in them.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use diskimage::layer::Reference;
use diskimage::resolve::{DenyAll, Resolved};
use diskimage::{OpenOptions, Resolver, Result};

use crate::input::{Input, split};
use crate::{check_error, read};

/// Gives one file after the other, whatever is asked for.
#[derive(Debug)]
struct InOrder {
    files: Vec<Input>,
    next: AtomicUsize,
}

impl Resolver for InOrder {
    fn resolve(&self, from: &Path, reference: &Reference) -> Result<Resolved> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        match self.files.get(number) {
            Some(file) => {
                let path = PathBuf::from(format!("file {}", number + 1));
                Ok(Resolved { storage: file.storage(), path })
            }
            None => DenyAll.resolve(from, reference),
        }
    }
}

/// Takes the first of the files for an image and the others for what it needs, and reads it in
/// several ways that must agree.
pub fn body(input: &Input) {
    let mut files = split(input).into_iter().map(Input::new);
    let Some(top) = files.next() else { return };
    let others = InOrder { files: files.collect(), next: AtomicUsize::new(0) };
    let options = OpenOptions::new().assume_raw(true).resolver(others);
    match options.open_storage(top.storage(), Path::new("file 0")) {
        Ok(disk) => {
            read::read(&disk);
            read::contents(&disk);
        }
        Err(error) => check_error(&error),
    }
}
