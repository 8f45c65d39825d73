//! What the tests share: disk makers, machines, judges.
pub mod power;
