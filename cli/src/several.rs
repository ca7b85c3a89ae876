//! Commands about one file or several.

use std::path::PathBuf;

use crate::args::{CheckArgs, InfoArgs, InspectArgs};

/// Arguments about one file or several.
pub(crate) trait Several: Clone {
    fn file(&mut self) -> &mut PathBuf;
    fn more(&mut self) -> &mut Vec<PathBuf>;

    /// The same arguments for each file alone.
    fn each(&self) -> impl Iterator<Item = Self> {
        let mut first = self.clone();
        let more = std::mem::take(first.more());
        let others = more.into_iter().map({
            let alone = first.clone();
            move |file| {
                let mut other = alone.clone();
                *other.file() = file;
                other
            }
        });
        std::iter::once(first).chain(others)
    }
}

macro_rules! several {
    ($($args:ty),+) => {$(
        impl Several for $args {
            fn file(&mut self) -> &mut PathBuf {
                &mut self.file
            }

            fn more(&mut self) -> &mut Vec<PathBuf> {
                &mut self.more
            }
        }
    )+};
}

several!(InfoArgs, InspectArgs, CheckArgs);
