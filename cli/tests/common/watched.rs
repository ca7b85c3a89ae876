//! Running the command under strace and time.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::NamedTempFile;

use super::{DISKIMAGE, Ran, finished, has, ran, skipped};

/// The command with a fault, as strace's `inject=` describes it; limited to calls about `path` if
/// there is one. Gives also the file that names the calls.
pub fn started(fault: &str, path: Option<&Path>, args: &[&str]) -> Option<(Child, NamedTempFile)> {
    if !has("strace") {
        return None;
    }
    let log = NamedTempFile::new().unwrap();
    let call = fault.split(':').next().unwrap();
    let mut command = Command::new("strace");
    command.args(["-f", "-o"]).arg(log.path());
    command.args(["-e", &format!("trace=execve,{call}"), "-e", &format!("inject={fault}")]);
    if let Some(path) = path {
        command.arg("-P").arg(path).arg("-P").arg(DISKIMAGE);
    }
    command.arg(DISKIMAGE).args(args);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    Some((child, log))
}

/// The same, run to its end; gives also whether the fault was met.
pub fn attempted(fault: &str, path: Option<&Path>, args: &[&str]) -> Option<(Ran, bool)> {
    let (child, log) = started(fault, path, args)?;
    let ran = finished(child);
    let log = std::fs::read_to_string(log.path()).unwrap();
    if !log.contains("execve(") {
        skipped(&format!("tracing is not permitted: {}", ran.stderr.trim()));
        return None;
    }
    let met =
        ["(INJECTED)", "(DELAYED)", "killed by SIGKILL"].iter().any(|mark| log.contains(mark));
    Some((ran, met))
}

/// The same, where the fault must be met.
pub fn with_fault(fault: &str, path: Option<&Path>, args: &[&str]) -> Option<Ran> {
    let (ran, met) = attempted(fault, path, args)?;
    assert!(met, "{fault} was never met: {ran:?}");
    Some(ran)
}

/// What the command did, the most memory that it had, in bytes, and the seconds that it computed.
pub fn measured(args: &[&str]) -> Option<(Ran, u64, f64)> {
    if !has("time") {
        return None;
    }
    let log = NamedTempFile::new().unwrap();
    let mut command = Command::new("time");
    command.args(["-q", "-f", "%M %U", "-o"]).arg(log.path()).arg(DISKIMAGE).args(args);
    let ran = ran(&mut command);
    let numbers = std::fs::read_to_string(log.path()).unwrap();
    let (kilobytes, seconds) = numbers.trim().split_once(' ').unwrap();
    Some((ran, kilobytes.parse::<u64>().unwrap() << 10, seconds.parse().unwrap()))
}
