//! Disks and devices as real machines have them: data of ESXi's that is no VMFS, disks on no path that
//! Linux shows, addresses with two readings, several paths to one disk, copies, several installations.

use anyhow::{Context, Result, ensure};
use rescue_tests::agent::{DONE, FAILED, REFUSED};
use rescue_tests::esxi::host::Address;
use rescue_tests::judge::Judge;
use rescue_tests::sparse;
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

// --- one disk, several paths ---------------------------------------------------------------------

/// Two HBAs of one kind, each on a bus of its own, and a USB card.
const HBAS: [Address; 2] = [Address::new(2, 0, 0), Address::new(3, 0, 0)];

/// A machine with a boot disk on the first HBA, and a second disk, `other`, with the words of its
/// description. Both HBAs and the USB card are passed through, with these verdicts and reasons.
fn two_disks(first: &str, other: &str, expected: &[(&str, &str, &str)]) -> Result<Case> {
    let mut text = format!(
        r#"
about = "Two disks, on HBAs of one kind or on a USB card."
functions = [
    "pci0000:00/0000:00:01.0 8086:2f04 060400 pcieport",
    "pci0000:00/0000:00:01.0/0000:02:00.0 1000:0097 010700 mpt3sas",
    "pci0000:00/0000:00:02.0 8086:2f08 060400 pcieport",
    "pci0000:00/0000:00:02.0/0000:03:00.0 1000:0097 010700 mpt3sas",
    "pci0000:00/0000:00:03.0 8086:2f0a 060400 pcieport",
    "pci0000:00/0000:00:03.0/0000:04:00.0 1033:0194 0c0330 xhci_hcd",
    "pci0000:00/0000:00:04.0 8086:2f0b 060400 pcieport",
    "pci0000:00/0000:00:04.0/0000:05:00.0 144d:a80a 010802 nvme",
]

[[disk]]
name = "sda"
at = "pci0000:00/0000:00:01.0/0000:02:00.0/host1/target1:0:0/1:0:0:0"
{first}
holds = "esxi-6.7"

[[disk]]
{other}
"#
    );
    for (address, verdict, reason) in expected {
        let (id, class) = match *address {
            "0000:04:00.0" => ("1033:0194", "0c0330"),
            "0000:05:00.0" => ("144d:a80a", "010802"),
            "0000:00:02.0" => ("8086:2f08", "060400"),
            _ => ("1000:0097", "010700"),
        };
        text.push_str(&format!(
            r#"
[[passed_through]]
address = "{address}"
id = "{id}"
class = "{class}"
verdict = "{verdict}"
reason = "{reason}"
"#
        ));
    }
    Case::of(Description::parse(&text)?)
}

/// On the second HBA, with this name, identity and content.
fn on_second_hba(identity: &str, holds: &str) -> String {
    format!(
        "name = \"sdb\"\nat = \"pci0000:00/0000:00:02.0/0000:03:00.0/host2/target2:0:0/2:0:0:0\"\n\
         {identity}\nholds = \"{holds}\""
    )
}

const LUN: &str = "wwid = \"naa.600508b4000971ca0000a00000430000\"\nserial = \"P62G20B9IMT01Q\"";

#[test]
fn a_lun_by_two_paths_is_written_once_and_every_controller_on_a_path_goes_back() -> Result<()> {
    const REASON: &str = "drives the boot disk sda (also sdb)";
    let both = [
        ("0000:02:00.0", "give-back", REASON),
        ("0000:03:00.0", "give-back", REASON),
        (
            "0000:00:02.0",
            "give-back",
            "bridge to the boot disk sda (also sdb)",
        ),
    ];
    let case = two_disks(LUN, &on_second_hba(LUN, "path-to sda"), &both)?;
    let run = case.run(&["revert", "--yes", "--json"])?.expect(DONE)?;
    let report = run.report()?;
    case.verdicts_hold(&report)?;
    ensure!(report["result"] == "reverted" && report["banks_changed"] == 2);
    ensure!(report["disks"].as_array().is_some_and(|all| all.len() == 1));
    let disk = &report["disks"][0];
    let other = disk["other_paths"][0].as_str().unwrap_or_default();
    ensure!(other.ends_with("sdb.img"), "{disk:#}");
    ensure!(
        disk["pci_path"]
            .as_array()
            .is_some_and(|all| all.len() == 2)
    );
    ensure!(report["same_installations"] == serde_json::json!([]));
    let bridge = Address::new(0, 2, 0);
    case.judges[0].repaired(&[0, 1], &[HBAS[0], HBAS[1], bridge])?;
    let said = case.run(&["revert", "--yes"])?.expect(DONE)?.said();
    let said = unfolded(&said);
    ensure!(said.contains("by another path; only"), "{said}");
    ensure!(said.contains("this host was repaired before"), "{said}");
    Ok(())
}

