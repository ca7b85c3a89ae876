//! Converts an image to a raw disk, shows how far it is, and stops when a line is typed.
//!
//!     cargo run --example convert -- testdata/cloud.qcow2 cloud.raw

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use diskimage::target::FileTarget;
use diskimage::{Convert, ErrorKind, OpenOptions, Progress, Target, VirtualDisk};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args_os().skip(1);
    let (Some(source), Some(raw)) = (args.next(), args.next()) else {
        return Err("usage: convert SOURCE TARGET".into());
    };

    let progress = Arc::new(Progress::new());
    let disk = OpenOptions::new().progress(Arc::clone(&progress)).open(source)?;
    let target = FileTarget::create(raw, disk.size())?;

    // who types a line wants it to stop; the end of the input is no such wish
    let stop = Arc::clone(&progress);
    std::thread::spawn(move || {
        if io::stdin().read_line(&mut String::new()).is_ok_and(|length| length > 0) {
            stop.cancel();
        }
    });

    let (done, is_done) = mpsc::channel::<()>();
    let report = std::thread::scope(|scope| {
        let watched = &progress;
        scope.spawn(move || {
            while let Err(RecvTimeoutError::Timeout) =
                is_done.recv_timeout(Duration::from_millis(200))
            {
                eprint!("\r{} of {} bytes", watched.done(), watched.total());
            }
        });
        let report = Convert::new().progress(Arc::clone(&progress)).run(&disk, &target);
        drop(done);
        report
    });
    match report {
        Ok(report) => {
            Box::new(target).finish()?; // only now the file has its name
            println!("{} bytes, of which {} were written as data", report.size, report.written);
            Ok(())
        }
        Err(error) if error.kind() == ErrorKind::Cancelled => {
            Err("stopped; nothing is left".into())
        }
        Err(error) => Err(error.into()),
    }
}
