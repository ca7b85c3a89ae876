//! An upload in an async service: judged while it comes, then converted on a thread for such work.
//!
//!     cargo run --features tokio --example async_upload -- testdata/cloud.qcow2 cloud.raw

use std::path::PathBuf;
use std::sync::Arc;

use diskimage::inspect::{Inspect, Policy};
use diskimage::target::FileTarget;
use diskimage::{Convert, ErrorKind, OpenOptions, Progress, Target, VirtualDisk};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let mut args = std::env::args_os().skip(1);
    let (Some(image), Some(raw)) = (args.next(), args.next()) else {
        return Err("usage: async_upload IMAGE TARGET".into());
    };

    // the client: in a service this is the body of a request
    let (mut client, body) = tokio::io::duplex(64 << 10);
    let bytes = std::fs::read(image)?;
    tokio::spawn(async move {
        // who is refused hangs up
        let _ = client.write_all(&bytes).await;
    });

    let upload = receive(body).await?;
    println!("{} bytes were taken", std::fs::metadata(upload.path())?.len());
    let written = convert(upload.path().to_owned(), raw.into()).await?;
    println!("{written} bytes were written as data");
    Ok(())
}

/// Stores an upload, unless the policy refuses it.
async fn receive(body: impl AsyncRead + Unpin) -> Result<tempfile::NamedTempFile, Failure> {
    let mut file = tempfile::NamedTempFile::new()?;
    let mut body = Inspect::new(Policy::strict()).stream().reader(body);
    let mut piece = vec![0; 64 << 10];
    // the error of a refusal ends the loop as the end of the body does: the verdict tells
    while let Ok(length @ 1..) = body.read(&mut piece).await {
        std::io::Write::write_all(&mut file, &piece[..length])?;
    }
    let (_, verdict) = body.finish();
    match verdict.reasons.first() {
        None => Ok(file),
        Some(reason) => Err(reason.sentence.clone().into()),
    }
}

/// Converts on a thread for blocking work, and stops if nobody waits any more.
async fn convert(image: PathBuf, raw: PathBuf) -> Result<u64, Failure> {
    struct Stop(Arc<Progress>);
    impl Drop for Stop {
        fn drop(&mut self) {
            self.0.cancel();
        }
    }
    let progress = Arc::new(Progress::new());
    let _stop = Stop(Arc::clone(&progress));
    let work = tokio::task::spawn_blocking(move || -> diskimage::Result<u64> {
        let disk = OpenOptions::new().progress(Arc::clone(&progress)).open(&image)?;
        let target = FileTarget::create(&raw, disk.size())?;
        let report = Convert::new().progress(progress).run(&disk, &target)?;
        Box::new(target).finish()?;
        Ok(report.written)
    });
    work.await?.map_err(|error| match error.kind() {
        ErrorKind::Io => format!("our fault: {error}").into(),
        _ => format!("the image's fault: {error}").into(),
    })
}
