//! Partition tables, as they lie on a disk: what `check` holds against the disk and what
//! [`contents`](crate::contents) lists.

pub(crate) mod gpt;
pub(crate) mod mbr;
