//! What is inside an archive: esx.conf, ConfigStore, PCI addresses.

pub mod configstore;
