//! The table in `docs/settings.md` says what the parser accepts, no more and no less.

use rescue_agent::settings::{Key, Settings};

const DOC: &str = include_str!("../../../docs/settings.md");

/// The cells of every row whose first cell is code.
fn rows() -> Vec<Vec<String>> {
    let rows = DOC.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let cells = row.trim_matches('|').split(" | ");
        cells.map(|cell| cell.trim().to_owned()).collect()
    })
    .collect()
}

#[test]
fn every_key_stands_there_with_its_values_and_its_default() {
    let built_in = Settings::default();
    let expected: Vec<Vec<String>> = Key::ALL
        .into_iter()
        .map(|key| {
            let default = match built_in.value(key) {
                empty if empty.is_empty() => "none".to_owned(),
                value => format!("`{value}`"),
            };
            vec![format!("`{key}`"), key.allowed().to_owned(), default]
        })
        .collect();
    let found: Vec<Vec<String>> = rows().into_iter().map(|row| row[..3].to_vec()).collect();
    assert_eq!(found, expected);
}

#[test]
fn every_key_is_explained() {
    for row in rows() {
        assert!(row.len() == 4 && row[3].len() > 10, "{row:?}");
    }
}
