//! Results on stdout: text, JSON, tables.
//!
//! Promises: a write that fails is an error, except when a pipe's reader has gone, which ends the
//! command without a word; a table shows every field in full.

use std::io::{ErrorKind, Write as _};

use comfy_table::{ContentArrangement, Table, presets};

use crate::failure::{Failure, Result};

/// Prints `text` as it is.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = anstream::stdout();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => Failure::closed_pipe(),
        _ => Failure::new(format!("standard output can't be written: {error}")),
    })
}

/// Prints `value` as indented JSON, its fields in the order of their declaration.
pub(crate) fn json(value: &impl serde::Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::new(format!("the facts can't be written as JSON: {error}")))?;
    print(&(text + "\n"))
}

/// `text` with control characters escaped: the name of a file must not command the terminal.
pub(crate) fn plain(text: &str) -> String {
    let escaped = |character: char| -> String {
        if character.is_control() {
            character.escape_default().collect()
        } else {
            character.into()
        }
    };
    text.chars().map(escaped).collect()
}

/// Rows in aligned columns, without lines; the first row may be a heading.
pub(crate) fn table(rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    for row in rows {
        table.add_row(row.iter().map(|cell| plain(cell)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let lines = table.lines().map(|line| line.trim_end().to_string());
    lines.collect::<Vec<_>>().join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_can_not_command_the_terminal() {
        assert_eq!(plain("a\u{1b}[2J\n\u{9b}é"), "a\\u{1b}[2J\\n\\u{9b}é");
        assert!(!table(vec![vec!["\u{1b}]0;x".into()]]).contains('\u{1b}'));
    }

    #[test]
    fn columns_are_aligned_and_nothing_is_cut() {
        let long = "x".repeat(300);
        let rows = vec![
            vec!["FILE".into(), "KIND".into()],
            vec![long.clone(), "raw".into()],
        ];
        let text = table(rows);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[1], format!("{long}  raw"));
        assert_eq!(lines[0].find("KIND"), lines[1].find("raw"));
    }
}
