//! Examples for the help of each command. A test runs every line that begins with four spaces and
//! `diskimage`, on images of these names.

pub(crate) const ALL: &str = "\
Examples:
    diskimage explain cloud.qcow2
    diskimage info --contents cloud.qcow2
    diskimage convert cloud.qcow2 cloud.raw
    diskimage convert --for azure cloud.qcow2 cloud.vhd
    diskimage convert --help";

pub(crate) const PROBE: &str = "\
Examples:
  What are these?
    diskimage probe cloud.qcow2 disk.raw
  All files below a folder, for a program:
    diskimage probe --recursive --output json .
  What an upload is, by its start:
    diskimage probe - < cloud.qcow2";

pub(crate) const INFO: &str = "\
Examples:
  Format, sizes, and what is odd:
    diskimage info cloud.qcow2
  Partitions and file systems on the disk, for a program:
    diskimage info --contents --output json disk.vmdk
  A whole chain of images; its files are in the same folder:
    diskimage info --backing-chain --allow-external overlay.qcow2
  A disk in an archive:
    diskimage info disks.tar#disk.vmdk";

pub(crate) const MAP: &str = "\
Examples:
  Where data, zeros and holes are, as qemu-img says it:
    diskimage map --output json disk.vmdk
  A picture on the terminal:
    diskimage map --picture=- cloud.qcow2
  A picture of a chain in a file:
    diskimage map --allow-external overlay.qcow2 --picture overlay.svg
  What is in the second MiB:
    diskimage map --start-offset 1M --max-length 1M disk.raw";

pub(crate) const CHECK: &str = "\
Examples:
  Is it whole?
    diskimage check cloud.qcow2
  What would a repair write? Without --dry-run it does:
    diskimage check --repair all --dry-run broken.qcow2
  Several, for a program:
    diskimage check --output json cloud.qcow2 disk.vhd";

pub(crate) const CONVERT: &str = "\
Examples:
  A cloud image as a raw disk:
    diskimage convert cloud.qcow2 cloud.raw
  A raw disk as a small QCOW2:
    diskimage convert -c -O qcow2 -o compression_type=zstd disk.raw small.qcow2
  What Azure takes:
    diskimage convert --for azure cloud.qcow2 cloud.vhd
  The disk of an archive, compressed or not:
    diskimage convert disks.tar#disk.vmdk disk2.raw
  Only what differs from another image:
    diskimage convert -O qcow2 -B cloud.qcow2 disk.raw differences.qcow2
  What can still be read of a damaged one:
    diskimage convert --salvage cloud.qcow2 saved.raw
  To another program:
    diskimage convert cloud.qcow2 - | sha256sum
  The options of a format:
    diskimage convert -O vmdk -o help cloud.qcow2 x.vmdk";

pub(crate) const CREATE: &str = "\
Examples:
  An empty disk of 10 GiB:
    diskimage create -f qcow2 new.qcow2 10G
  One that starts as another disk is:
    diskimage create -f qcow2 -b cloud.qcow2 machine1.qcow2";

pub(crate) const MEASURE: &str = "\
Examples:
  How large would it be as QCOW2, and how large compressed?
    diskimage measure -O qcow2 --compress disk.raw
  How much does an empty VMDK of 100 GiB take?
    diskimage measure -O vmdk --size 100G";

pub(crate) const CHECKSUM: &str = "\
Examples:
  What sha256sum would say of the raw disk:
    diskimage checksum cloud.qcow2
  Several at once, and a list of them checked later:
    diskimage checksum -a sha256 -a blake3 cloud.qcow2 disk.vhd > SUMS
    diskimage checksum --check SUMS
  A manifest of every block, for `compare --manifest`:
    diskimage checksum --blocks 64k cloud.qcow2 > blocks.json";

pub(crate) const COMPARE: &str = "\
Examples:
  Are these the same disk?
    diskimage compare disk.vhd disk.raw
  Every range that differs:
    diskimage compare --all cloud.qcow2 disk.raw
  Is it still what its manifest says?
    diskimage compare --manifest blocks.json cloud.qcow2";

pub(crate) const QEMU_IMG: &str = "\
Examples:
  What a program that calls qemu-img would be told:
    diskimage qemu-img info --output=json -f qcow2 cloud.qcow2
    diskimage qemu-img convert -f qcow2 -O raw -t none cloud.qcow2 cloud.raw
  The backing file may be read:
    diskimage qemu-img convert --allow-external -O qcow2 overlay.qcow2 flat.qcow2
  For programs that look for it by its name:
    ln -s diskimage qemu-img";

pub(crate) const COMPLETIONS: &str = "\
Examples:
    diskimage completions bash > diskimage.bash
    diskimage completions zsh > _diskimage
    diskimage completions fish > diskimage.fish

Where they belong: bash reads ~/.local/share/bash-completion/completions/diskimage, fish \
~/.config/fish/completions/diskimage.fish, zsh any folder that its $fpath names.";

pub(crate) const MAN: &str = "\
Examples:
  To be read at once, where man(1) is man-db's:
    diskimage man convert | man -l -
  All pages, for a package:
    diskimage man --output-dir man1";
