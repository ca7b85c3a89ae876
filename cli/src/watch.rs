//! Watching long operations: signals that stop them, and their progress.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use diskimage::Progress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

/// How often progress is shown, and signals are looked for.
const TICK: Duration = Duration::from_millis(100);

/// The signals that stop an operation.
#[derive(Debug)]
pub(crate) struct Signals(Arc<AtomicUsize>);

impl Signals {
    /// Catches them from now on. The second one ends the process; `at_once`, so does the first: for
    /// what may block for ever, and has nothing to clean up.
    pub(crate) fn catch(at_once: bool) -> Self {
        let signal = Arc::new(AtomicUsize::new(0));
        let at_once = Arc::new(AtomicBool::new(at_once));
        for number in [SIGINT, SIGTERM, SIGHUP] {
            // without the handlers the process just ends, and leaves no file either
            let _ = flag::register_conditional_shutdown(number, 128 + number, Arc::clone(&at_once));
            let _ = flag::register(number, Arc::clone(&at_once));
            let _ = flag::register_usize(number, Arc::clone(&signal), number as usize);
        }
        Self(signal)
    }

    /// The one that came, if one did.
    pub(crate) fn caught(&self) -> Option<u8> {
        u8::try_from(self.0.load(Ordering::Relaxed)).ok().filter(|&signal| signal != 0)
    }
}

/// Whether and where progress is shown, apart from a terminal that shows standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Show {
    Nothing,
    /// Where qemu-img shows it.
    OnStdout,
    /// Something else goes there.
    OnStderr,
}

/// Runs `work` while another thread shows its progress and passes on signals.
pub(crate) fn watched<T, E>(
    show: Show,
    signals: &Signals,
    progress: &Progress,
    work: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    let (done, is_done) = mpsc::channel::<bool>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut display = Display::new(show);
            let success = loop {
                match is_done.recv_timeout(TICK) {
                    Ok(success) => break success,
                    Err(RecvTimeoutError::Disconnected) => break false,
                    Err(RecvTimeoutError::Timeout) => {}
                }
                if signals.caught().is_some() {
                    progress.cancel();
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
    Bar(ProgressBar),
    Lines(Box<dyn Write + Send>),
}

impl Display {
    fn new(show: Show) -> Option<Self> {
        if show != Show::Nothing && io::stderr().is_terminal() {
            let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
            let template = "{bar:40} {percent:>3}% {bytes}/{total_bytes} {bytes_per_sec} {eta}";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            return Some(Self::Bar(bar));
        }
        match show {
            Show::Nothing => None,
            Show::OnStdout => Some(Self::Lines(Box::new(io::stdout()))),
            Show::OnStderr => Some(Self::Lines(Box::new(io::stderr()))),
        }
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
                // progress that nobody reads is no failure of the operation
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
