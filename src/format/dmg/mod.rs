//! Apple disk images (UDIF, `.dmg`): chunks of sectors, each stored as it is or compressed, and tables
//! of them as resources at the end of the file.

mod blocks;
mod check;
mod describe;
mod header;
mod layer;
pub mod layout;
mod resources;

pub use blocks::{Blocks, Chunk, Kind, Table};
pub use header::{Checksum, Header};
pub use layer::DmgLayer;
