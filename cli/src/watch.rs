//! Watching long work: progress, and signals.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use diskimage::Progress;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::bar::Bar;
use crate::report;

/// How often progress is shown, and signals are looked for.
const TICK: Duration = Duration::from_millis(100);

/// The signals that ask to stop.
#[cfg(unix)]
const STOPPING: &[i32] = &[SIGINT, SIGTERM, signal_hook::consts::SIGHUP];
#[cfg(not(unix))]
const STOPPING: &[i32] = &[SIGINT, SIGTERM];

/// The signals that ask to stop, once they are caught.
pub(crate) struct Signals {
    caught: Arc<AtomicUsize>,
    /// Whether the next one ends the process in its handler.
    at_once: Arc<AtomicBool>,
    /// Whether the first one ends it, there being nothing to clean up.
    is_final: bool,
}

impl Signals {
    /// From now on the first signal only asks to stop, unless `at_once`; the second one ends the
    /// process.
    pub(crate) fn catch(at_once: bool) -> Self {
        let signals = Self {
            caught: Arc::new(AtomicUsize::new(0)),
            at_once: Arc::new(AtomicBool::new(at_once)),
            is_final: at_once,
        };
        for &number in STOPPING {
            // without the handlers the process just ends, and leaves no file either
            let at_once = &signals.at_once;
            let _ = flag::register_conditional_shutdown(number, 128 + number, Arc::clone(at_once));
            let _ = flag::register(number, Arc::clone(at_once));
            let _ = flag::register_usize(number, Arc::clone(&signals.caught), number as usize);
        }
        // a file that exceeds the limit of the process is an error that can be told
        #[cfg(unix)]
        let _ = flag::register(signal_hook::consts::SIGXFSZ, Arc::default());
        signals
    }

    /// The system's way: a signal ends the process, and nobody is asked.
    fn uncaught() -> Self {
        Self { caught: Arc::default(), at_once: Arc::default(), is_final: true }
    }

    /// The signal that came, if one did.
    pub(crate) fn caught(&self) -> Option<u8> {
        let signal = u8::try_from(self.caught.load(Ordering::Relaxed)).ok();
        signal.filter(|&signal| signal != 0)
    }

    /// While a bar is shown even the first signal does not end the process before that is gone.
    fn wait_for_bar(&self, is_shown: bool) {
        if self.is_final && self.caught().is_none() {
            self.at_once.store(!is_shown, Ordering::Relaxed);
        }
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

/// Progress that nobody asked for: of what takes long, on a terminal only. Who calls qemu-img may
/// take any byte for a failure; and who reads what a command `prints` while it works, through a pipe,
/// may draw on the same terminal.
pub(crate) fn automatic(prints: bool) -> Option<Show> {
    let is_shown = !report::is_called() && is_terminal() && !(prints && is_piped());
    is_shown.then_some(Show { to_stderr: true, after: LONG })
}

/// Whether standard error goes to a terminal that can draw a bar.
fn is_terminal() -> bool {
    io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|name| name != "dumb")
}

/// Progress that was `asked` for, and how; else what shows by itself.
pub(crate) fn shown(asked: bool, show: Show, prints: bool) -> Option<Show> {
    if asked { Some(show) } else { automatic(prints) }
}

/// Whether standard output goes through a pipe.
fn is_piped() -> bool {
    #[cfg(unix)]
    {
        use std::os::fd::AsFd;
        use std::os::unix::fs::FileTypeExt;
        let own = io::stdout().as_fd().try_clone_to_owned().map(std::fs::File::from);
        own.and_then(|file| file.metadata()).is_ok_and(|about| about.file_type().is_fifo())
    }
    #[cfg(not(unix))]
    false
}

/// How many of the files of one call are done.
#[derive(Debug)]
pub(crate) struct Files {
    done: AtomicU64,
    /// Of folders nobody knows.
    total: Option<u64>,
}

impl Files {
    /// Of so many.
    pub(crate) fn of(total: usize) -> Self {
        Self { done: AtomicU64::new(0), total: u64::try_from(total).ok() }
    }

    /// Of as many as turn up.
    pub(crate) fn unknown() -> Self {
        Self { done: AtomicU64::new(0), total: None }
    }

    pub(crate) fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    pub(crate) fn total(&self) -> Option<u64> {
        self.total
    }
}

/// What watches a whole call, about one file or several.
pub(crate) struct Watch {
    show: Option<Show>,
    signals: Signals,
    pub(crate) progress: Arc<Progress>,
    files: Files,
}

impl Watch {
    /// Of a command that only reads: progress shows by itself, and a signal ends the process.
    pub(crate) fn reading(progress: Arc<Progress>, files: Files, prints: bool) -> Self {
        let show = automatic(prints);
        let signals = if show.is_some() { Signals::catch(true) } else { Signals::uncaught() };
        Self { show, signals, progress, files }
    }

