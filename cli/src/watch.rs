//! Watching long work: progress, and signals.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use diskimage::Progress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::size::{human_size, human_time};

/// How often progress is shown, and signals are looked for.
const TICK: Duration = Duration::from_millis(100);

/// The signals that ask to stop.
#[cfg(unix)]
const STOPPING: &[i32] = &[SIGINT, SIGTERM, signal_hook::consts::SIGHUP];
#[cfg(not(unix))]
const STOPPING: &[i32] = &[SIGINT, SIGTERM];

/// The signals that ask to stop, once they are caught.
pub(crate) struct Signals(Arc<AtomicUsize>);

impl Signals {
    /// From now on the first signal only asks to stop, unless `at_once`; the second one ends the
    /// process.
    pub(crate) fn catch(at_once: bool) -> Self {
        let signal = Arc::new(AtomicUsize::new(0));
        let at_once = Arc::new(AtomicBool::new(at_once));
        for &number in STOPPING {
            // without the handlers the process just ends, and leaves no file either
            let _ = flag::register_conditional_shutdown(number, 128 + number, Arc::clone(&at_once));
            let _ = flag::register(number, Arc::clone(&at_once));
            let _ = flag::register_usize(number, Arc::clone(&signal), number as usize);
        }
        // a file that exceeds the limit of the process is an error that can be told
        #[cfg(unix)]
        let _ = flag::register(signal_hook::consts::SIGXFSZ, Arc::default());
        Self(signal)
    }

    /// The signal that came, if one did.
    pub(crate) fn caught(&self) -> Option<u8> {
        u8::try_from(self.0.load(Ordering::Relaxed)).ok().filter(|&signal| signal != 0)
    }
}

/// How progress is shown.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Show {
    /// Whether lines go to standard error, as something else goes to standard output.
    pub(crate) to_stderr: bool,
    /// What takes no longer than this shows none.
    pub(crate) after: Duration,
}

impl Show {
    /// From the start on.
    pub(crate) fn at_once(to_stderr: bool) -> Self {
        Self { to_stderr, after: Duration::ZERO }
    }
}

/// What takes longer has its progress shown.
pub(crate) const LONG: Duration = Duration::from_secs(1);

/// Progress that nobody asked for: of what takes long, on a terminal only.
pub(crate) fn automatic() -> Option<Show> {
    io::stderr().is_terminal().then_some(Show { to_stderr: true, after: LONG })
}

/// Progress that was `asked` for, and how; else what shows by itself.
pub(crate) fn shown(asked: bool, show: Show) -> Option<Show> {
    if asked { Some(show) } else { automatic() }
}

/// Runs `work` while another thread shows its progress and passes on signals.
pub(crate) fn watched<T, E>(
    show: Option<Show>,
    signals: &Signals,
    progress: &Progress,
    work: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    let (done, is_done) = mpsc::channel::<bool>();
    let start = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let now = |show: &Show| show.after.is_zero() || start.elapsed() > show.after;
            let mut display = show.filter(now).map(|show| Display::new(show, start));
            let success = loop {
                match is_done.recv_timeout(TICK) {
                    Ok(success) => break success,
                    Err(RecvTimeoutError::Disconnected) => break false,
                    Err(RecvTimeoutError::Timeout) => {}
                }
                if signals.caught().is_some() {
                    progress.cancel();
                }
                if display.is_none() {
                    display = show.filter(now).map(|show| Display::new(show, start));
                }
                if let Some(display) = &mut display {
                    display.show(progress);
                }
            };
            if let Some(display) = display {
                display.end(success);
            }
        });
        let result = work();
        // the watcher has nothing left to do if it is gone already
        let _ = done.send(result.is_ok());
        result
    })
}

/// A bar on a terminal, or qemu-img's lines.
enum Display {
    Bar(ProgressBar, Meter),
    Lines(Box<dyn Write + Send>),
}

impl Display {
    /// For work that began at `start`.
    fn new(show: Show, start: Instant) -> Self {
        if io::stderr().is_terminal() {
            let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
            let template = "{bar:30} {percent:>3}% {msg}";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            return Self::Bar(bar, Meter { start, done: 0 });
        }
        Self::Lines(if show.to_stderr { Box::new(io::stderr()) } else { Box::new(io::stdout()) })
    }

    fn show(&mut self, progress: &Progress) {
        let (done, total) = (progress.done(), progress.total());
        match self {
            // nobody knows how much there is to do before it begins
            Self::Bar(..) if total == 0 => {}
            Self::Bar(bar, meter) => {
                bar.set_length(total);
                bar.set_message(meter.told(done, total, Instant::now()));
                bar.set_position(done);
            }
            Self::Lines(out) => {
                let percent = if total == 0 { 0.0 } else { done as f64 * 100.0 / total as f64 };
                // progress that nobody reads is no failure of the work
                let _ = write!(out, "    ({percent:.2}/100%)\r").and_then(|()| out.flush());
            }
        }
    }

    fn end(self, success: bool) {
        match self {
            Self::Bar(bar, _) => bar.finish_and_clear(),
            Self::Lines(mut out) => {
                let last = if success { "    (100.00/100%)\n" } else { "\n" };
                let _ = write!(out, "{last}").and_then(|()| out.flush());
            }
        }
    }
}

/// How fast work goes, all of its time counted: a display that begins late knows what came before.
struct Meter {
    start: Instant,
    done: u64,
}

impl Meter {
    /// `1.5 GiB of 2.44 GiB, 215 MiB/s, 5 s left`.
    fn told(&mut self, done: u64, total: u64, now: Instant) -> String {
        if done < self.done {
            // another part of the work has begun, and counts anew
            self.start = now;
        }
        self.done = done;
        let [part, whole] = [done, total].map(human_size);
        let seconds = now.saturating_duration_since(self.start).as_secs_f64();
        if done == 0 || seconds < 0.1 {
            return format!("{part} of {whole}");
        }
        let rate = done as f64 / seconds;
        let left = Duration::try_from_secs_f64(total.saturating_sub(done) as f64 / rate);
        let left = left.map(|left| format!(", {} left", human_time(left))).unwrap_or_default();
        format!("{part} of {whole}, {}/s{left}", human_size(rate as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_counts_from_the_start() {
        let start = Instant::now();
        let mut meter = Meter { start, done: 0 };
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(meter.told(0, 3 << 30, at(1)), "0 B of 3 GiB");
        assert_eq!(meter.told(1 << 30, 3 << 30, at(4)), "1 GiB of 3 GiB, 256 MiB/s, 8 s left");
        assert_eq!(meter.told(3 << 30, 3 << 30, at(6)), "3 GiB of 3 GiB, 512 MiB/s, 0 s left");
        // a second part
        assert_eq!(meter.told(1 << 20, 4 << 20, at(7)), "1 MiB of 4 MiB");
        assert_eq!(meter.told(2 << 20, 4 << 20, at(9)), "2 MiB of 4 MiB, 1 MiB/s, 2 s left");
    }
}
