//! A picture in characters: what they mean does not hang on their colours.

use std::io::{self, Write};

use anstyle::AnsiColor;

use super::{Cell, Grid, Kind, LAYERS, exact, shortened};
use crate::size::human_size;
use crate::style::{coloured, heading};

const ROWS: usize = 16;
/// What stands left of the cells, and right.
const FRAME: usize = 12;

const IMAGES: [AnsiColor; LAYERS] = [
    AnsiColor::Blue,
    AnsiColor::Yellow,
    AnsiColor::Green,
    AnsiColor::Magenta,
    AnsiColor::Cyan,
    AnsiColor::Red,
    AnsiColor::White,
    AnsiColor::BrightBlack,
];

/// How many columns and rows fit on a terminal of this width.
pub(crate) fn shape(width: usize) -> (usize, usize) {
    let mut columns = 128;
    while columns > 8 && columns + FRAME > width {
        columns /= 2;
    }
    (columns, ROWS)
}

/// Prints the picture and what is to be known of it.
pub(crate) fn print(grid: &Grid, width: usize, out: &mut impl Write) -> io::Result<()> {
    let cell = human_size(grid.cell);
    let row = human_size(grid.cell.saturating_mul(grid.columns as u64));
    writeln!(out, "{}", heading(&grid.title))?;
    writeln!(out, "{}", grid.about)?;
    writeln!(
        out,
        "each character is {cell} of the disk, each line {row}; what is stored is shown"
    )?;
    writeln!(
        out,
        "wherever there is any of it, zeros that an image speaks of before other ones\n"
    )?;
    panel(grid, out, kind_of)?;
    writeln!(out)?;
    for (kind, sum) in Kind::ALL.into_iter().zip(grid.kinds) {
        let (full, few) = glyphs(kind);
        let sign = if full == few { full.to_string() } else { format!("{full}{few}") };
        let sign = coloured(format!("{sign:>2}"), colour(kind));
        writeln!(out, "{sign}  {:<12}{}", kind.word(), grid.amount(sum))?;
    }
    let dense = Kind::ALL.into_iter().filter(|kind| glyphs(*kind).0 != glyphs(*kind).1);
    let dense: Vec<_> = dense
        .map(|kind| {
            let (full, few) = glyphs(kind);
            format!("{full} half of it or more, {few} less")
        })
        .collect();
    writeln!(out, "    {}", dense.join("; "))?;
    if !grid.is_chain() {
        return Ok(());
    }
    writeln!(out, "\n{}", heading("the first image of the chain that has any of it"))?;
    panel(grid, out, layer_of)?;
    writeln!(out)?;
    for (depth, source) in grid.sources.iter().enumerate() {
        let (sign, colour) = image(depth);
        let sign = coloured(format!("{sign:>2}"), colour);
        let name = shortened(&source.name, width.saturating_sub(20).max(20));
        writeln!(out, "{sign}  {name} ({})\n    {}", source.format, grid.amount(source.sum))?;
    }
    Ok(())
}

/// A line for each row of cells.
fn panel(
    grid: &Grid,
    out: &mut impl Write,
    look: impl Fn(&Cell) -> (char, AnsiColor),
) -> io::Result<()> {
    for (start, cells) in grid.rows() {
        write!(out, "{:>10} ", exact(start))?;
        let looks: Vec<_> = cells.iter().map(&look).collect();
        for same in looks.chunk_by(|a, b| a.1 == b.1) {
            let text: String = same.iter().map(|(sign, _)| sign).collect();
            let colour = same.first().map_or(AnsiColor::White, |(_, colour)| *colour);
            write!(out, "{}", coloured(text, colour))?;
        }
        writeln!(out)?;
    }
    Ok(())
}

/// What a cell shows of what is in it.
fn kind_of(cell: &Cell) -> (char, AnsiColor) {
    let [data, compressed, ..] = cell.kinds;
    let all: u64 = cell.kinds.iter().sum();
    let kind = match (data, compressed) {
        (0, 0) => Kind::ALL.into_iter().find(|kind| cell.kinds[*kind as usize] > 0),
        _ if compressed > data => Some(Kind::Compressed),
        _ => Some(Kind::Data),
    };
    let kind = kind.unwrap_or(Kind::Unallocated);
    let (full, few) = glyphs(kind);
    let is_full = cell.kinds[kind as usize] >= all.div_ceil(2);
    (if is_full { full } else { few }, colour(kind))
}

/// The sign of a cell that is full of it, and that of one that has less.
fn glyphs(kind: Kind) -> (char, char) {
    match kind {
        Kind::Data => ('█', '▄'),
        Kind::Compressed => ('▓', '░'),
        Kind::Zero => ('0', '0'),
        Kind::Hole => ('_', '_'),
        Kind::Unallocated => ('·', '·'),
    }
}

fn colour(kind: Kind) -> AnsiColor {
    match kind {
        Kind::Data => AnsiColor::Blue,
        Kind::Compressed => AnsiColor::Yellow,
        Kind::Zero => AnsiColor::Cyan,
        Kind::Hole | Kind::Unallocated => AnsiColor::BrightBlack,
    }
}

fn layer_of(cell: &Cell) -> (char, AnsiColor) {
    match cell.layers.iter().position(|&bytes| bytes > 0) {
        Some(depth) => image(depth),
        None => ('·', AnsiColor::BrightBlack),
    }
}

fn image(depth: usize) -> (char, AnsiColor) {
    let depth = depth.min(LAYERS - 1);
    let sign = char::from_digit(depth as u32, 10).filter(|_| depth < LAYERS - 1);
    (sign.unwrap_or('+'), IMAGES[depth])
}

#[cfg(test)]
mod tests {
    use super::super::tests::{extent, grid};
    use super::*;

    fn printed(grid: &Grid) -> String {
        let mut out = Vec::new();
        print(grid, 80, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn what_is_stored_is_seen_however_little_it_is() {
        let size = 64 << 40;
        let mut grid = grid(size, 64, ROWS, 2);
        for (start, kind) in [(0, Kind::Data), (1 << 40, Kind::Compressed), (2 << 40, Kind::Zero)] {
            grid.add(&extent(start, 1, 1, kind));
            grid.add(&extent(start + 1, (1 << 40) - 1, 0, Kind::Unallocated));
        }
        let text = printed(&grid);
        let rows: Vec<_> = text.lines().filter(|line| line.contains('·')).collect();
        assert!(rows[0].starts_with("       0 B ▄···············░···············0"), "{text}");
        assert!(rows.iter().any(|row| row.contains(" 1···············1···")), "{text}");
    }

    #[test]
    fn it_fits_the_terminal() {
        for width in [0, 20, 40, 80, 100, 200, 500] {
            let (columns, _) = shape(width);
            assert!(columns == 8 || columns + FRAME <= width, "{width}: {columns}");
        }
        assert_eq!((shape(80).0, shape(139).0, shape(140).0), (64, 64, 128));
    }
}