    /// Of a command whose progress may be asked for.
    pub(crate) fn new(
        show: Option<Show>,
        signals: Signals,
        progress: Arc<Progress>,
        files: Files,
    ) -> Self {
        Self { show, signals, progress, files }
    }

    /// The signal that came, if one did.
    pub(crate) fn caught(&self) -> Option<u8> {
        self.signals.caught()
    }

    /// Lines are those of one file.
    fn is_by_file(&self) -> bool {
        self.show.is_some() && !is_terminal()
    }

    /// Does all of it.
    pub(crate) fn all<T>(&self, work: impl FnOnce() -> T) -> T {
        if self.is_by_file() {
            return work();
        }
        watched_files(self.show, &self.signals, &self.progress, &self.files, work, |_| true)
    }

    /// Does it about one file after the other, and gives the worst of their exit codes; it ends early when
    /// the time is over, or a signal came.
    pub(crate) fn worst<A>(
        &self,
        files: impl Iterator<Item = A>,
        mut one: impl FnMut(usize, A) -> u8,
    ) -> u8 {
        self.all(|| {
            let mut code = report::OK;
            for (index, args) in files.enumerate() {
                code = report::worse(code, one(index, args));
                if code == report::TIMED_OUT || self.caught().is_some() {
                    break;
                }
            }
            code
        })
    }

    /// Does what is to be done about the next file.
    pub(crate) fn each<T, E>(&self, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        self.progress.start_reading(0);
        let done = match self.is_by_file() {
            true => watched(self.show, &self.signals, &self.progress, work),
            false => work(),
        };
        self.files.done.fetch_add(1, Ordering::Relaxed);
        done
    }
}

/// Runs `work` while another thread shows its progress and passes on signals.
pub(crate) fn watched<T, E>(
    show: Option<Show>,
    signals: &Signals,
    progress: &Progress,
    work: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    watched_files(show, signals, progress, &Files::of(1), work, Result::is_ok)
}

fn watched_files<T>(
    show: Option<Show>,
    signals: &Signals,
    progress: &Progress,
    files: &Files,
    work: impl FnOnce() -> T,
    is_success: impl FnOnce(&T) -> bool,
) -> T {
    if show.is_none() && signals.is_final {
        // there is nothing to do beside the work
        return work();
    }
    let (done, is_done) = mpsc::channel::<bool>();
    let start = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut display = None;
            let success = loop {
                if let Some(signal) = signals.caught() {
                    if let (true, Some(Display::Bar(bar))) = (signals.is_final, &display) {
                        bar.clear_at_once();
                        std::process::exit(128 + i32::from(signal));
                    }
                    progress.cancel();
                }
                let now = Instant::now();
                if let Some(show) = show.filter(|show| now - start >= show.after)
                    && display.is_none()
                {
                    display = Some(Display::new(show, start));
                    signals.wait_for_bar(true);
                } else if let Some(display) = &mut display {
                    display.show(progress, files, now);
                }
                match is_done.recv_timeout(TICK) {
                    Ok(success) => break success,
                    Err(RecvTimeoutError::Disconnected) => break false,
                    Err(RecvTimeoutError::Timeout) => {}
                }
            };
            if let Some(display) = display {
                display.end(success);
                signals.wait_for_bar(false);
                if let Some(signal) = signals.caught().filter(|_| signals.is_final) {
                    std::process::exit(128 + i32::from(signal));
                }
            }
        });
        let result = work();
        // the watcher has nothing left to do if it is gone already
        let _ = done.send(is_success(&result));
        result
    })
}

/// A bar on a terminal, or qemu-img's lines.
enum Display {
    Bar(Bar),
    Lines { out: Box<dyn Write + Send>, is_begun: bool },
}

impl Display {
    /// For work that began at `start`.
    fn new(show: Show, start: Instant) -> Self {
        if is_terminal() {
            return Self::Bar(Bar::new(start));
        }
        let out: Box<dyn Write + Send> =
            if show.to_stderr { Box::new(io::stderr()) } else { Box::new(io::stdout()) };
        Self::Lines { out, is_begun: false }
    }

    fn show(&mut self, progress: &Progress, files: &Files, now: Instant) {
        match self {
            Self::Bar(bar) => bar.show(progress, files, now),
            Self::Lines { out, is_begun } => {
                *is_begun = true;
                let (done, total) = (progress.done(), progress.total());
                let percent = if total == 0 { 0.0 } else { done as f64 * 100.0 / total as f64 };
                // progress that nobody reads is no failure of the work
                let _ = write!(out, "    ({percent:.2}/100%)\r").and_then(|()| out.flush());
            }
        }
    }

    fn end(self, success: bool) {
        if let Self::Lines { mut out, is_begun } = self {
            let last = match (success, is_begun) {
                (true, _) => "    (100.00/100%)\n",
                (false, true) => "\n",
                (false, false) => "",
            };
            let _ = out.write_all(last.as_bytes()).and_then(|()| out.flush());
        }
    }
}
