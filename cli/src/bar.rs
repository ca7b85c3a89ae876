//! The bar on a terminal that shows how far long work is: a line on standard error below all that is
//! printed, gone when the work is.

use std::io::{self, IsTerminal, Stdout, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use diskimage::Progress;

use crate::size::{human_size, human_time};
use crate::style;
use crate::watch::Files;

/// What takes longer than this for one of several files has its bytes told too.
const SLOW: Duration = Duration::from_secs(1);

/// How long the bar itself is at most, and what is said beside it.
const WIDEST: usize = 30;
const SENTENCE: usize = 50;

/// What turns where no whole is known.
const TURNING: [char; 8] = ['⠋', '⠙', '⠸', '⠴', '⠦', '⠧', '⠇', '⠏'];

/// The line that is on the terminal, if there is a bar; it is empty before it is drawn.
static SHOWN: Mutex<Option<String>> = Mutex::new(None);

fn shown() -> MutexGuard<'static, Option<String>> {
    SHOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Draws a line over the one that was there (ECMA-48: EL clears it).
fn draw(line: &str) {
    let mut out = io::stderr().lock();
    // a bar that nobody sees is no failure of the work
    let _ = write!(out, "\r\x1b[2K{line}").and_then(|()| out.flush());
}

/// Prints so that a bar which is shown stays below. It must not be called in itself.
pub(crate) fn above<T>(print: impl FnOnce() -> T) -> T {
    let shown = shown();
    let line = shown.as_deref().filter(|line| !line.is_empty());
    if line.is_some() {
        draw("");
    }
    let done = print();
    if let Some(line) = line {
        draw(line);
    }
    done
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
    turns: usize,
    bytes: Meter,
    files: Meter,
}

impl Bar {
    /// For work that began at `start`.
    pub(crate) fn new(start: Instant) -> Self {
        *shown() = Some(String::new());
        Self { turns: 0, bytes: Meter::new(start), files: Meter::new(start) }
    }

    /// Shows how far it is by `now`.
    pub(crate) fn show(&mut self, progress: &Progress, files: &Files, now: Instant) {
        let (done, total) = (progress.done(), progress.total());
        let ((done, total), text) = if files.total() == Some(1) {
            ((done, total), self.bytes.told(Unit::Bytes, done, total, now))
        } else {
            let (these, all) = (files.done(), files.total().unwrap_or(0));
            let mut text = self.files.told(Unit::Files, these, all, now);
            if self.files.rests(now) > SLOW {
                let part = match total {
                    0 => human_size(done),
                    _ => format!("{} of {}", human_size(done.min(total)), human_size(total)),
                };
                text.push_str(&format!(" (in this one {part})"));
            }
            ((these, all), text)
        };
        let width = style::stderr_width();
        let before = match total {
            0 => TURNING[self.turns % TURNING.len()].to_string(),
            _ => part(done, total, width.saturating_sub(SENTENCE).clamp(6, WIDEST)),
        };
        self.turns += 1;
        // a line that is full would begin another one
        let line: String =
            format!("{before} {text}").chars().take(width.saturating_sub(1)).collect();
        // where somebody prints, the line before is drawn again behind that
        if let Ok(mut shown) = SHOWN.try_lock() {
            draw(&line);
            *shown = Some(line);
        }
    }

    /// Takes it away, unless somebody prints at this moment and may be stuck in that: then it is
    /// away already.
    pub(crate) fn clear_at_once(&self) {
        if let Ok(mut shown) = SHOWN.try_lock() {
            take_away(&mut shown);
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        take_away(&mut shown());
    }
}

fn take_away(shown: &mut Option<String>) {
    if shown.take().is_some_and(|line| !line.is_empty()) {
        draw("");
    }
}

/// `████░░░░  50%`, of so many characters before the number.
fn part(done: u64, total: u64, length: usize) -> String {
    let share = done.min(total) as f64 / total.max(1) as f64;
    let full = (share * length as f64) as usize;
    let (full, rest) = ("█".repeat(full), "░".repeat(length - full.min(length)));
    format!("{full}{rest} {:>3}%", (share * 100.0) as u64)
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
    fn a_bar_is_as_long_as_it_should_be() {
        assert_eq!(part(0, 10, 6), "░░░░░░   0%");
        assert_eq!(part(5, 10, 6), "███░░░  50%");
        assert_eq!(part(u64::MAX - 1, u64::MAX, 6).chars().count(), 11);
        assert_eq!(part(11, 10, 6), "██████ 100%");
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
