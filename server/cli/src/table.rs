//! Tables whose columns align whatever script the cells are in, and bars.
//!
//! Never prints.

use crate::{
    cell::Cell,
    lang::{own, term},
};
use senmon_protocol::{said, said::expected::quoted};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// How tables are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// Columns of the terminal; nothing is cut without it.
    pub width: Option<usize>,
    /// Whether the first line names the columns.
    pub head: bool,
    /// Whether numbers are digits alone, for scripts.
    pub plain: bool,
    /// These columns only, in this order; all where there is none.
    pub columns: &'static [String],
}

impl Look {
    /// For people, whatever the width.
    pub const WIDE: Self = Self { width: None, head: true, plain: false, columns: &[] };
}

/// What a column holds, as its head says: `>` numbers, `=` what is of use only whole (an id, a time), else free text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Whole,
    Number,
}

/// A table under construction.
#[derive(Debug)]
pub struct Table {
    heads: Vec<(String, Kind)>,
    rows: Vec<Vec<Cell>>,
    cell_width_max: usize,
}

/// Columns that a cell of free text may take.
const CELL_WIDTH_MAX: usize = 60;
/// A cell of free text is cut to no less.
const CELL_WIDTH_MIN: usize = 8;
/// Spaces between two columns.
const GAP: usize = 2;

impl Table {
    /// Columns by their heads; one that begins with `>` is aligned to the right, one with `=` is never cut.
    #[must_use]
    pub fn new(heads: &[&str]) -> Self {
        let kind = |head: &&str| match (head.strip_prefix('>'), head.strip_prefix('=')) {
            (Some(head), _) => (head.to_owned(), Kind::Number),
            (None, Some(head)) => (head.to_owned(), Kind::Whole),
            (None, None) => ((*head).to_owned(), Kind::Text),
        };
        Self { heads: heads.iter().map(kind).collect(), rows: Vec::new(), cell_width_max: CELL_WIDTH_MAX }
    }

    /// Names and values, the values in their whole length.
    #[must_use]
    pub fn facts() -> Self {
        Self { cell_width_max: usize::MAX, ..Self::new(&["", ""]) }
    }

