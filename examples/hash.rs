//! Hashes what is on a disk, whatever format it is in: what `sha256sum` says of the raw disk.
//!
//!     cargo run --features checksum --example hash -- testdata/cloud.qcow2 sha256 blake3

use diskimage::checksum::{Algorithm, Checksum};
use diskimage::{OpenOptions, VirtualDisk};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let image = args.next().ok_or("usage: hash IMAGE [ALGORITHM]…")?;
    let mut algorithms = args.map(|name| name.parse()).collect::<Result<Vec<Algorithm>, _>>()?;
    if algorithms.is_empty() {
        algorithms.push(Algorithm::Sha256);
    }

    let disk = OpenOptions::new().open(&image)?;
    let job = algorithms.iter().fold(Checksum::new(), |job, &one| job.algorithm(one));
    // all of them in one pass, by all processors
    for (algorithm, digest) in algorithms.iter().zip(job.run(&disk)?) {
        println!("{algorithm} {digest} {} bytes", disk.size());
    }
    Ok(())
}
