//! A picture as SVG 1.1: plain shapes and texts, no script, no link, nothing from elsewhere.

use std::fmt::Write;
use std::path::Path;

use diskimage::target::FileTarget;
use diskimage::text::xml;
use diskimage::{Chain, Result, Target};

use super::{Cell, Grid, Kind, LAYERS, exact, shortened};
use crate::image;
use crate::size::human_size;

/// From one cell to the next, and how much of that is its own.
const PITCH: usize = 12;
const HEIGHT: f64 = 10.0;
/// What is in a cell at all is at least so high.
const VISIBLE: f64 = 3.0;
/// What stands left of the cells.
const MARGIN: usize = 92;
const COLUMNS: usize = 64;
const ROWS: usize = 64;
const LINE: usize = 18;

/// How many columns and rows a picture of this form has.
pub(crate) const SHAPE: (usize, usize) = (COLUMNS, ROWS);

/// Colours that differ in lightness too, and for eyes that see no red or green (after Okabe and Ito).
const KINDS: [&str; Kind::ALL.len()] = ["#0072b2", "#e69f00", "#6b6b6b", "#b8b8b8", "#ececec"];
const NOTHING: &str = "#ececec";
const IMAGES: [&str; LAYERS] =
    ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#000000"];

/// Writes the picture into a new file, which is there only when it is whole.
pub(crate) fn write(grid: &Grid, path: &Path, disk: &Chain) -> Result<()> {
    let text = picture(grid);
    let target = FileTarget::create(path, text.len() as u64)?;
    image::refuse_own_source(&target, path, disk.storages())?;
    target.write_at(text.as_bytes(), 0)?;
    Box::new(target).finish()
}

fn picture(grid: &Grid) -> String {
    let rows = grid.cells.len().div_ceil(grid.columns).max(1);
    let panel = rows * PITCH;
    let width = MARGIN + grid.columns * PITCH + 20;
    let mut page = Page { out: String::new(), y: 30 };
    page.text(16, 16, true, &shortened(&grid.title, 90));
    page.text(16, 12, false, &grid.about);
    let cell = human_size(grid.cell);
    let row = human_size(grid.cell.saturating_mul(grid.columns as u64));
    page.text(16, 12, false, &format!(
        "Each cell is {cell} of the disk, each row {row}. What is in a cell at all is at least a \
         fifth as high as it, however little."
    ));
    page.y += LINE;
    page.axis(grid);
    page.panel(grid, panel, KINDS.len(), &|cell, index| {
        let kind = KINDS.len() - 1 - index;
        (KINDS[kind], cell.kinds[kind])
    });
    for ((kind, sum), colour) in Kind::ALL.iter().zip(grid.kinds).zip(KINDS) {
        let (word, meaning) = (kind.word(), kind.meaning());
        page.legend(colour, &format!("{word} ({meaning}): {}", grid.amount(sum)));
    }
    if grid.is_chain() {
        page.y += LINE;
        page.text(16, 14, true, "Which image of the chain has it");
        page.y += LINE / 2;
        page.axis(grid);
        page.panel(grid, panel, LAYERS + 1, &|cell, index| match LAYERS.checked_sub(index) {
            Some(LAYERS) => (NOTHING, cell.kinds[Kind::Unallocated as usize]),
            Some(layer) => (IMAGES[layer], cell.layers[layer]),
            None => (NOTHING, 0),
        });
        for (depth, source) in grid.sources.iter().enumerate() {
            let (name, format) = (shortened(&source.name, 60), source.format);
            let colour = IMAGES[depth.min(LAYERS - 1)];
            let amount = grid.amount(source.sum);
            page.legend(colour, &format!("{depth}: {name} ({format}): {amount}"));
        }
        let nobody = grid.amount(grid.kinds[Kind::Unallocated as usize]);
        page.legend(NOTHING, &format!("no image: {nobody}"));
    }
    let height = page.y + LINE;
    let title = xml(&format!("Map of {}", grid.title));
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" fill=\"#000\">\n\
         <title>{title}</title>\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>\n{}</svg>\n",
        page.out
    )
}

struct Page {
    out: String,
    /// Where the next line of text stands.
    y: usize,
}

impl Page {
    fn push(&mut self, line: std::fmt::Arguments<'_>) {
        // writing to a String cannot fail
        let _ = writeln!(self.out, "{line}");
    }

    fn text(&mut self, x: usize, size: usize, bold: bool, text: &str) {
        let weight = if bold { " font-weight=\"bold\"" } else { "" };
        let (y, text) = (self.y, xml(text));
        self.push(format_args!(
            "<text x=\"{x}\" y=\"{y}\" font-size=\"{size}\"{weight}>{text}</text>"
        ));
        self.y += LINE + size / 4;
    }

    /// What the columns stand for, a quarter of a row each.
    fn axis(&mut self, grid: &Grid) {
        let quarter = grid.columns / 4;
        for index in 0..4 {
            let x = MARGIN + index * quarter * PITCH;
            let (y, cells) = (self.y, (index * quarter) as u64);
            let size = human_size(grid.cell.saturating_mul(cells));
            self.push(format_args!("<text x=\"{x}\" y=\"{y}\" font-size=\"11\">+{size}</text>"));
        }
        self.y += 6;
    }