    /// Adds a row.
    pub fn row<C: Into<Cell>>(&mut self, cells: Vec<C>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    /// Whether there is no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The text for people, one line a row, without spaces at the ends of lines.
    #[must_use]
    pub fn render(&self) -> String {
        let all: Vec<usize> = (0..self.heads.len()).collect();
        self.write(&all, &Look::WIDE)
    }

    /// The same, no wider than the terminal where cutting free text makes that possible.
    #[must_use]
    pub fn render_in(&self, width: Option<usize>) -> String {
        let all: Vec<usize> = (0..self.heads.len()).collect();
        self.write(&all, &Look { width, ..Look::WIDE })
    }

    /// The text as it was asked for.
    ///
    /// # Errors
    /// When there is no column of that name, with those that there are.
    pub fn render_as(&self, look: &Look) -> Result<String, String> {
        let named = |wanted: &String| {
            let plain = |text: &str| text.trim().to_lowercase().replace(['-', '_'], " ");
            self.heads.iter().position(|(head, _)| plain(head) == plain(wanted)).ok_or_else(|| {
                let all: Vec<&str> = self.heads.iter().map(|(head, _)| head.as_str()).collect();
                own(&said!("columns_unknown", found = quoted(wanted), all = all))
            })
        };
        let chosen = match look.columns {
            [] => (0..self.heads.len()).collect(),
            columns => columns.iter().map(named).collect::<Result<Vec<_>, _>>()?,
        };
        Ok(self.write(&chosen, look))
    }

    fn write(&self, chosen: &[usize], look: &Look) -> String {
        let cell_max = if look.plain { usize::MAX } else { self.cell_width_max };
        // Scripts read the columns by their English names.
        let own = |text: &str| if look.plain { text.to_owned() } else { term(text) };
        let names_facts = self.cell_width_max == usize::MAX;
        let cell = |row: &Vec<Cell>, column: usize| {
            let text = row.get(column).map_or_else(String::new, |cell| one_line(cell.text(look.plain)));
            // The names of facts are the command's own words.
            fit(&if names_facts && column == 0 { own(&text) } else { text }, cell_max)
        };
        let heads: Vec<String> = chosen.iter().map(|column| own(&self.heads[*column].0)).collect();
        let has_heads = look.head && heads.iter().any(|head| !head.is_empty());
        let rows = self.rows.iter().map(|row| chosen.iter().map(|column| cell(row, *column)).collect());
        let lines: Vec<Vec<String>> = has_heads.then_some(heads).into_iter().chain(rows).collect();
        let kind = |place: usize| self.heads[chosen[place]].1;
        let head_widths: Vec<usize> = chosen.iter().map(|column| own(&self.heads[*column].0).width()).collect();
        let width = |place: usize| lines.iter().map(|line| line[place].width()).max().unwrap_or(0);
        let mut widths: Vec<usize> = (0..chosen.len()).map(width).collect();
        if let Some(whole) = look.width {
            let least = |place: usize| match kind(place) {
                Kind::Text => Some(CELL_WIDTH_MIN.max(head_widths[place])),
                Kind::Whole | Kind::Number => None,
            };
            narrow(&mut widths, &(0..chosen.len()).map(least).collect::<Vec<_>>(), whole);
        }
        let mut text = String::new();
        for line in lines {
            let mut written = String::new();
            for (place, cell) in line.iter().enumerate() {
                let cell = fit(cell, widths[place]);
                let space = " ".repeat(widths[place].saturating_sub(cell.width()));
                match kind(place) {
                    Kind::Text | Kind::Whole => written.extend([cell.as_str(), &space]),
                    Kind::Number => written.extend([&space, cell.as_str()]),
                }
                written.push_str(&" ".repeat(GAP));
            }
            text.push_str(written.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Makes a table no wider than `whole`: the widest column gives first, none below its least, and those without a least
/// never.
fn narrow(widths: &mut [usize], least: &[Option<usize>], whole: usize) {
    let gaps = GAP * widths.len().saturating_sub(1);
    while widths.iter().sum::<usize>() + gaps > whole {
        let gives = (0..widths.len()).filter(|place| least[*place].is_some_and(|least| widths[*place] > least));
        let Some(widest) = gives.max_by_key(|place| widths[*place]) else { return };
        widths[widest] -= 1;
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

/// Lines of a terminal `width` columns wide that a line takes when it wraps.
#[must_use]
pub fn display_lines(line: &str, width: usize) -> usize {
    line.width().div_ceil(width.max(1)).max(1)
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
    use crate::cell;
    use proptest::prelude::*;

    #[test]
    fn columns_align_in_every_script() {
        let mut table = Table::new(&["label", ">tokens"]);
        table.row(vec!["日本語 法律", "1.2 M"]);
        table.row(vec!["perl", "800 K"]);
        let text = table.render();
        let columns: Vec<usize> = text.lines().map(UnicodeWidthStr::width).collect();
        assert_eq!(columns, [19, 19, 19], "{text}");
        assert!(text.lines().all(|line| line == line.trim_end()));
    }

    #[test]
    fn a_cell_cannot_draw_on_the_terminal() {
        let mut table = Table::new(&["a"]);
        table.row(vec!["\u{1b}[2Jx\ny"]);
        assert_eq!(table.render(), "a\n [2Jx y\n");
    }

    #[test]
    fn a_long_text_is_cut_at_a_column_not_in_a_character() {
        assert_eq!(fit("日本語", 5), "日本…");
        assert_eq!(fit("日本語", 6), "日本語");
        assert_eq!(fit("abcdef", 4), "abc…");
    }

    fn sample() -> Table {
        let mut table = Table::new(&["=id", "name", ">vs dense", "why"]);
        let why = "a sentence that goes on for far longer than anybody's terminal is wide";
        table.row::<Cell>(vec!["0192aaaa-0000".into(), "demo".into(), cell::percent_signed(-3.2), why.into()]);
        table
    }

    #[test]
    fn a_table_fits_the_terminal_and_no_number_is_cut() {
        let text = sample().render_in(Some(50));
        assert!(text.lines().all(|line| line.width() <= 50), "{text}");
        assert!(text.contains("0192aaaa-0000") && text.contains("−3.2 %") && text.contains('…'), "{text}");
        // Where nothing is left to give, the numbers stay.
        assert!(sample().render_in(Some(5)).contains("−3.2 %"));
    }

    #[test]
    fn columns_are_chosen_by_name_in_their_order() {
        let columns: &'static [String] = Box::leak(Box::new(["vs-dense".to_owned(), "NAME".to_owned()]));
        let look = Look { head: false, plain: true, columns, ..Look::WIDE };
        assert_eq!(sample().render_as(&look).unwrap(), "-3.2  demo\n");
        let none: &'static [String] = Box::leak(Box::new(["size".to_owned()]));
        let why = sample().render_as(&Look { columns: none, ..look }).unwrap_err();
        assert!(why.contains("\"size\"") && why.contains("id, name, vs dense, why"), "{why}");
    }

    #[test]
    fn a_script_gets_whole_cells() {
        let text = sample().render_as(&Look { plain: true, ..Look::WIDE }).unwrap();
        assert!(text.contains("terminal is wide"), "{text}");
    }

    #[test]
    fn wrapped_lines_are_counted() {
        assert_eq!(
            [("", 10), ("abc", 3), ("abcd", 3), ("日本語", 4)].map(|(line, w)| display_lines(line, w)),
            [1, 1, 2, 2]
        );
    }

    proptest! {
        #[test]
        fn a_table_is_narrowed_as_far_as_its_least_widths_allow(
            columns in proptest::collection::vec((0_usize..80, proptest::option::of(0_usize..20)), 0..9),
            whole in 0_usize..200,
        ) {
            let before: Vec<usize> = columns.iter().map(|column| column.0).collect();
            let least: Vec<Option<usize>> = columns.iter().map(|column| column.1).collect();
            let mut widths = before.clone();
            narrow(&mut widths, &least, whole);
            let total = widths.iter().sum::<usize>() + GAP * widths.len().saturating_sub(1);
            let stuck = widths.iter().zip(&least).all(|(width, least)| least.is_none_or(|least| *width <= least));
            prop_assert!(total <= whole || stuck);
            for ((before, after), least) in before.iter().zip(&widths).zip(&least) {
                prop_assert!(after <= before);
                prop_assert!(after == before || least.is_some_and(|least| *after >= least));
            }
        }
    }

    #[test]
    fn a_bar_is_as_wide_as_asked() {
        for share in [0.0, 0.01, 0.5, 0.99, 1.0, 7.0, f64::NAN] {
            assert_eq!(bar(share, 10).chars().count(), 10, "{share}");
        }
        assert_eq!(bar(0.5, 4), "██··");
    }
}
