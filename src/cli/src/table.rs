//! Aligned columns, readable at 80.

use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

use crate::escape::printable;

/// Rows below a header, columns two spaces apart; the last column is as long as it is.
pub(crate) fn table<const N: usize>(header: [&str; N], rows: &[[String; N]]) -> String {
    let header = header.map(str::to_owned);
    let rows: Vec<[String; N]> = [&header]
        .into_iter()
        .chain(rows)
        .map(|row| row.each_ref().map(|cell| cell_text(cell)))
        .collect();
    let widths: [usize; N] = std::array::from_fn(|column| {
        rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default()
    });
    rows.iter().map(|row| line(row, &widths)).collect()
}

/// `name  value` lines; a name that repeats is shown once.
pub(crate) fn fields(fields: &[(&str, String)]) -> String {
    let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    let mut before = "";
    let mut text = String::new();
    for (name, value) in fields {
        let shown = if *name == before { "" } else { name };
        text.push_str(&line(&[shown.to_owned(), cell_text(value)], &[width, 0]));
        before = name;
    }
    text
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
