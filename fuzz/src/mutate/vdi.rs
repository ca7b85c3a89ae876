//! VDI: header and block map.

use super::{Fields, le};

pub(super) fn fields(image: &[u8], fields: &mut Fields) {
    fields.header(0x40, false, &[4, 2, 2, 4, 4, 4]);
    // offBlocks to cBlocksAllocated, the four UUIDs, the second geometry
    fields.header(0x154, false, &[4, 4, 4, 4, 4, 4, 4, 8, 4, 4, 4, 4]);
    fields.header(0x188, false, &[8; 8]);
    fields.header(0x1c8, false, &[4; 4]);
    let count = le(image, 0x180, 4).min(1 << 16);
    fields.table(le(image, 0x154, 4), 4, count, false);
}
