//! The state archive, from outside in: gzip, tar, envelope.
