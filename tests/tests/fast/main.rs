//! What is tested without a virtual machine: the commands on disk images, the fixtures and judges
//! themselves, and the finished images and the documentation.

mod case;
mod cli_revert;
mod collect;
mod collect_lasts;
mod collect_serves;
mod collect_shows;
mod disks_and_paths;
mod every_request;
mod field_banks;
mod fixtures_are_sound;
mod given_files;
mod judges_are_sound;
mod many_devices;
mod network_reports;
mod next_start;
mod no_disks;
mod originals;
mod partition_tables;
mod sealed;
mod settings_doc;
mod static_binary;
mod versions;
mod which_device;
