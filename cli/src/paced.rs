//! Writing no faster than is allowed.

use std::fs::File;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use diskimage::target::{Capabilities, Reflink};
use diskimage::{Progress, Result, Target};

/// How long a writer sleeps before it looks whether it is to stop.
const NAP: Duration = Duration::from_millis(100);

/// A target that takes so many bytes in a second, on average from the start on. Zeros that need not
/// be written do not count.
pub(crate) struct Paced {
    inner: Box<dyn Target>,
    rate: u64,
    start: Instant,
    taken: AtomicU64,
    progress: Arc<Progress>,
}

impl Paced {
    pub(crate) fn new(inner: Box<dyn Target>, rate: u64, progress: Arc<Progress>) -> Self {
        Self { inner, rate, start: Instant::now(), taken: AtomicU64::new(0), progress }
    }

    /// Waits until what was taken before is due.
    fn wait(&self, bytes: u64) -> Result<()> {
        let before = self.taken.fetch_add(bytes, Ordering::Relaxed);
        let due = Duration::from_secs_f64(before as f64 / self.rate as f64);
        loop {
            self.progress.check()?;
            let early = due.saturating_sub(self.start.elapsed());
            if early.is_zero() {
                return Ok(());
            }
            std::thread::sleep(early.min(NAP));
        }
    }
}

impl Target for Paced {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn files(&self) -> &[Range<u64>] {
        self.inner.files()
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        self.wait(buf.len() as u64)?;
        self.inner.write_at(buf, offset)
    }

    fn write_zeros(&self, offset: u64, length: u64) -> Result<()> {
        self.inner.write_zeros(offset, length)
    }

    fn copy_from(
        &self,
        source: &File,
        offset: u64,
        to: u64,
        length: u64,
        reflink: Reflink,
    ) -> Result<u64> {
        match reflink {
            // what is shared is not written
            Reflink::Always => self.inner.copy_from(source, offset, to, length, reflink),
            Reflink::Auto | Reflink::Never => Ok(0),
        }
    }

    fn finish(self: Box<Self>) -> Result<()> {
        self.inner.finish()
    }
}