#[test]
fn an_equal_identity_or_an_equal_content_alone_makes_no_one_disk_of_two() -> Result<()> {
    const OTHER: &str =
        "wwid = \"naa.600508b4000971ca0000a00000431111\"\nserial = \"P62G20B9IMT01R\"";
    for (identity, holds) in [(LUN, "esxi-6.7"), (OTHER, "copy-of sda")] {
        let both = [("0000:02:00.0", "give-back", "drives the boot disk sda")];
        let case = two_disks(LUN, &on_second_hba(identity, holds), &both)?;
        let run = case.run(&["revert", "--yes", "--json"])?.expect(DONE)?;
        let report = run.report()?;
        ensure!(report["banks_changed"] == 4, "{}", report["banks_changed"]);
        for judge in &case.judges {
            judge.repaired(&[0, 1], &HBAS[..1])?;
        }
    }
    Ok(())
}

#[test]
fn two_disks_that_share_identity_and_content_are_found_out_and_repaired_by_the_next_run()
-> Result<()> {
    let both = [("0000:02:00.0", "give-back", "drives the boot disk sda")];
    let case = two_disks(LUN, &on_second_hba(LUN, "copy-of sda"), &both)?;
    let run = case.run(&["revert", "--yes", "--json"])?.expect(FAILED)?;
    let broken = run.report()?["broken_promises"].to_string();
    ensure!(broken.contains("they are two disks"), "{broken}");
    case.judges[0].repaired(&[0, 1], &HBAS[..1])?;
    case.judges[1].nothing_changed()?;
    case.run(&["revert", "--yes", "--json"])?.expect(DONE)?;
    case.judges[1].repaired(&[0, 1], &HBAS[..1])
}

#[test]
fn a_path_that_was_not_examined_is_unsure_and_its_identity_is_said() -> Result<()> {
    let both = [("0000:03:00.0", "unsure", "")];
    let case = two_disks(LUN, &on_second_hba(LUN, "path-to sda"), &both)?;
    let run = case
        .run_on(&["inspect", "--json"], &["sda"])?
        .expect(DONE)?;
    let report = run.report()?;
    let reason = &device(&report, "0000:03:00.0")?["reason"];
    ensure!(
        reason
            == "leads to sdb, which was not examined; by its identity it may be another path to sda",
        "{reason}"
    );
    Ok(())
}

// --- copies --------------------------------------------------------------------------------------

#[test]
fn both_members_of_a_mirror_are_written_and_stay_equal_and_it_is_said() -> Result<()> {
    for member in [
        on_second_hba("serial = \"B\"", "copy-of sda"),
        "name = \"sdb\"\nat = \"pci0000:00/0000:00:01.0/0000:02:00.0/host1/target1:0:1/1:0:1:0\"\n\
         serial = \"B\"\nholds = \"copy-of sda\""
            .into(),
    ] {
        let both = [("0000:02:00.0", "give-back", "drives the boot disk sda")];
        let case = two_disks("serial = \"A\"", &member, &both)?;
        let run = case.run(&["revert", "--yes", "--json"])?.expect(DONE)?;
        let report = run.report()?;
        case.verdicts_hold(&report)?;
        ensure!(report["banks_changed"] == 4);
        let same = &report["same_installations"][0];
        ensure!(
            same["originals"]
                .as_array()
                .is_some_and(|all| all.len() == 2),
            "{same:#}"
        );
        for judge in &case.judges {
            judge.repaired(&[0, 1], &HBAS[..1])?;
        }
        let [a, b] = ["sda", "sdb"].map(|name| &case.disks[name].image);
        ensure!(sparse::differing_units(a, b)?.is_empty());
        let said = unfolded(&case.run(&["inspect"])?.expect(DONE)?.said());
        ensure!(
            said.contains("are equal, as members of a mirror are"),
            "{said}"
        );
    }
    Ok(())
}

#[test]
fn a_mirror_of_which_one_member_is_repaired_already_is_a_mirror() -> Result<()> {
    let both = [
        ("0000:02:00.0", "give-back", "drives the boot disk sda"),
        ("0000:03:00.0", "give-back", "drives the boot disk sdb"),
    ];
    let case = two_disks(
        "serial = \"A\"",
        &on_second_hba("serial = \"B\"", "copy-of sda"),
        &both,
    )?;
    let first = [
        "revert",
        "--yes",
        "--json",
        "--devices",
        "0000:02:00.0,0000:03:00.0",
    ];
    case.run_on(&first, &["sda"])?.expect(DONE)?;
    case.judges[1].nothing_changed()?;
    let run = case.run(&["revert", "--yes", "--json"])?.expect(DONE)?;
    case.verdicts_hold(&run.report()?)?;
    case.judges[1].repaired(&[0, 1], &HBAS)
}

