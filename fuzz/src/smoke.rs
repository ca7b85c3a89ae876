//! Runs every target's body on damaged seeds for some seconds each, on any toolchain.
//!
//! `fuzz-smoke [SECONDS] [START]`: START chooses the sequence of inputs; the default differs from
//! day to day. An input that breaks a promise is kept in the temporary folder, and named.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use diskimage_fuzz::input::{Input, fold};
use diskimage_fuzz::mutate::{Kind, Mutator};
use diskimage_fuzz::{TARGETS, seeds};

fn main() -> ExitCode {
    let mut numbers = std::env::args().skip(1).map_while(|arg| arg.parse::<u64>().ok());
    let seconds = numbers.next().unwrap_or(5);
    let today = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs() / 86_400);
    let start = numbers.next().unwrap_or(today);
    let (next, broken) = (AtomicUsize::new(0), AtomicBool::new(false));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some((name, body)) = TARGETS.get(next.fetch_add(1, Relaxed)) {
                    if !holds(name, *body, Duration::from_secs(seconds), start) {
                        broken.store(true, Relaxed);
                    }
                }
            });
        }
    });
    if broken.into_inner() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Whether a target keeps its promises for so long.
fn holds(name: &str, body: fn(&Input), time: Duration, start: u64) -> bool {
    let seeds = seeds::seeds(name);
    let mut mutator = Mutator::new(start);
    let end = Instant::now() + time;
    let mut runs = 0_u64;
    while Instant::now() < end {
        let input = Input::new(mutator.next(Kind::of_target(name), &seeds));
        runs += 1;
        if std::panic::catch_unwind(|| body(&input)).is_err() {
            let file = std::env::temp_dir().join(format!("fuzz-{name}-{start}-{runs}"));
            // the message is of use even where the input cannot be kept
            let _ = std::fs::write(&file, fold(&input));
            println!("{name}: broken by input {runs}, kept as {}", file.display());
            return false;
        }
    }
    println!("{name}: {runs} inputs from start {start}");
    true
}
