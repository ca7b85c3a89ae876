//! The bounds of a run: what a stranger's file may cost, in whatever command.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use diskimage::container::Spill;
use diskimage::{Limits, OpenOptions, Progress};

use crate::report;
use crate::size::{parse_size, parse_time};

/// Memory for tables and buffers where none is named.
const MEMORY: u64 = 48 << 20;
/// Room for a temporary file where none is named.
const SPILL: u64 = 64 << 30;
const CHECK_MEMORY: u64 = 40 << 20;

/// The options that every command has.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Bounds on what an image may cost")]
pub(crate) struct BoundArgs {
    /// Refuses images whose disk is larger
    #[arg(long, global = true, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) max_virtual_size: Option<u64>,
    /// Memory for buffers and cached tables [default: 48M, for a check 40M]
    #[arg(long, global = true, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) max_memory: Option<u64>,
    /// Refuses chains of more images than this, the first one counted [default: 64]
    #[arg(long, global = true, value_name = "N", value_parser = parse_chain)]
    pub(crate) max_chain: Option<u32>,
    /// Room for a temporary file, in the folder for such ($TMPDIR), where what is compressed has to
    /// be decoded before it can be read by position; 0 allows none [default: 64G]
    #[arg(long, global = true, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) max_spill: Option<u64>,
    /// Gives up after this time, with exit code 124: seconds, or with a unit (500ms, 30s, 5m)
    #[arg(long, global = true, value_name = "TIME", value_parser = parse_time)]
    pub(crate) timeout: Option<Duration>,
    /// Gives up all that is not needed before the image is read: other files, processes, the
    /// network (Linux: Landlock and seccomp)
    #[arg(long, global = true)]
    pub(crate) sandbox: bool,
}

fn parse_chain(text: &str) -> Result<u32, String> {
    let number = text.parse().ok().filter(|&number: &u32| number > 0);
    number.ok_or_else(|| "it must be a number of images such as 1 or 64".into())
}

/// The options, and when this run began.
#[derive(Debug, Clone)]
pub(crate) struct Bounds {
    args: BoundArgs,
    deadline: Option<Instant>,
    spill: Option<Arc<Spill>>,
}

impl Bounds {
    /// The time runs from now on.
    pub(crate) fn new(args: BoundArgs) -> Self {
        let deadline = args.timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let limit = args.max_spill.unwrap_or(SPILL);
        let spill = (limit > 0).then(|| Arc::new(Spill::new(std::env::temp_dir(), limit)));
        Self { args, deadline, spill }
    }

    /// The options with the temporary file, if one is allowed.
    pub(crate) fn spilling(&self, options: OpenOptions) -> OpenOptions {
        match &self.spill {
            Some(spill) => options.spill(Arc::clone(spill)),
            None => options,
        }
    }

    /// Makes the temporary file, before the process gives that up. A failure shows when the file is
    /// needed.
    pub(crate) fn prepare_spill(&self) {
        let _ = self.spill.as_ref().map(|spill| spill.prepare());
    }

    /// Tells how much was written to the temporary file, if anything was.
    pub(crate) fn tell_spilled(&self) {
        let bytes = self.spill.as_ref().map_or(0, |spill| spill.bytes());
        if bytes > 0 {
            report::message(&format!("note: spilled {bytes} bytes to a temporary file"));
        }
    }

    /// The same for programs.
    pub(crate) fn spilled(&self) -> u64 {
        self.spill.as_ref().map_or(0, |spill| spill.bytes())
    }

    /// Memory for all that the command holds.
    pub(crate) fn memory(&self) -> u64 {
        self.args.max_memory.unwrap_or(MEMORY)
    }

    /// The same for a check, whose bitmaps are not all that it holds.
    pub(crate) fn memory_for_check(&self) -> u64 {
        self.args.max_memory.unwrap_or(CHECK_MEMORY)
    }

    /// Limits for each of `disks` that are open at once, and the memory for buffers: tables get up
    /// to a quarter of all memory, buffers the rest.
    pub(crate) fn limits(&self, disks: u64) -> (Limits, u64) {
        let mut limits = Limits::default().within_memory(self.memory());
        limits.table_cache /= disks;
        if let Some(size) = self.args.max_virtual_size {
            limits.max_virtual_size = size;
        }
        if let Some(images) = self.args.max_chain {
            limits.max_chain = images;
        }
        let buffers = self.memory() - limits.table_cache * disks;
        (limits, buffers)
    }

    /// What is asked whether to go on.
    pub(crate) fn progress(&self) -> Arc<Progress> {
        Arc::new(self.deadline.map_or_else(Progress::new, Progress::until))
    }

    /// Sees to it that the process ends in time even where the system lets it wait for a medium or
    /// for a reader: then nothing but this can tell.
    pub(crate) fn watch(&self, file: &Path) {
        let Some(deadline) = self.deadline else { return };
        let name = report::printable(file);
        std::thread::spawn(move || {
            std::thread::sleep(deadline.saturating_duration_since(Instant::now()) + GRACE);
            report::message(&format!(
                "{name}: it takes longer than the time that is allowed: allow more with --timeout"
            ));
            std::process::exit(report::TIMED_OUT.into());
        });
    }
}

/// How long the work may take to end by itself when its time is over.
const GRACE: Duration = Duration::from_millis(500);
