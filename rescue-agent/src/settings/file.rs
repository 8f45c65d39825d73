//! Settings from a TOML file.

use toml::de::{DeTable, DeValue};

use super::{MAX_FILE_BYTES, Origin, Place, Settings, SettingsError, SettingsFile, known_key};

/// Takes every setting of a file, and notes all that is wrong with it.
pub(super) fn apply(settings: &mut Settings, file: &SettingsFile, errors: &mut Vec<SettingsError>) {
    let origin = Origin::File(file.name.clone());
    let text = match file_text(&origin, &file.content) {
        Ok(text) => text,
        Err(error) => return errors.push(error),
    };
    let place = |offset: usize| Place {
        origin: origin.clone(),
        line: Some(line_of(text, offset)),
    };
    let table = match DeTable::parse(text) {
        Ok(table) => table,
        Err(error) => {
            let place = place(error.span().map_or(0, |span| span.start));
            let message = one_line(error.message());
            return errors.push(SettingsError::Syntax { place, message });
        }
    };
    for (name, value) in table.get_ref() {
        let place = place(name.span().start);
        if let Err(error) = apply_toml(settings, name.get_ref(), value.get_ref(), &place) {
            errors.push(error);
        }
    }
}

/// The text of a file, without the byte-order mark that some editors put in front.
fn file_text<'a>(origin: &Origin, content: &'a [u8]) -> Result<&'a str, SettingsError> {
    if content.len() > MAX_FILE_BYTES {
        return Err(SettingsError::TooLong {
            origin: origin.clone(),
            found: content.len(),
            limit: MAX_FILE_BYTES,
        });
    }
    let text = std::str::from_utf8(content).map_err(|error| SettingsError::NotUtf8 {
        origin: origin.clone(),
        offset: error.valid_up_to(),
    })?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

/// A message as one line without control characters, which it may quote from the file.
fn one_line(message: &str) -> String {
    let lines: Vec<&str> = message.lines().collect();
    lines.join(", ").replace(char::is_control, "?")
}

fn line_of(text: &str, offset: usize) -> usize {
    let before = &text.as_bytes()[..offset.min(text.len())];
    1 + before.iter().filter(|byte| **byte == b'\n').count()
}

fn apply_toml(
    settings: &mut Settings,
    name: &str,
    value: &DeValue<'_>,
    place: &Place,
) -> Result<(), SettingsError> {
    let key = known_key(name, place)?;
    let found = match value {
        DeValue::String(text) => return settings.set(key, text, place),
        DeValue::Integer(number) => {
            let decimal = i64::from_str_radix(number.as_str(), number.radix())
                .map_or_else(|_| number.as_str().to_owned(), |value| value.to_string());
            return settings.set(key, &decimal, place);
        }
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    };
    Err(SettingsError::WrongType {
        place: place.clone(),
        key,
        found,
    })
}
