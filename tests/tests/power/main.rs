//! Disks that fail, lose power or lie, under the agent's own code.

mod device_faults;
mod histories;
mod hostile_volumes;
mod import;
mod loader_is_sound;
mod medium;
mod next_start;
mod power_cuts;
mod two_runs;
mod whole_run_faults;
