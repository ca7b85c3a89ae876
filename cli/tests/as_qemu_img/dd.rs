//! `dd`, beside the program itself.

use crate::common::*;
use crate::lab::{Lab, words};

#[test]
fn parts_of_disks_are_copied_into_every_format() {
    let Some(lab) = Lab::new() else { return };
    lab.raw("raw");
    lab.image("qcow2", "qcow2", &["-c"]);
    std::fs::write(lab.path("odd"), &std::fs::read(lab.path("raw")).unwrap()[..1100]).unwrap();
    for line in [
        "dd -f raw -O raw if=raw of=x",
        "dd -f raw if=raw of=x",
        "dd -f qcow2 -O raw bs=1M if=qcow2 of=x",
        "dd if=qcow2 of=x",
        "dd -U -f qcow2 -O qcow2 bs=64k count=17 if=qcow2 of=x",
        "dd -f qcow2 bs=1000 count=3 if=qcow2 of=x",
        "dd -f qcow2 bs=1000 skip=5 if=qcow2 of=x",
        "dd -f raw bs=1k skip=100 count=200 if=raw of=x",
        "dd -f raw bs=4M count=3 if=raw of=x",
        "dd -f raw bs=1M skip=3 if=raw of=x",
        "dd -f raw count=0 if=raw of=x",
        "dd -f raw bs=1000 if=odd of=x",
        "dd -f raw bs=1000 count=1 if=odd of=x",
        "dd -f raw bs=1000 skip=1 if=odd of=x",
        "dd -f raw -O qcow2 bs=700 count=1 if=odd of=x",
        "dd -f raw -O vpc bs=1M count=2 if=raw of=x",
        "dd -f raw -O vdi bs=1M count=2 if=raw of=x",
        "dd -f raw -O vhdx bs=1M count=2 if=raw of=x",
        "dd -f raw -O vmdk bs=1M count=2 if=raw of=x",
        "dd --image-opts -O raw if=driver=qcow2,file.filename=qcow2 of=x",
        "dd -f raw -- if=odd if=raw of=odd of=x",
    ] {
        lab.writes("x", &words(line));
    }
    // what lies beyond the end is told, and is no failure
    for line in ["dd -f raw skip=99999 if=raw of=x", "dd -f raw skip=5 count=3 if=raw of=x"] {
        let (theirs, ours) = (lab.theirs(&words(line)), lab.ours(&words(line)));
        assert_eq!((ours.code, &ours.stderr), (theirs.code, &theirs.stderr), "{line}");
        assert_eq!(std::fs::metadata(lab.path("x")).unwrap().len(), 0);
    }
    // there the input is gone then
    lab.refused(&words("dd -f raw if=raw of=raw"), 1, &["is the image that is read"]);
    assert_eq!(std::fs::metadata(lab.path("raw")).unwrap().len(), 3 << 20);
}

#[test]
fn what_proxmox_adds_writes_what_is_meant() {
    let Some(lab) = Lab::new() else { return };
    lab.raw("raw");
    lab.image("qcow2", "qcow2", &[]);
    let source = std::fs::read(lab.path("raw")).unwrap();
    let read = |name: &str| std::fs::read(lab.path(name)).unwrap();
    // to standard output
    for line in ["dd -f qcow2 if=qcow2", "dd -f qcow2 -O raw bs=1M if=qcow2 of=/dev/stdout"] {
        let mut command = std::process::Command::new(lab.path("bin/qemu-img"));
        let told = ran(command.args(words(line)).current_dir(lab.folder())).ok();
        assert!(told.stdout == source, "{line}");
    }
    let line = words("dd -f raw -O raw isize=3M if=/dev/stdin of=/dev/stdout");
    assert!(lab.ours_fed(&source, &line).ok().stdout == source);
    // a size of its own
    lab.ours(&words("dd -f qcow2 osize=1M if=qcow2 of=x")).ok();
    assert!(read("x") == source[..1 << 20]);
    lab.ours(&words("dd -f qcow2 osize=4M isize=3M if=qcow2 of=x")).ok();
    assert!(read("x")[..3 << 20] == source[..] && read("x")[3 << 20..] == [0; 1 << 20]);
    lab.refused(&words("dd -f qcow2 osize=4M if=qcow2 of=y"), 1, &["3145728 bytes", "isize"]);
    // into what exists: a file, and an image of the same layout
    lab.make(&words("create -q -f qcow2 -o cluster_size=4k vol 3M"));
    lab.ours(&words("dd -n -f raw -O qcow2 if=raw of=vol")).ok();
    lab.theirs(&words("compare -f raw -F qcow2 raw vol")).ok();
    let info = lab.theirs(&words("info --output=json vol")).ok().json();
    assert_eq!(info["cluster-size"], 4096);
    std::fs::write(lab.path("small"), [9; 1024]).unwrap();
    lab.refused(&words("dd -n -f raw if=raw of=small"), 1, &["small", "1024"]);
    assert!(read("small") == [9; 1024]);
    // zeros replace what was there
    std::fs::write(lab.path("vol"), vec![9; 2 << 20]).unwrap();
    lab.ours_fed(&[0; 1 << 20], &words("dd -n -f raw isize=1M osize=1536k of=vol")).ok();
    assert!(
        read("vol")[..1536 << 10] == [0; 1536 << 10] && read("vol")[1536 << 10..] == [9; 512 << 10]
    );
    for (line, word) in [
        ("dd -f raw of=y", "Output size must be known"),
        ("dd of=y osize=1M", "-f raw"),
        ("dd -f raw -O qcow2 osize=1M of=y", "reading from stdin"),
        ("dd -f raw -O qcow2 if=raw", "writing to stdout"),
        ("dd -f raw skip=1 osize=1M of=y", "skip"),
        ("dd -n -f raw if=raw of=y", "No such file"),
        ("dd -n -f raw -O vdi if=raw of=raw", "raw"),
        ("dd -f raw osize=x if=raw of=y", "Invalid osize specified: 'x'."),
    ] {
        lab.refused(&words(line), 1, &[word]);
    }
    assert!(!lab.path("y").exists());
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_diskimage"));
    let args = words("--sandbox qemu-img dd -f qcow2 bs=1M skip=1 if=qcow2 of=x");
    ran(command.args(args).current_dir(lab.folder())).ok();
    assert!(read("x") == source[1 << 20..]);
}
