//! Disks and devices as real machines have them: data of ESXi's that is no VMFS, disks on no path that
//! Linux shows, addresses with two readings, several paths to one disk, copies, several installations.

use anyhow::{Context, Result, ensure};
use rescue_tests::agent::{DONE, REFUSED};
use rescue_tests::sysfs::Description;

use super::case::{Case, device};

/// Text for a person without its line ends.
fn unfolded(said: &str) -> String {
    said.split_whitespace().collect::<Vec<_>>().join(" ")
}

// --- what ESXi keeps on a disk -------------------------------------------------------------------

#[test]
fn the_hba_under_a_vsan_disk_goes_back_in_words_of_its_own() -> Result<()> {
    let case = Case::new("vsan")?;
    let said = case.run(&["inspect"])?.expect(DONE)?.said();
    ensure!(
        unfolded(&said).contains("ESXi vSAN disk, no boot banks"),
        "{said}"
    );
    let report = case.reverts_as_judged()?.report()?;
    let of_vsan = &report["disks"][1]["esxi_data"];
    let expected = serde_json::json!([
        {"partition": 1, "kind": "vSAN"},
        {"partition": 2, "kind": "vSAN"},
    ]);
    ensure!(*of_vsan == expected, "{of_vsan:#}");
    Ok(())
}

// --- what Linux does not show --------------------------------------------------------------------

/// A boot disk of 6.7 on a bus that is not PCI for Linux, and a machine around it.
const UNPLACED: &str = r#"
about = "Linux shows the boot disk on no PCI function; an HBA, its bridge, a NIC and a GPU are passed through."
functions = [
    "pci0000:00/0000:00:02.0 8086:2f04 060400 pcieport",
    "pci0000:00/0000:00:02.0/0000:02:00.0 1000:0097 010700 mpt3sas",
    "pci0000:00/0000:00:03.0 8086:1572 020000 i40e",
    "pci0000:00/0000:00:04.0 10de:1b80 030000",
]

[[disk]]
name = "sda"
at = "platform/host0/target0:0:0/0:0:0:0"
holds = "esxi-6.7"

[[disk]]
name = "sdb"
at = "pci0000:00/0000:00:02.0/0000:02:00.0/host8/target8:0:0/8:0:0:0"
holds = "other"

[[passed_through]]
address = "0000:02:00.0"
id = "1000:0097"
class = "010700"
verdict = "unsure"
reason = "Linux does not show which controller drives the boot disk sda, so it may be this one"

[[passed_through]]
address = "0000:00:02.0"
id = "8086:2f04"
class = "060400"
verdict = "unsure"
reason = "Linux does not show which controller drives the boot disk sda"

[[passed_through]]
address = "0000:00:03.0"
id = "8086:1572"
class = "020000"
verdict = "unsure"
reason = "Ethernet controller; Linux does not show which controller drives the boot disk sda"

[[passed_through]]
address = "0000:00:04.0"
id = "10de:1b80"
class = "030000"
verdict = "leave"
reason = "graphics card; no ESXi disk or datastore behind it"
"#;

#[test]
fn a_boot_disk_on_no_pci_path_makes_storage_controllers_unsure_and_no_success() -> Result<()> {
    let case = Case::of(Description::parse(UNPLACED)?)?;
    let run = case.run(&["revert", "--yes", "--json"])?.expect(REFUSED)?;
    let report = run.report()?;
    case.verdicts_hold(&report)?;
    let next = report["next_steps"].to_string();
    ensure!(next.contains("0000:02:00.0"), "{next}");
    case.judges[0].nothing_changed()?;
    // A person who knows chooses.
    let chosen = [
        "revert",
        "--yes",
        "--json",
        "--devices",
        "0000:02:00.0,0000:00:02.0",
    ];
    case.run(&chosen)?.expect(DONE)?;
    Ok(())
}

/// The boot NVMe at bus 16, which is `10` in hex, and a GPU at bus 10.
fn two_readings(passed_through: &str, decimal: &str, hex: &str) -> Result<Case> {
    let text = format!(
        r#"
about = "A line that somebody added by hand: {passed_through} is two devices."
functions = [
    "pci0000:00/0000:00:01.0 8086:2f04 060400 pcieport",
    "pci0000:00/0000:00:01.0/0000:0a:00.0 {decimal}",
    "pci0000:00/0000:00:02.0 8086:2f08 060400 pcieport",
    "pci0000:00/0000:00:02.0/0000:10:00.0 {hex}",
]

[[disk]]
name = "nvme0n1"
at = "pci0000:00/{}/nvme/nvme0"
holds = "esxi-6.7"

[[passed_through]]
address = "{passed_through}"
id = "none"
verdict = "unsure"
reason = "no ID was recorded for it: read as decimal it is 0000:0a:00.0"
"#,
        match hex.contains("nvme") {
            true => "0000:00:02.0/0000:10:00.0",
            false => "0000:00:01.0/0000:0a:00.0",
        }
    );
    Case::of(Description::parse(&text)?)
}

#[test]
fn an_address_without_recorded_ids_of_which_one_reading_is_the_boot_nvme_is_unsure() -> Result<()> {
    const GPU: &str = "10de:1b80 030000";
    const NVME: &str = "144d:a80a 010802 nvme";
    for (decimal, hex, needed) in [(GPU, NVME, "0000:10:00.0"), (NVME, GPU, "0000:0a:00.0")] {
        let case = two_readings("0000:0a:00.0", decimal, hex)?;
        let run = case.run(&["revert", "--yes", "--json"])?.expect(REFUSED)?;
        let report = run.report()?;
        case.verdicts_hold(&report)?;
        let found = device(&report, "0000:0a:00.0")?;
        let reason = found["reason"].as_str().context("no reason")?;
        let expected = format!("ESXi needs {needed}, which drives the boot disk nvme0n1");
        ensure!(reason.contains(&expected), "{reason}");
        case.judges[0].nothing_changed()?;
    }
    Ok(())
}
