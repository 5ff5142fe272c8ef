//! Tables whose columns align whatever script the cells are in, and bars.
//!
//! Never prints.

use crate::lang::term;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Side to which a column is aligned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Left,
    Right,
}

/// A table under construction.
#[derive(Debug)]
pub struct Table {
    heads: Vec<(String, Side)>,
    rows: Vec<Vec<String>>,
    cell_width_max: usize,
}

/// Columns that a cell of free text may take.
const CELL_WIDTH_MAX: usize = 60;

impl Table {
    /// Columns by their heads; one that begins with `>` is aligned to the right.
    #[must_use]
    pub fn new(heads: &[&str]) -> Self {
        let heads = heads
            .iter()
            .map(|head| match head.strip_prefix('>') {
                Some(head) => (term(head), Side::Right),
                None => (term(head), Side::Left),
            })
            .collect();
        Self { heads, rows: Vec::new(), cell_width_max: CELL_WIDTH_MAX }
    }

    /// Names and values, the values in their whole length.
    #[must_use]
    pub fn facts() -> Self {
        Self { cell_width_max: usize::MAX, ..Self::new(&["", ""]) }
    }

    /// Adds a row.
    pub fn row(&mut self, mut cells: Vec<String>) {
        // The names of facts are the command's own words.
        if let (true, Some(name)) = (self.cell_width_max == usize::MAX, cells.first_mut()) {
            *name = term(name);
        }
        self.rows.push(cells.iter().map(|cell| fit(&one_line(cell), self.cell_width_max)).collect());
    }

    /// Whether there is no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The text, one line a row, without spaces at the ends of lines.
    #[must_use]
    pub fn render(&self) -> String {
        let heads: Vec<String> = self.heads.iter().map(|(head, _)| head.clone()).collect();
        let has_heads = heads.iter().any(|head| !head.is_empty());
        let lines: Vec<&Vec<String>> = has_heads.then_some(&heads).into_iter().chain(&self.rows).collect();
        let width = |column: usize| lines.iter().filter_map(|row| row.get(column)).map(|cell| cell.width()).max();
        let widths: Vec<usize> = (0..heads.len()).map(|column| width(column).unwrap_or(0)).collect();
        let mut text = String::new();
        for row in lines {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                let space = " ".repeat(widths[column].saturating_sub(cell.width()));
                match self.heads[column].1 {
                    Side::Left => line.extend([cell.as_str(), &space]),
                    Side::Right => line.extend([&space, cell.as_str()]),
                }
                line.push_str("  ");
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// A cell has no line breaks and no control characters, so that no text from a corpus draws on the terminal.
#[must_use]
pub fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Cuts a text to `width` columns, with `…` where something was cut.
#[must_use]
pub fn fit(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let (mut cut, mut used) = (String::new(), 0);
    for c in text.chars() {
        let w = c.width().unwrap_or(0);
        if used + w + 1 > width {
            break;
        }
        cut.push(c);
        used += w;
    }
    cut.push('…');
    cut
}

/// A bar of `width` columns; `share` is 0 to 1.
#[must_use]
pub fn bar(share: f64, width: usize) -> String {
    const EIGHTHS: [char; 8] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];
    let share = if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.0 };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a few columns"
    )]
    let eighths = (share * (width * 8) as f64).floor() as usize;
    let mut text = "█".repeat(eighths / 8);
    if eighths / 8 < width {
        let part = EIGHTHS[eighths % 8];
        text.push(if part == ' ' { '·' } else { part });
        text.push_str(&"·".repeat(width - eighths / 8 - 1));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_in_every_script() {
        let mut table = Table::new(&["label", ">tokens"]);
        table.row(vec!["日本語 法律".into(), "1.2 M".into()]);
        table.row(vec!["perl".into(), "800 K".into()]);
        let text = table.render();
        let columns: Vec<usize> = text.lines().map(UnicodeWidthStr::width).collect();
        assert_eq!(columns, [19, 19, 19], "{text}");
        assert!(text.lines().all(|line| line == line.trim_end()));
    }

    #[test]
    fn a_cell_cannot_draw_on_the_terminal() {
        let mut table = Table::new(&["a"]);
        table.row(vec!["\u{1b}[2Jx\ny".into()]);
        assert_eq!(table.render(), "a\n [2Jx y\n");
    }

    #[test]
    fn a_long_text_is_cut_at_a_column_not_in_a_character() {
        assert_eq!(fit("日本語", 5), "日本…");
        assert_eq!(fit("日本語", 6), "日本語");
        assert_eq!(fit("abcdef", 4), "abc…");
    }

    #[test]
    fn a_bar_is_as_wide_as_asked() {
        for share in [0.0, 0.01, 0.5, 0.99, 1.0, 7.0, f64::NAN] {
            assert_eq!(bar(share, 10).chars().count(), 10, "{share}");
        }
        assert_eq!(bar(0.5, 4), "██··");
    }
}
