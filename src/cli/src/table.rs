//! Aligned columns, readable at 80: what does not fit is never cut, since it is copied from here.

use identity::SpiffeId;
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

use crate::columns;
use crate::escape::printable;

/// Rows below a header, columns two spaces apart; on a terminal none wider than it is.
pub(crate) fn table<const N: usize>(header: [&str; N], rows: &[[String; N]]) -> String {
    table_within(columns::of_stdout(), header, rows)
}

fn table_within<const N: usize>(
    columns: Option<usize>,
    header: [&str; N],
    rows: &[[String; N]],
) -> String {
    let header = header.map(str::to_owned);
    let rows: Vec<[String; N]> = [&header]
        .into_iter()
        .chain(rows)
        .map(|row| row.each_ref().map(|cell| cell_text(cell)))
        .collect();
    let mut widths: [usize; N] = std::array::from_fn(|column| {
        rows.iter().map(|row| columns::width(&row[column])).max().unwrap_or_default()
    });
    let Some(columns) = columns else {
        return rows.iter().map(|row| line(row, &widths)).collect();
    };
    fit(&mut widths, &header.each_ref().map(|name| columns::width(name)), columns);
    rows.iter().map(|row| lines_within(row, &widths, columns)).collect()
}

/// Takes from columns what a line is too wide, the last first: none is narrower than its name.
fn fit<const N: usize>(widths: &mut [usize; N], least: &[usize; N], columns: usize) {
    let gaps = GAP * (N - 1);
    for column in (0..N).rev() {
        let excess = (widths.iter().sum::<usize>() + gaps).saturating_sub(columns);
        widths[column] = widths[column].saturating_sub(excess).max(least[column]);
    }
}

/// A row; what does not fit into its column stands whole in lines of its own below. Words of the last
/// column go on below each other, where there is room for some.
fn lines_within<const N: usize>(row: &[String; N], widths: &[usize; N], columns: usize) -> String {
    let (last, mut below) = (N - 1, Vec::new());
    let mut shown = row.clone();
    let before: usize = widths[..last].iter().map(|width| width + GAP).sum();
    let words = columns::paragraph(&row[last], widths[last]);
    let is_paragraph = widths[last] >= LEAST_PARAGRAPH
        && words.iter().all(|line| columns::width(line) <= widths[last]);
    let mut continued = Vec::new();
    for (column, cell) in shown.iter_mut().enumerate() {
        if columns::width(cell) <= widths[column] {
            continue;
        }
        if column == last && is_paragraph {
            continued = words[1..].to_vec();
            cell.clone_from(&words[0]);
            continue;
        }
        let mark = if column == last { "" } else { ELSEWHERE };
        let whole = std::mem::replace(cell, mark.to_owned());
        below.extend(columns::paragraph(&whole, columns - BELOW));
    }
    let mut text = line(&shown, widths);
    continued.iter().for_each(|line| text.push_str(&format!("{:before$}{line}\n", "")));
    below.iter().for_each(|line| text.push_str(&format!("{:BELOW$}{line}\n", "")));
    text
}

/// `name  value` lines; a name that repeats is shown once. On a terminal none is wider than it is.
pub(crate) fn fields(fields: &[(&str, String)]) -> String {
    fields_within(columns::of_stdout(), fields)
}

fn fields_within(columns: Option<usize>, fields: &[(&str, String)]) -> String {
    let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    let mut before = "";
    let mut text = String::new();
    for (name, value) in fields {
        let shown = if *name == before { "" } else { name };
        let row = [shown.to_owned(), cell_text(value)];
        match columns {
            Some(columns) => {
                let room = columns.saturating_sub(width + GAP);
                text.push_str(&lines_within(&row, &[width, room], columns));
            }
            None => text.push_str(&line(&row, &[width, 0])),
        }
        before = name;
    }
    text
}

/// Who did something, as short as it is clear: an operator's name, a path, or what the log says else.
pub(crate) fn who(actor: &str) -> String {
    let id = SpiffeId::parse(actor).ok();
    let short = id.as_ref().map(|id| id.operator_name().unwrap_or_else(|| id.path()).to_owned());
    short.unwrap_or_else(|| actor.to_owned())
}

/// A time in RFC 3339, UTC.
pub(crate) fn time(time: OffsetDateTime) -> String {
    time.format(&Rfc3339).unwrap_or_else(|_| time.to_string())
}