const STICK: &str = "name = \"sdb\"\nremovable = true\n\
    at = \"pci0000:00/0000:00:03.0/0000:04:00.0/usb1/1-1/1-1:1.0/host3/target3:0:0/3:0:0:0\"\n\
    holds = \"copy-of sda\"";
const WHY_STICK: &str = "leads to sdb, a copy of the boot disk sda on a removable disk; ESXi needs it only if it starts from that copy";

#[test]
fn a_copy_on_a_stick_does_not_take_its_controller_from_a_vm_and_the_choice_is_said() -> Result<()> {
    let only_usb = [("0000:04:00.0", "unsure", WHY_STICK)];
    let case = two_disks("", STICK, &only_usb)?;
    let run = case.run(&["revert", "--yes", "--json"])?.expect(DONE)?;
    let report = run.report()?;
    case.verdicts_hold(&report)?;
    ensure!(report["result"] == "clean");
    let next = report["next_steps"].to_string();
    ensure!(next.contains("--devices=auto,0000:04:00.0"), "{next}");
    let text = report["same_installations"][0]["text"].to_string();
    ensure!(text.contains("holds a copy of"), "{text}");
    case.judges.iter().try_for_each(Judge::nothing_changed)
}

#[test]
fn what_the_original_needs_is_written_on_its_copy_too() -> Result<()> {
    let both = [
        ("0000:02:00.0", "give-back", "drives the boot disk sda"),
        ("0000:04:00.0", "unsure", WHY_STICK),
    ];
    let case = two_disks("", STICK, &both)?;
    let run = case.run(&["revert", "--yes", "--json"])?.expect(DONE)?;
    let report = run.report()?;
    case.verdicts_hold(&report)?;
    ensure!(report["result"] == "reverted");
    for judge in &case.judges {
        judge.repaired(&[0, 1], &HBAS[..1])?;
    }
    Ok(())
}

#[test]
fn a_stick_with_a_newer_configuration_is_not_called_a_copy() -> Result<()> {
    let stick = STICK.replace("copy-of", "later-copy-of");
    let why = "it is not known from which of them ESXi starts";
    let case = two_disks("", &stick, &[("0000:04:00.0", "unsure", why)])?;
    let run = case.run(&["revert", "--yes", "--json"])?.expect(REFUSED)?;
    case.verdicts_hold(&run.report()?)?;
    case.judges.iter().try_for_each(Judge::nothing_changed)
}

#[test]
fn which_of_two_built_in_copies_esxi_starts_from_is_not_guessed() -> Result<()> {
    let nvme = "name = \"nvme0n1\"\nat = \"pci0000:00/0000:00:04.0/0000:05:00.0/nvme/nvme0\"\n\
        holds = \"copy-of sda\"";
    let why = "it is not known from which of them ESXi starts";
    let both = [
        ("0000:02:00.0", "unsure", why),
        ("0000:05:00.0", "unsure", why),
    ];
    let case = two_disks("", nvme, &both)?;
    let run = case.run(&["revert", "--yes", "--json"])?.expect(REFUSED)?;
    case.verdicts_hold(&run.report()?)?;
    let next = run.report()?["next_steps"].to_string();
    ensure!(next.contains("0000:02:00.0"), "{next}");
    for judge in &case.judges {
        judge.nothing_changed()?;
    }
    let chosen = ["revert", "--yes", "--devices", "0000:02:00.0,0000:05:00.0"];
    case.run(&chosen)?.expect(DONE)?;
    for judge in &case.judges {
        judge.repaired(&[0, 1], &[HBAS[0], Address::new(5, 0, 0)])?;
    }
    Ok(())
}

// --- several installations -----------------------------------------------------------------------

#[test]
fn of_two_installations_each_says_what_boots_next_from_its_disk() -> Result<()> {
    let both = [("0000:02:00.0", "give-back", "drives the boot disk sda")];
    let case = two_disks("", &on_second_hba("", "esxi-8.0"), &both)?;
    for command in [&["inspect"][..], &["revert", "--dry-run"]] {
        let said = unfolded(&case.run(command)?.expect(DONE)?.said());
        ensure!(
            said.matches("boots next from this disk").count() == 2,
            "{said}"
        );
        ensure!(said.matches("boots next").count() == 2, "{said}");
    }
    let report = case.run(&["inspect", "--json"])?.expect(DONE)?.report()?;
    ensure!(
        report["starts_first"].is_null() && report["same_installations"] == serde_json::json!([])
    );
    // One alone boots next.
    let said = case.run_on(&["inspect"], &["sda"])?.expect(DONE)?.said();
    ensure!(
        said.contains("boots next: highest update number 2"),
        "{said}"
    );
    Ok(())
}
