//! This machine: the PCI and block tree of sysfs.
