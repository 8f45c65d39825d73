//! What is inside an archive: esx.conf, ConfigStore, PCI addresses, boot scripts.

pub mod boot_script;
pub mod configstore;
pub mod esx_conf;
pub mod pci;
