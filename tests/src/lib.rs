//! What the tests share: disk makers, machines, judges.
