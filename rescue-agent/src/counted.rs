//! A number with its noun: `1 entry`, `2 entries`.

use std::fmt::Display;

/// `number` and the noun that fits it.
pub fn counted(number: impl Display + Copy + TryInto<u64>, one: &str, several: &str) -> String {
    let noun = match number.try_into() {
        Ok(1) => one,
        _ => several,
    };
    format!("{number} {noun}")
}

#[cfg(test)]
mod tests {
    use super::counted;

    #[test]
    fn one_is_one() {
        assert_eq!(counted(1_usize, "entry", "entries"), "1 entry");
        for number in [0_u32, 2, 11, 21] {
            assert_eq!(counted(number, "x", "xs"), format!("{number} xs"));
        }
    }
}
