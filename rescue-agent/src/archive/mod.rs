//! The state archive, from outside in: gzip, tar, envelope, gzip, tar.
//!
//! [`state`] puts the layers together; each of the others knows one format and none of its
//! neighbours.

mod bundle;
pub mod envelope;
pub mod gzip;
pub mod keystore;
pub mod recovery_key;
pub mod state;
pub mod tar;

pub use bundle::{Bundle, bundle};
pub use recovery_key::{RecoveryKey, RecoveryKeyError};
pub use state::{ArchiveError, BackupCounter, Configuration, Edit, Identity, Seal, StateArchive};
