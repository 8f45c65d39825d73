//! What is inside an archive: esx.conf, ConfigStore, PCI addresses.

pub mod configstore;
pub mod esx_conf;
pub mod pci;
