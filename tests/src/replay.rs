//! One case of a test that tries many, named by what a failure prints, to be run alone.

use std::fmt;

use anyhow::{Context, Result, ensure};

/// The environment variable that names the case.
pub const VARIABLE: &str = "RESCUE_REPLAY";

/// A case: the test's own word, and numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identifier<const N: usize> {
    /// Which test it is of.
    pub test: &'static str,
    /// The seed of the run.
    pub seed: u64,
    /// What the numbers are is the test's business.
    pub numbers: [usize; N],
}

impl<const N: usize> fmt::Display for Identifier<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{VARIABLE}={}:{:#x}", self.test, self.seed)?;
        self.numbers
            .iter()
            .try_for_each(|number| write!(f, ":{number}"))
    }
}

impl<const N: usize> Identifier<N> {
    /// The case of this test that the environment names, if it names one.
    ///
    /// # Errors
    /// When what it names is no case of this test's form.
    pub fn from_env(test: &'static str) -> Result<Option<Self>> {
        match std::env::var(VARIABLE) {
            Ok(text) => Self::parse(test, &text),
            Err(_) => Ok(None),
        }
    }

    /// As printed, with or without the variable's name; `None`: it is of another test.
    ///
    /// # Errors
    /// When it is of this test and not of its form.
    pub fn parse(test: &'static str, text: &str) -> Result<Option<Self>> {
        let text = text
            .strip_prefix(&format!("{VARIABLE}="))
            .unwrap_or(text)
            .trim();
        let mut fields = text.split(':');
        if fields.next() != Some(test) {
            return Ok(None);
        }
        let form = || format!("{text:?} is not {test}:0x<seed> and {N} numbers");
        let seed = fields.next().and_then(|seed| seed.strip_prefix("0x"));
        let seed = seed.and_then(|seed| u64::from_str_radix(seed, 16).ok());
        let mut numbers = [0; N];
        for number in &mut numbers {
            let field = fields.next().with_context(form)?;
            *number = field.parse().with_context(form)?;
        }
        ensure!(fields.next().is_none(), form());
        Ok(Some(Self {
            test,
            seed: seed.with_context(form)?,
            numbers,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_read_again() {
        let printed = Identifier {
            test: "cut",
            seed: 0x5eed,
            numbers: [7, 0, 12],
        };
        let read = |text: &str| Identifier::<3>::parse("cut", text);
        assert_eq!(read(&printed.to_string()).unwrap(), Some(printed.clone()));
        assert_eq!(read("cut:0x5eed:7:0:12").unwrap(), Some(printed));
        assert_eq!(read("start:0x5eed:7:0").unwrap(), None);
        for malformed in ["cut", "cut:5:7:0:12", "cut:0x5:7:0", "cut:0x5:7:0:1:2"] {
            assert!(read(malformed).is_err(), "{malformed}");
        }
    }
}
