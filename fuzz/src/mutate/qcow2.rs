//! QCOW2: header, extensions, tables, snapshots, bitmaps.

use super::{Fields, be};

pub(super) fn fields(image: &[u8], fields: &mut Fields) {
    // magic to snapshots_offset, then what version 3 has more, and compression_type
    fields.header(4, true, &[4, 8, 4, 4, 8, 4, 4, 8, 8, 4, 4, 8]);
    fields.header(72, true, &[8, 8, 8, 4, 4, 1]);
    let cluster = 1u64 << be(image, 20, 4).clamp(9, 21);
    let is_extended = be(image, 72, 8) & 1 << 4 != 0 && be(image, 4, 4) >= 3;
    let entry = if is_extended { 16 } else { 8 };
    extensions(image, fields);
    let l1 = (be(image, 40, 8), be(image, 36, 4));
    l1_table(image, l1, cluster, entry, fields);
    let refcounts = be(image, 48, 8);
    fields.table(refcounts, 8, (be(image, 56, 4) * cluster / 8).min(64), true);
    for index in 0..4 {
        let block = be(image, refcounts.saturating_add(8 * index), 8);
        if block != 0 {
            fields.table(block, 2, cluster.min(512), true);
        }
    }
    let mut at = be(image, 64, 8);
    for _ in 0..be(image, 60, 4).min(8) {
        fields.header(at as usize, true, &[8, 4, 2, 2, 4, 4, 8, 4, 4, 8, 8, 8]);
        let snapshot_l1 = (be(image, at, 8), be(image, at + 8, 4));
        l1_table(image, snapshot_l1, cluster, entry, fields);
        let variable = be(image, at + 12, 2) + be(image, at + 14, 2) + be(image, at + 36, 4);
        at = (at + 40).saturating_add(variable).next_multiple_of(8);
        if at >= image.len() as u64 {
            break;
        }
    }
}

fn l1_table(
    image: &[u8],
    (start, count): (u64, u64),
    cluster: u64,
    entry: u64,
    fields: &mut Fields,
) {
    fields.table(start, 8, count.min(512), true);
    for index in 0..count.min(6) {
        let table = be(image, start.saturating_add(8 * index), 8) & 0x00ff_ffff_ffff_fe00;
        if table != 0 {
            // with extended entries, every other word is a bitmap
            fields.table(table, 8, (cluster / entry * (entry / 8)).min(1024), true);
        }
    }
}

fn extensions(image: &[u8], fields: &mut Fields) {
    let mut at = if be(image, 4, 4) >= 3 { be(image, 100, 4) } else { 72 };
    for _ in 0..16 {
        let kind = be(image, at, 4);
        let length = be(image, at + 4, 4);
        fields.header(at as usize, true, &[4, 4]);
        let data = at + 8;
        match kind {
            0x2385_2875 => {
                fields.header(data as usize, true, &[4, 4, 8, 8]);
                bitmaps(image, be(image, data + 16, 8), be(image, data, 4), fields);
            }
            0x0537_be77 => drop(fields.header(data as usize, true, &[8, 8])),
            0 => break,
            _ => fields.table(data, 1, length.min(64), true),
        }
        at = (data + length).next_multiple_of(8);
        if at >= image.len() as u64 {
            break;
        }
    }
}

fn bitmaps(image: &[u8], mut at: u64, count: u64, fields: &mut Fields) {
    for _ in 0..count.min(4) {
        fields.header(at as usize, true, &[8, 4, 4, 1, 1, 2, 4]);
        fields.table(be(image, at, 8), 8, be(image, at.saturating_add(8), 4).min(64), true);
        let variable = be(image, at.saturating_add(18), 2) + be(image, at.saturating_add(20), 4);
        at = at.saturating_add(24).saturating_add(variable).next_multiple_of(8);
        if at >= image.len() as u64 {
            break;
        }
    }
}
