//! The built images, started in virtual machines. The disks are judged afterwards.
//!
//! How many machines run at once is limited by `rescue_tests::machine`, however many tests do.

mod boot_controllers;
mod boot_devices;
mod boot_matrix;
mod boot_routes;
mod fleet;
mod fleet_page;
mod killed_machines;
mod live_systems;
mod machines_are_sound;
mod medium;
mod menu;
mod network_reports;
mod other_builds;
mod sealed;
mod versions;
mod way_back;
