//! Tests of whole images.

mod build;
mod disks;
mod hosted;
mod links;
