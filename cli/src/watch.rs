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
            let mut display = show.filter(now).map(Display::new);
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
                    display = show.filter(now).map(Display::new);
                }
                // nobody knows how much there is to do before it begins
                if let Some(display) = display.as_mut().filter(|_| progress.total() > 0) {
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
    Bar(ProgressBar),
    Lines(Box<dyn Write + Send>),
}

impl Display {
    fn new(show: Show) -> Self {
        if io::stderr().is_terminal() {
            let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
            let template = "{bar:40} {percent:>3}% {bytes}/{total_bytes} {bytes_per_sec} {eta}";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            return Self::Bar(bar);
        }
        Self::Lines(if show.to_stderr { Box::new(io::stderr()) } else { Box::new(io::stdout()) })
    }

    fn show(&mut self, progress: &Progress) {
        let (done, total) = (progress.done(), progress.total());
        match self {
            Self::Bar(bar) => {
                bar.set_length(total);
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
            Self::Bar(bar) => bar.finish_and_clear(),
            Self::Lines(mut out) => {
                let last = if success { "    (100.00/100%)\n" } else { "\n" };
                let _ = write!(out, "{last}").and_then(|()| out.flush());
            }
        }
    }
}
