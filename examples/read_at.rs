//! Shows bytes of a disk, wherever its image keeps them.
//!
//!     cargo run --example read_at -- testdata/cloud.qcow2 0 512

use diskimage::{Beneath, OpenOptions, VirtualDisk};
use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let [image, offset, length] = &args[..] else {
        return Err("usage: read_at IMAGE OFFSET LENGTH".into());
    };
    let (offset, length): (u64, usize) = (offset.parse()?, length.parse()?);

    // a backing file may lie in the image's own folder, and nowhere else
    let folder = Path::new(image).parent().unwrap_or(Path::new(""));
    let disk = OpenOptions::new().resolver(Beneath::new(folder)?).open(image)?;
    if offset.checked_add(length as u64).is_none_or(|end| end > disk.size()) {
        return Err(format!("the disk has {} bytes", disk.size()).into());
    }
    let mut bytes = vec![0; length];
    disk.read_exact_at(&mut bytes, offset)?;

    for (line, at) in bytes.chunks(16).zip((offset..).step_by(16)) {
        let hex: Vec<_> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        let shown = |&byte: &u8| if byte.is_ascii_graphic() { char::from(byte) } else { '.' };
        let text: String = line.iter().map(shown).collect();
        println!("{at:08x}  {:47}  {text}", hex.join(" "));
    }
    Ok(())
}
