//! Judges an upload while it passes, and says whether to take it: the exit code is 0 or 3.
//!
//!     curl -s https://example.org/cloud.img | cargo run --example probe_upload -- qcow2

use std::io::{self, Read};
use std::process::ExitCode;

use diskimage::Format;
use diskimage::inspect::{Inspect, Policy, Refused};

fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let mut policy = Policy::strict();
    policy.name = "example".into();
    policy.max_virtual_size = Some(64 << 30);
    let mut inspect = Inspect::new(policy);
    if let Some(declared) = std::env::args().nth(1) {
        inspect = inspect.declared(declared.parse::<Format>()?);
    }

    // a service would copy to where it stores the image; here it goes nowhere
    let mut upload = inspect.stream().reader(io::stdin().lock());
    let mut piece = vec![0; 64 << 10];
    let mut taken = 0_u64;
    loop {
        match upload.read(&mut piece) {
            Ok(0) => break,
            Ok(length) => taken += length as u64,
            // nothing that follows can make it pass
            Err(error) if error.get_ref().is_some_and(|inner| inner.is::<Refused>()) => break,
            Err(error) => return Err(error.into()),
        }
    }

    let (_, verdict) = upload.finish();
    let format = verdict.facts.format.map_or("unknown", Format::name);
    println!("{format}, a disk of {:?} bytes; {taken} bytes taken", verdict.facts.virtual_size);
    for reason in &verdict.reasons {
        println!("refused ({}): {}", reason.rule, reason.sentence);
    }
    Ok(if verdict.is_allowed() { ExitCode::SUCCESS } else { ExitCode::from(3) })
}