    /// All cells, and what their rows start with. `part` gives the colour and the bytes of a part
    /// of a cell, the uppermost first.
    fn panel(
        &mut self,
        grid: &Grid,
        height: usize,
        parts: usize,
        part: &dyn Fn(&Cell, usize) -> (&'static str, u64),
    ) {
        let (top, right) = (self.y, MARGIN + grid.columns * PITCH);
        let mut paths: Vec<(&str, String)> = Vec::new();
        // so that at most 16 rows are labelled
        let every = grid.cells.len().div_ceil(grid.columns).div_ceil(16).next_power_of_two();
        for (index, (start, cells)) in grid.rows().enumerate() {
            let y = top + index * PITCH;
            if index % every == 0 {
                let (x, base, size) = (MARGIN - 8, y + 10, exact(start));
                self.push(format_args!(
                    "<text x=\"{x}\" y=\"{base}\" font-size=\"11\" text-anchor=\"end\">{size}</text>"
                ));
            }
            let bars: Vec<_> = cells
                .iter()
                .map(|cell| bars((0..parts).map(|index| part(cell, index)).collect()))
                .collect();
            let mut column = 0;
            for same in bars.chunk_by(|a, b| a == b) {
                let (x, width) = (MARGIN + column * PITCH, same.len() * PITCH);
                column += same.len();
                for &(colour, from, high) in same.first().into_iter().flatten() {
                    let from = (y * 100 + 100 + from) as f64 / 100.0;
                    let high = high as f64 / 100.0;
                    let shape = format!("M{x} {from}h{width}v{high}h-{width}z");
                    match paths.iter_mut().find(|(other, _)| *other == colour) {
                        Some((_, path)) => path.push_str(&shape),
                        None => paths.push((colour, shape)),
                    }
                }
            }
        }
        for (colour, path) in paths {
            self.push(format_args!("<path fill=\"{colour}\" d=\"{path}\"/>"));
        }
        // what is between the cells
        let lines: String = (0..=grid.columns)
            .map(|column| format!("M{} {top}v{height}", MARGIN + column * PITCH))
            .collect();
        self.push(format_args!("<path stroke=\"#fff\" stroke-width=\"2\" d=\"{lines}\"/>"));
        let frame = right - MARGIN;
        self.push(format_args!(
            "<rect x=\"{MARGIN}\" y=\"{top}\" width=\"{frame}\" height=\"{height}\" fill=\"none\" \
             stroke=\"#888\"/>"
        ));
        self.y += height + LINE + 4;
    }

    fn legend(&mut self, colour: &str, text: &str) {
        let (x, y) = (MARGIN, self.y - 10);
        self.push(format_args!(
            "<rect x=\"{x}\" y=\"{y}\" width=\"12\" height=\"12\" fill=\"{colour}\" \
             stroke=\"#888\"/>"
        ));
        self.text(MARGIN + 20, 12, false, text);
    }
}

/// Where the parts of a cell begin and how high they are, in hundredths, by their share of the bytes.
fn bars(parts: Vec<(&'static str, u64)>) -> Vec<(&'static str, usize, usize)> {
    let parts: Vec<_> = parts.into_iter().filter(|(_, bytes)| *bytes > 0).collect();
    let all: f64 = parts.iter().map(|(_, bytes)| *bytes as f64).sum();
    let count = parts.len().max(1) as f64;
    let least = VISIBLE.min(HEIGHT / count);
    let (mut from, mut done) = (0, 0.0);
    let mut bars = Vec::with_capacity(parts.len());
    for (colour, bytes) in parts {
        done += least + (HEIGHT - least * count) * bytes as f64 / all;
        let end = (done * 100.0).round() as usize;
        bars.push((colour, from, end - from));
        from = end;
    }
    bars
}

#[cfg(test)]
mod tests {
    use super::super::tests::{extent, grid};
    use super::*;

    #[test]
    fn what_is_in_a_cell_at_all_is_seen() {
        let seen = bars(vec![("a", 1), ("b", u64::MAX / 2), ("c", 0), ("d", 1)]);
        assert_eq!(seen, [("a", 0, 300), ("b", 300, 400), ("d", 700, 300)]);
        // of many parts none is lost, and all fill the cell
        let many = bars((0..9).map(|index| ("x", 1 << (index * 7))).collect());
        assert!(many.iter().all(|(_, _, high)| *high >= 100));
        assert_eq!(many.iter().map(|(_, _, high)| high).sum::<usize>(), 1000);
    }

    #[test]
    fn any_name_is_text() {
        let hostile = "</text><script>alert('1')</script>&\u{1b}\u{ffff}]]>\"";
        let mut grid = grid(1 << 20, 64, 64, 3);
        grid.title = hostile.to_owned();
        grid.sources[1].name = hostile.to_owned();
        let text = picture(&grid);
        let parsed = roxmltree::Document::parse(&text).unwrap();
        assert!(parsed.descendants().all(|node| !node.has_tag_name("script")));
        let shown = "</text><script>alert('1')</script>&\u{fffd}\u{fffd}]]>\"";
        let texts: Vec<_> =
            parsed.descendants().filter(|n| n.is_text()).filter_map(|n| n.text()).collect();
        assert_eq!(texts.iter().filter(|text| text.contains(shown)).count(), 3, "{texts:?}");
    }

    #[test]
    fn a_picture_of_any_disk_is_of_one_size() {
        for size in [0, 1, 1 << 20, 64 << 40, u64::MAX] {
            let mut grid = grid(size, COLUMNS, ROWS, 1);
            let step = (size / 20_000).max(1);
            let mut at = 0;
            while at < size {
                let length = step.min(size - at);
                let kind = Kind::ALL[(at / step % 5) as usize];
                grid.add(&extent(at, length, 0, kind));
                at += length;
            }
            let text = picture(&grid);
            assert!(text.len() < 600 << 10, "{size}: {}", text.len());
            roxmltree::Document::parse(&text).unwrap();
        }
    }
}
