//! What those share who read a whole disk by several threads: segments, turns, how many threads.

use std::borrow::Cow;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::error::{Detail, ErrorKind, Result};
use crate::num::to_usize;

/// The most threads that are started without being asked for.
const MAX_DEFAULT_THREADS: usize = 16;

#[derive(Debug, thiserror::Error)]
#[error("a thread needs {wanted} bytes of memory for its buffers, {limit} are allowed")]
struct Memory {
    wanted: u64,
    limit: u64,
}

impl Detail for Memory {
    fn kind(&self) -> ErrorKind {
        ErrorKind::LimitExceeded
    }

    fn advice(&self) -> Option<Cow<'static, str>> {
        Some("allow more with --max-memory".into())
    }
}

/// How many threads run that take `each` bytes of memory: as many as are wanted, by default one for
/// each processor, but no more than `max_memory` allows.
pub(crate) fn thread_count(
    wanted: Option<NonZeroUsize>,
    each: u64,
    max_memory: u64,
) -> Result<usize> {
    let processors = || {
        let processors = std::thread::available_parallelism();
        processors.map_or(1, NonZeroUsize::get).min(MAX_DEFAULT_THREADS)
    };
    let fit = to_usize(max_memory.checked_div(each).unwrap_or(0));
    if fit == 0 {
        return Err(Memory { wanted: each, limit: max_memory }.into());
    }
    Ok(wanted.map_or_else(processors, NonZeroUsize::get).min(fit))
}

/// Runs `work` on so many threads.
pub(crate) fn run(threads: usize, work: impl Fn() + Sync) {
    if threads == 1 {
        return work();
    }
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(&work);
        }
    });
}

/// A disk that threads share out among themselves, a segment after the other.
#[derive(Debug)]
pub(crate) struct Segments {
    size: u64,
    segment: u64,
    /// The first guest byte that nobody has taken on.
    next: AtomicU64,
    /// Nothing is taken on from here on.
    limit: AtomicU64,
}

impl Segments {
    /// `size` bytes in pieces of `segment` bytes.
    pub(crate) fn new(size: u64, segment: u64) -> Self {
        Self { size, segment, next: AtomicU64::new(0), limit: AtomicU64::new(u64::MAX) }
    }

    /// Takes the next segment; `None` when all are taken, or are behind the limit.
    pub(crate) fn take(&self) -> Option<Range<u64>> {
        let behind = |start: u64| start.saturating_add(self.segment).min(self.size);
        let taken = self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |start| {
            (start < self.size && !self.is_beyond(start)).then(|| behind(start))
        });
        taken.ok().map(|start| start..behind(start))
    }

    /// Takes on all that nobody has yet, up to `end`.
    pub(crate) fn take_until(&self, end: u64) -> Range<u64> {
        let start = self.next.fetch_max(end, Ordering::Relaxed);
        start.min(end)..end
    }

    /// The first byte that nobody has taken on.
    pub(crate) fn next(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    /// What lies at `offset` or behind it needs no more doing.
    pub(crate) fn stop_at(&self, offset: u64) {
        self.limit.fetch_min(offset, Ordering::Relaxed);
    }

    /// Whether that holds for `offset`.
    pub(crate) fn is_beyond(&self, offset: u64) -> bool {
        self.limit.load(Ordering::Relaxed) <= offset
    }
}

/// What many threads do one after the other, in the order of the disk: `T` is what it is done to.
#[derive(Debug)]
pub(crate) struct Turn<T> {
    state: Mutex<State<T>>,
    turned: Condvar,
}

#[derive(Debug)]
struct State<T> {
    /// The guest byte whose turn it is.
    at: u64,
    stopped: bool,
    inner: T,
}

impl<T> Turn<T> {
    /// It is the first byte's turn.
    pub(crate) fn new(inner: T) -> Self {
        let state = State { at: 0, stopped: false, inner };
        Self { state: Mutex::new(state), turned: Condvar::new() }
    }

    /// Waits until all before `range` is done, and does it. Ranges tile the disk, and whoever holds
    /// several takes them in order. Does nothing if somebody failed or said [`stop`](Self::stop).
    pub(crate) fn take(
        &self,
        range: &Range<u64>,
        work: impl FnOnce(&mut T) -> Result<()>,
    ) -> Result<()> {
        let mut state = self.lock();
        while state.at != range.start && !state.stopped {
            state = self.turned.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.stopped {
            return Ok(());
        }
        let done = work(&mut state.inner);
        state.at = range.end;
        state.stopped = done.is_err();
        drop(state);
        self.turned.notify_all();
        done
    }

    /// Lets nobody wait any more: what is not done stays so.
    pub(crate) fn stop(&self) {
        self.lock().stopped = true;
        self.turned.notify_all();
    }

    /// What it was done to, in the end.
    pub(crate) fn into_inner(self) -> T {
        self.state.into_inner().unwrap_or_else(PoisonError::into_inner).inner
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn turns_are_taken_in_order_whoever_comes_first() {
        let segments = Segments::new(1000, 7);
        let turn = Turn::new(Vec::new());
        run(8, || {
            while let Some(range) = segments.take() {
                let add = |all: &mut Vec<u64>| {
                    all.extend(range.clone());
                    Ok(())
                };
                turn.take(&range, add).unwrap();
            }
        });
        assert_eq!(turn.into_inner(), Vec::from_iter(0..1000));
    }

    #[test]
    fn a_failure_lets_nobody_wait() {
        let turn = Turn::new(());
        let failure = || Err(Error::other(ErrorKind::Corrupt, "broken"));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| turn.take(&(10..20), |()| failure()));
            assert!(turn.take(&(0..5), |()| failure()).is_err());
            // it was not its turn, and never will be
            assert!(waiting.join().unwrap().is_ok());
        });
    }

    #[test]
    fn nothing_is_taken_behind_the_limit() {
        let segments = Segments::new(100, 10);
        assert_eq!(segments.take(), Some(0..10));
        assert_eq!(segments.take_until(30), 10..30);
        segments.stop_at(45);
        assert_eq!(segments.take(), Some(30..40));
        assert_eq!(segments.take(), Some(40..50));
        assert_eq!(segments.take(), None);
    }
}
