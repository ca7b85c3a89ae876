//! The bar on a terminal that shows how far long work is: a line on standard error below all that is
//! printed, gone when the work is.

use std::io::{self, IsTerminal, Stdout, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use diskimage::Progress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::size::{human_size, human_time};
use crate::style;
use crate::watch::Files;

/// What takes longer than this for one of several files has its bytes told too.
const SLOW: Duration = Duration::from_secs(1);

/// What `indicatif` takes for the bar, beside what is said.
const WIDEST: usize = 30;
const SENTENCE: usize = 50;

/// The bar on the terminal, if there is one.
static SHOWN: Mutex<Option<ProgressBar>> = Mutex::new(None);

fn shown() -> MutexGuard<'static, Option<ProgressBar>> {
    SHOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Prints so that a bar which is shown stays below. It must not be called in itself.
pub(crate) fn above<T>(print: impl FnOnce() -> T) -> T {
    match &*shown() {
        Some(bar) => bar.suspend(print),
        None => print(),
    }
}

/// Standard output, for answers that are printed while work goes on.
pub(crate) struct Answer {
    out: Stdout,
    /// Whether it goes to where a bar may be.
    pub(crate) is_terminal: bool,
}

impl Answer {
    pub(crate) fn new() -> Self {
        let out = io::stdout();
        Self { is_terminal: out.is_terminal(), out }
    }
}

impl Write for Answer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.is_terminal { above(|| self.out.write(bytes)) } else { self.out.write(bytes) }
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.is_terminal { above(|| self.out.flush()) } else { self.out.flush() }
    }
}

/// A bar, for work that is on its way.
pub(crate) struct Bar {
    bar: ProgressBar,
    /// Whether it is drawn as one, there being a whole that is known.
    is_part: Option<bool>,
    bytes: Meter,
    files: Meter,
}

impl Bar {
    /// For work that began at `start`.
    pub(crate) fn new(start: Instant) -> Self {
        let mut place = shown();
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
        *place = Some(bar.clone());
        Self { bar, is_part: None, bytes: Meter::new(start), files: Meter::new(start) }
    }

    /// Shows how far it is by `now`.
    pub(crate) fn show(&mut self, progress: &Progress, files: &Files, now: Instant) {
        let (done, total) = (progress.done(), progress.total());
        let (these, all) = (files.done(), files.total());
        let ((done, total), text) = if all == Some(1) {
            ((done, total), self.bytes.told(Unit::Bytes, done, total, now))
        } else {
            let total_files = all.unwrap_or(0);
            let mut text = self.files.told(Unit::Files, these, total_files, now);
            if self.files.rests(now) > SLOW {
                let part = match total {
                    0 => human_size(done),
                    _ => format!("{} of {}", human_size(done.min(total)), human_size(total)),
                };
                text.push_str(&format!(" (in this one {part})"));
            }
            ((these, total_files), text)
        };
        let is_part = total > 0;
        if is_part {
            self.bar.set_length(total);
            self.bar.set_position(done.min(total));
        }
        if self.is_part.replace(is_part) != Some(is_part) {
            let width = style::stderr_width().saturating_sub(SENTENCE).clamp(6, WIDEST);
            let template = match is_part {
                true => format!("{{bar:{width}}} {{percent:>3}}% {{msg}}"),
                false => "{spinner} {msg}".to_owned(),
            };
            if let Ok(style) = ProgressStyle::with_template(&template) {
                self.bar.set_style(style);
            }
        }
        self.bar.set_message(text);
        self.bar.tick();
    }

    /// Takes it away, unless somebody prints at this moment and may be stuck in that: then it is
    /// away already.
    pub(crate) fn clear_at_once(&self) {
        if let Ok(mut place) = SHOWN.try_lock() {
            self.bar.finish_and_clear();
            *place = None;
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        let mut place = shown();
        self.bar.finish_and_clear();
        *place = None;
    }
}

/// What is counted.
#[derive(Debug, Clone, Copy)]
enum Unit {
    Bytes,
    Files,
}

/// How fast work goes, all of its time counted: a display that begins late knows what came before.
struct Meter {
    start: Instant,
    done: u64,
    /// Since when that much is done.
    since: Instant,
}

impl Meter {
    fn new(start: Instant) -> Self {
        Self { start, done: 0, since: start }
    }

    /// How long nothing more was done.
    fn rests(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
    }

    /// `1.5 GiB of 2.44 GiB, 215 MiB/s, 5 s left`; where no whole is known `1.5 GiB read, 215 MiB/s`.
    fn told(&mut self, unit: Unit, done: u64, total: u64, now: Instant) -> String {
        if done < self.done {
            // another part of the work has begun, and counts anew
            self.start = now;
        }
        if done != self.done {
            self.since = now;
        }
        self.done = done;
        let part = done.min(total);
        let amount = match (unit, total) {
            (Unit::Bytes, 0) => format!("{} read", human_size(done)),
            (Unit::Files, 0) => format!("{done} files"),
            (Unit::Bytes, _) => format!("{} of {}", human_size(part), human_size(total)),
            (Unit::Files, _) => format!("{part} of {total} files"),
        };
        let seconds = now.saturating_duration_since(self.start).as_secs_f64();
        if done == 0 || seconds < 0.1 {
            return amount;
        }
        let rate = done as f64 / seconds;
        let speed = match unit {
            Unit::Bytes => format!(", {}/s", human_size(rate as u64)),
            Unit::Files if rate < 1.0 => String::new(),
            Unit::Files => format!(", {}/s", rate as u64),
        };
        let left = Duration::try_from_secs_f64(total.saturating_sub(done) as f64 / rate);
        let left = left.ok().filter(|_| total > 0);
        let left = left.map(|left| format!(", {} left", human_time(left))).unwrap_or_default();
        format!("{amount}{speed}{left}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_counts_from_the_start() {
        let start = Instant::now();
        let mut meter = Meter::new(start);
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut told = |done, total, now| meter.told(Unit::Bytes, done, total, at(now));
        assert_eq!(told(0, 3 << 30, 1), "0 B of 3 GiB");
        assert_eq!(told(1 << 30, 3 << 30, 4), "1 GiB of 3 GiB, 256 MiB/s, 8 s left");
        assert_eq!(told(3 << 30, 3 << 30, 6), "3 GiB of 3 GiB, 512 MiB/s, 0 s left");
        // a second part
        assert_eq!(told(1 << 20, 4 << 20, 7), "1 MiB of 4 MiB");
        assert_eq!(told(2 << 20, 4 << 20, 9), "2 MiB of 4 MiB, 1 MiB/s, 2 s left");
        // more than there was said to be
        assert_eq!(told(5 << 20, 4 << 20, 12), "4 MiB of 4 MiB, 1 MiB/s, 0 s left");
    }

    #[test]
    fn what_has_no_known_end_is_told_without_one() {
        let start = Instant::now();
        let mut meter = Meter::new(start);
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(meter.told(Unit::Bytes, 0, 0, at(1)), "0 B read");
        assert_eq!(meter.told(Unit::Bytes, 8 << 20, 0, at(4)), "8 MiB read, 2 MiB/s");
        assert_eq!(meter.rests(at(6)), Duration::from_secs(2));
        let mut meter = Meter::new(start);
        assert_eq!(meter.told(Unit::Files, 50, 0, at(2)), "50 files, 25/s");
        assert_eq!(meter.told(Unit::Files, 100, 400, at(4)), "100 of 400 files, 25/s, 12 s left");
        assert_eq!(meter.told(Unit::Files, 101, 102, at(404)), "101 of 102 files, 4 s left");
    }
}