/// How far a time is from now, in its two largest units: `in 6d 23h`, `3h 2m ago`, `just now`.
pub(crate) fn distance(time: OffsetDateTime, now: OffsetDateTime) -> String {
    let distance = time - now;
    if distance.whole_seconds() == 0 {
        return "just now".to_owned();
    }
    if distance.is_negative() {
        format!("{} ago", span(distance.abs()))
    } else {
        format!("in {}", span(distance))
    }
}

/// A duration in its two largest units.
pub(crate) fn span(duration: Duration) -> String {
    let seconds = duration.whole_seconds();
    let units = [
        (seconds / 86_400, "d"),
        (seconds / 3_600 % 24, "h"),
        (seconds / 60 % 60, "m"),
        (seconds % 60, "s"),
    ];
    let largest = units.iter().position(|(count, _)| *count > 0).unwrap_or(units.len() - 1);
    let shown: Vec<String> = units[largest..]
        .iter()
        .take(2)
        .enumerate()
        .filter(|(position, (count, _))| *position == 0 || *count > 0)
        .map(|(_, (count, unit))| format!("{count}{unit}"))
        .collect();
    shown.join(" ")
}

fn line<const N: usize>(row: &[String; N], widths: &[usize; N]) -> String {
    let cells: Vec<String> =
        row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
    format!("{}\n", cells.join("  ").trim_end())
}

/// A cell is one line.
fn cell_text(value: &str) -> String {
    printable(value).replace(['\n', '\t'], " ")
}

/// Spaces between columns.
const GAP: usize = 2;
/// Where a cell that does not fit stands, and what says so in its place.
const BELOW: usize = 4;
const ELSEWHERE: &str = "…";
/// Fewer columns than this make a list of words.
const LEAST_PARAGRAPH: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    #[test]
    fn columns_are_aligned_and_lines_have_no_space_at_their_end() {
        let rows = [["8f2c".into(), "valid".into()], ["91".into(), String::new()]];
        assert_eq!(table(["SERIAL", "STATE"], &rows), "SERIAL  STATE\n8f2c    valid\n91\n");
    }

    #[test]
    fn what_does_not_fit_stands_whole_below() {
        let header = ["SERIAL", "STATE", "SPIFFE ID"];
        let serial = "8".repeat(24);
        let (short, long) = ("spiffe://a/b", "spiffe://pay.example/prod/reports");
        let rows = [short, long].map(|id| [serial.clone(), "valid".into(), id.into()]);
        let shown = table_within(Some(48), header, &rows);
        assert_eq!(
            shown,
            format!(
                "SERIAL                    STATE  SPIFFE ID\n{serial}  valid  {short}\n{serial}  \
                 valid\n    {long}\n"
            )
        );
        let rows = [["key".to_owned(), long.to_owned(), "file".to_owned()]];
        let shown = table_within(Some(40), ["KEY", "VALUE", "ORIGIN"], &rows);
        assert_eq!(
            shown,
            format!(
                "KEY  VALUE                        ORIGIN\nkey  …                            file\n    {long}\n"
            )
        );
    }

    #[test]
    fn words_of_the_last_column_go_on_below_each_other() {
        let rows =
            [["passed".to_owned(), "the path leads to an anchor of this trust state".to_owned()]];
        let shown = table_within(Some(40), ["RESULT", "RULE"], &rows);
        assert_eq!(
            shown,
            "RESULT  RULE\npassed  the path leads to an anchor of\n        this trust state\n"
        );
        let fields = [
            ("log", "27 entries, of which none is below a checkpoint".to_owned()),
            ("id", "w".repeat(36)),
        ];
        let word = "w".repeat(36);
        assert_eq!(
            fields_within(Some(40), &fields),
            format!("log  27 entries, of which none is below\n     a checkpoint\nid\n    {word}\n")
        );
    }

    #[test]
    fn repeated_names_are_shown_once_and_values_stay_on_their_line() {
        let shown = fields(&[("dns", "a".into()), ("dns", "b\nc".into()), ("serial", "1".into())]);
        assert_eq!(shown, "dns     a\n        b c\nserial  1\n");
    }

    #[test]
    fn distances_name_their_two_largest_units() {
        let now = datetime!(2026-01-01 0:00 UTC);
        assert_eq!(distance(datetime!(2026-01-07 23:59:59 UTC), now), "in 6d 23h");
        assert_eq!(distance(datetime!(2026-01-02 0:00 UTC), now), "in 1d");
        assert_eq!(distance(datetime!(2025-12-31 20:57:30 UTC), now), "3h 2m ago");
        assert_eq!(distance(now, now), "just now");
    }
}
