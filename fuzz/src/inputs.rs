//! Inputs of the targets, from and to files.
//!
//! - `fuzz-inputs seeds TARGET FOLDER` writes the target's seeds, from `testdata/`.
//! - `fuzz-inputs run TARGET FILE…` runs the body on folded inputs.
//! - `fuzz-inputs fold IMAGE INPUT` and `fuzz-inputs unfold INPUT IMAGE` turn one into the other.
//! - `fuzz-inputs targets` lists them.

use std::path::Path;
use std::process::ExitCode;

use diskimage_fuzz::input::{fold, unfold};
use diskimage_fuzz::{TARGETS, engine, seeds};

fn main() -> std::io::Result<ExitCode> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        ["targets"] => TARGETS.iter().for_each(|(name, _)| println!("{name}")),
        ["seeds", target, folder] => {
            std::fs::create_dir_all(folder)?;
            for (number, seed) in seeds::seeds(target).into_iter().enumerate() {
                std::fs::write(Path::new(folder).join(format!("seed-{number:03}")), seed)?;
            }
        }
        ["run", target, ref files @ ..] => {
            for file in files {
                println!("{file}");
                engine::run(target, &std::fs::read(file)?);
            }
        }
        ["fold", image, input] => std::fs::write(input, fold(&std::fs::read(image)?))?,
        ["unfold", input, image] => std::fs::write(image, unfold(&std::fs::read(input)?))?,
        _ => {
            eprintln!(
                "fuzz-inputs targets | seeds TARGET FOLDER | run TARGET FILE... | fold IMAGE INPUT | unfold INPUT IMAGE"
            );
            return Ok(ExitCode::from(2));
        }
    }
    Ok(ExitCode::SUCCESS)
}
