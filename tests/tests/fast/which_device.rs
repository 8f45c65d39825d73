//! Which device goes back to ESXi: each machine of `rescue-agent/tests/machines` must get the expected
//! verdicts, and `revert` must change exactly the owners they name.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use rescue_agent::host::Host;
use rescue_tests::agent::{self, DONE, REFUSED, Run, USAGE};
use rescue_tests::esxi::archive::{Layers, Member, Seal};
use rescue_tests::esxi::host::SATA;
use rescue_tests::esxi::{EsxiDisk, VERSIONS};
use rescue_tests::judge::Judge;
use rescue_tests::scratch;
use serde_json::Value;

use super::case::{Case, device, machines};

// --- every machine -------------------------------------------------------------------------------

#[test]
fn every_machine_gets_its_expected_verdicts_and_only_those_owners_change() -> Result<()> {
    let mut count = 0;
    for entry in std::fs::read_dir(machines())? {
        let path = entry?.path();
        let name = path
            .file_stem()
            .context("a file has a name")?
            .to_string_lossy();
        let check = || -> Result<()> {
            let case = Case::new(&name)?;
            let seen = case.run(&["inspect", "--json"])?.expect(DONE)?;
            case.verdicts_hold(&seen.report()?)?;
            case.reverts_as_judged()?;
            Ok(())
        };
        check().with_context(|| name.to_string())?;
        count += 1;
    }
    ensure!(count >= 12, "only {count} machines");
    Ok(())
}

// --- what people asked for -----------------------------------------------------------------------

#[test]
fn the_onboard_sata_controller_with_the_boot_disk_and_the_only_datastore_goes_back() -> Result<()> {
    Case::new("onboard-sata")?.reverts_as_judged().map(drop)
}

#[test]
fn the_lsi_hba_under_an_11_tb_datastore_goes_back() -> Result<()> {
    Case::new("hba-behind-bridge")?
        .reverts_as_judged()
        .map(drop)
}

#[test]
fn the_usb_controller_of_the_boot_stick_goes_back_and_the_ehci_that_stays_is_explained()
-> Result<()> {
    let run = Case::new("usb-stick")?.reverts_as_judged()?;
    let report = run.report()?;
    ensure!(device(&report, "0000:00:1a.7")?["verdict"] == "unsure");
    Ok(())
}

#[test]
fn an_nvme_boot_ssd_that_inherited_a_moved_gpus_address_goes_back_and_the_move_is_said()
-> Result<()> {
    let case = Case::new("moved-gpu")?;
    let said = case.run(&["inspect"])?.expect(DONE)?.said();
    let expected = "was 10de:2786, now 144d:a80a: a card was moved";
    ensure!(said.contains(expected), "{said}");
    case.reverts_as_judged().map(drop)
}

#[test]
fn a_storage_vms_hba_stays_and_the_report_says_that_nothing_was_written_and_how_to_choose()
-> Result<()> {
    let case = Case::new("storage-vm")?;
    let run = case.reverts_as_judged()?;
    ensure!(run.result()? == "clean");
    let report = run.report()?;
    let (summary, next) = (
        report["summary"].to_string(),
        report["next_steps"].to_string(),
    );
    ensure!(summary.contains("no device that ESXi needs"), "{summary}");
    ensure!(next.contains("--devices=auto,0000:02:00.0"), "{next}");
    let said = case.run(&["revert", "--yes"])?.expect(DONE)?.said();
    ensure!(said.contains("--devices=auto,0000:02:00.0"), "{said}");
    Ok(())
}

#[test]
fn which_bank_is_live_is_said() -> Result<()> {
    let case = Case::new("onboard-sata")?;
    let run = case.run(&["inspect", "--json"])?.expect(DONE)?;
    assert_eq!(run.boots_next()?, Some(5));
    Ok(())
}

#[test]
fn both_banks_are_fixed_so_that_the_settings_do_not_come_back() -> Result<()> {
    let case = Case::new("onboard-sata")?;
    case.reverts_as_judged()?;
    for bank in [0, 1] {
        ensure!(case.judges[0].owners(bank)?["00000:000:31.2"] == "vmkernel");
    }
    Ok(())
}

#[test]
fn what_is_inside_what_is_shown() -> Result<()> {
    let case = Case::new("nvme-behind-root-port")?;
    let said = case.run(&["inspect", "--explain"])?.expect(DONE)?.said();
    for part in [
        "bank 5",
        "STATE.TGZ",
        "encrypted",
        "0000:00:1b.0 in ConfigStore",
    ] {
        ensure!(said.contains(part), "{part} is missing:\n{said}");
    }
    Ok(())
}

#[test]
fn decimal_or_hex_is_told_by_the_explanation() -> Result<()> {
    let case = Case::new("gone-and-ambiguous")?;
    let said = case.run(&["inspect", "--explain"])?.expect(DONE)?.said();
    for part in [
        "00000:010:00.0 in esx.conf",
        "read as decimal: 0000:0a:00.0",
        "read as hex it would be 0000:10:00.0 there: Ethernet controller 8086:1572",
    ] {
        ensure!(said.contains(part), "{part} is missing:\n{said}");
    }
    Ok(())
}

#[test]
fn what_to_do_about_an_archive_sealed_by_a_tpm_is_said() -> Result<()> {
    let folder = scratch::folder()?;
    let made = EsxiDisk::v80()
        .every_bank(|bank| {
            bank.archive.layers = Layers::Sealed(Seal {
                mode: "TPM",
                ..Seal::default()
            });
        })
        .make(folder.path(), "disk")?;
    let run = agent::revert("0000:00:1f.2", &made.image)?.expect(REFUSED)?;
    ensure!(run.said().contains("pcipassthru set"), "{}", run.said());
    Ok(())
}

#[test]
fn the_datastore_is_never_written() -> Result<()> {
    let case = Case::new("hba-behind-bridge")?;
    case.reverts_as_judged()?;
    ensure!(case.bystanders.len() == 1);
    case.bystanders[0].nothing_changed()
}

#[test]
fn after_the_fix_it_says_what_a_vm_that_owned_the_device_needs() -> Result<()> {
    let case = Case::new("onboard-sata")?;
    let said = case.run(&["revert", "--yes"])?.expect(DONE)?.said();
    for part in ["pciPassthru", "Do not move cards"] {
        ensure!(said.contains(part), "{part} is missing:\n{said}");
    }
    Ok(())
}

// --- advice ---------------------------------------------------------------------------------------

#[test]
fn advice_names_first_what_esxi_may_need_and_never_a_device_that_is_not_there() -> Result<()> {
    let case = Case::new("advice")?;
    let run = case.reverts_as_judged()?;
    let advice = run.report()?["next_steps"].to_string();
    ensure!(
        advice.contains("--devices=auto,0000:03:00.0")
            && advice.contains("by commas: 0000:03:00.0,0000:02:00.0,0000:01:00.0)"),
        "{advice}"
    );
    // A mistyped selector is answered with the same list.
    let run = case.run(&["revert", "--yes", "--devices", "dead:beef"])?;
    let said = run.expect(USAGE)?.said();
    let listed = "Passed through: 0000:03:00.0 (1000:00ac), 0000:02:00.0 (8086:1572), 0000:01:00.0 (10de:2786)";
    ensure!(said.contains(listed) && !said.contains("0000:09"), "{said}");
    Ok(())
}

#[test]
fn advice_names_the_address_in_hex_where_only_that_is_one_of_a_device() -> Result<()> {
    let case = Case::new("gone-and-ambiguous")?;
    let advice = case.reverts_as_judged()?.report()?["next_steps"].to_string();
    ensure!(advice.contains("0000:10:00.0,0000:11:00.0"), "{advice}");
    for absent in ["0000:09:00.0", "0000:0a:00.0"] {
        ensure!(!advice.contains(absent), "{absent}: {advice}");
    }
    // What it names can be chosen so.
    let run = case.run(&["revert", "--dry-run", "--json", "--devices", "0000:10:00.0"])?;
    let report = run.expect(DONE)?.report()?;
    ensure!(device(&report, "0000:0a:00.0")?["verdict"] == "give-back");
    Ok(())
}

/// The value of `--devices` that the next steps of a report advise, as an argument.
fn advised(report: &Value) -> Option<String> {
    let steps = report["next_steps"].as_array().into_iter().flatten();
    let mut words = steps
        .filter_map(Value::as_str)
        .flat_map(str::split_whitespace);
    let advice = words.find(|word| word.starts_with("--devices="))?;
    Some(advice.to_owned())
}

/// The addresses of the devices with a verdict.
fn with_verdict(report: &Value, verdict: &str) -> Vec<String> {
    let devices = report["devices"].as_array().into_iter().flatten();
    let devices = devices.filter(|device| device["verdict"] == verdict);
    devices
        .filter_map(|device| device["address"].as_str().map(str::to_owned))
        .collect()
}

#[test]
fn advice_that_is_followed_adds_one_device_and_changes_nothing_else() -> Result<()> {
    let mut followed = [0, 0];
    for entry in std::fs::read_dir(machines())? {
        let path = entry?.path();
        let name = path.file_stem().context("a name")?.to_string_lossy();
        let case = Case::new(&name)?;
        let dry_run = |devices: &str| -> Result<Value> {
            let run = case.run(&["revert", "--dry-run", "--json", devices])?;
            run.expect(DONE)?.report()
        };
        let left = with_verdict(&dry_run("--devices=auto")?, "leave");
        // From what ESXi needs, and from everything but the first two that it does not.
        let everything = match left.as_slice() {
            [first, second, ..] => Some(format!("--devices=all,-{first},-{second}")),
            _ => None,
        };
        for (kind, start) in [Some("--devices=auto".to_owned()), everything]
            .into_iter()
            .enumerate()
        {
            let Some(start) = start else { continue };
            let before = dry_run(&start)?;
            let Some(advice) = advised(&before) else {
                continue;
            };
            let after = with_verdict(&dry_run(&advice)?, "give-back");
            let before = with_verdict(&before, "give-back");
            ensure!(
                before.iter().all(|address| after.contains(address))
                    && after.len() == before.len() + 1,
                "{name}: {start}, then {advice}: {before:?}, then {after:?}"
            );
            followed[kind] += 1;
        }
    }
    ensure!(followed[0] >= 6 && followed[1] >= 1, "{followed:?}");
    Ok(())
}

// --- boot scripts ---------------------------------------------------------------------------------

/// A script that does its work in the boot disk's way, with more on its lines than is anybody's business.
const LOCAL_SH: &str = "#!/bin/sh ++group=host/vim/vmvisor/boot\n\
    # esxcli hardware pci pcipassthru set -e TRUE -d 0000:09:00.0\n\
    PW=secret; esxcli -p secret hardware pci pcipassthru set -a -e TRUE -d 0000:00:1f.2; echo secret\n\
    esxcli hardware pci pcipassthru set --device-id=0000:01:00.0 --enable=true\n\
    exit 0\n";

fn with_scripts(disk: EsxiDisk) -> EsxiDisk {
    disk.every_bank(|bank| {
        let members = &mut bank.archive.members;
        members.retain(|member| member.path != "etc/rc.local.d/local.sh");
        for (path, text) in [
            ("etc/rc.local.d/.#local.sh", LOCAL_SH),
            ("etc/rc.local.d/local.sh", LOCAL_SH),
            (
                "etc/rc.local.d/010.gpu",
                "localcli hardware pci pcipassthru set -e on -d $GPU\n",
            ),
        ] {
            members.push(Member::file(path, 0o1755, text));
        }
    })
}

/// The scripts of a report: file, line, device and need.
fn scripts(report: &Value) -> Vec<String> {
    let all = report["boot_scripts"].as_array().into_iter().flatten();
    all.map(|one| {
        let device = one["device"].as_str().unwrap_or("unnamed");
        let text = |key: &str| one[key].as_str().unwrap_or_default().to_owned();
        let place = format!("{} {} {}", one["partitions"], text("file"), one["line"]);
        format!("{place} {device} {}", text("need"))
    })
    .collect()
}

#[test]
fn a_boot_script_that_takes_the_boot_controller_away_again_is_said_everywhere_and_never_changed()
-> Result<()> {
    let case = Case::with("onboard-sata", with_scripts)?;
    let expected = [
        "[5,6] /etc/rc.local.d/local.sh 3 0000:00:1f.2 needed",
        "[5,6] /etc/rc.local.d/010.gpu 1 unnamed unknown",
        "[5,6] /etc/rc.local.d/local.sh 4 0000:01:00.0 not-needed",
    ];
    let words = [
        "/etc/rc.local.d/local.sh, line 3, passes 0000:00:1f.2 through again at each start of ESXi, which needs it: it drives the boot disk sda",
        "esxcli hardware pci pcipassthru set -a -e TRUE -d 0000:00:1f.2",
        "Which one is not written in the line itself",
        "0000:01:00.0 through again at each start of ESXi, which does not need it",
        "UEFI Secure Boot",
        "Right after ESXi is up",
        "`esxcli hardware pci pcipassthru set -d 0000:00:1f.2 -e false -a`",
    ];
    let said = |run: &Run| -> Result<()> {
        let said = run.said().split_whitespace().collect::<Vec<_>>().join(" ");
        for part in words {
            ensure!(said.contains(part), "{part} is missing:\n{said}");
        }
        ensure!(
            !said.contains("secret") && !said.contains("0000:09"),
            "{said}"
        );
        Ok(())
    };
    said(&case.run(&["inspect"])?.expect(DONE)?)?;
    said(&case.run(&["revert", "--dry-run"])?.expect(DONE)?)?;
    let seen = case.run(&["inspect", "--json"])?.expect(DONE)?.report()?;
    assert_eq!(scripts(&seen), expected);
    // The judge finds nothing changed but the owner.
    let report = case.reverts_as_judged()?.report()?;
    assert_eq!(scripts(&report), expected);
    let steps = report["next_steps"].as_array().context("no steps")?;
    ensure!(steps[0].to_string().contains("Boot ESXi"), "{steps:?}");
    ensure!(
        steps[1].to_string().contains("Right after ESXi is up"),
        "{steps:?}"
    );
    said(&case.run(&["revert", "--yes"])?.expect(DONE)?)
}

#[test]
fn boot_scripts_are_found_in_the_archives_of_every_version() -> Result<()> {
    for (name, disk) in VERSIONS {
        let check = || -> Result<()> {
            let folder = scratch::folder()?;
            let made = with_scripts(disk()).make(folder.path(), "disk")?;
            let run = agent::revert(&SATA.to_string(), &made.image)?.expect(DONE)?;
            let found = scripts(&run.report()?);
            ensure!(
                found
                    .iter()
                    .any(|one| one.ends_with("local.sh 3 0000:00:1f.2 needed")),
                "{found:?}"
            );
            Ok(())
        };
        check().with_context(|| name.to_string())?;
    }
    Ok(())
}

#[test]
fn without_such_scripts_nothing_is_said_of_them() -> Result<()> {
    let case = Case::new("onboard-sata")?;
    let run = case.reverts_as_judged()?;
    ensure!(
        run.report()?["boot_scripts"]
            .as_array()
            .is_some_and(Vec::is_empty)
    );
    ensure!(!run.said().contains("boot script"), "{}", run.said());
    Ok(())
}

// --- selectors -----------------------------------------------------------------------------------

/// The verdicts of a dry run, `give-back` only.
fn given_back(case: &Case, devices: &str) -> Result<Vec<String>> {
    let run = case.run(&["revert", "--dry-run", "--json", "--devices", devices])?;
    let report = run.report()?;
    let all = report["devices"].as_array().into_iter().flatten();
    Ok(all
        .filter(|device| device["verdict"] == "give-back")
        .filter_map(|device| device["address"].as_str().map(str::to_owned))
        .collect())
}

#[test]
fn selectors_add_up_and_take_away() -> Result<()> {
    const BOOT: &str = "0000:00:1f.2";
    const GPU: &str = "0000:01:00.0";
    let case = Case::new("onboard-sata")?;
    let cases: [(&str, &[&str]); 8] = [
        ("auto", &[BOOT]),
        ("all", &[BOOT, GPU]),
        ("auto,10de:1b80", &[BOOT, GPU]),
        ("all,-class:display", &[BOOT]),
        ("-8086:2922", &[]),
        ("class:display", &[GPU]),
        ("class:storage,class:display", &[BOOT, GPU]),
        ("all,-0000:00:1f.2", &[GPU]),
    ];
    for (selection, expected) in cases {
        assert_eq!(given_back(&case, selection)?, expected, "{selection}");
    }
    Ok(())
}

#[test]
fn a_needed_controller_that_the_request_leaves_is_said_in_the_result() -> Result<()> {
    let case = Case::new("onboard-sata")?;
    for devices in [
        "10de:1b80",
        "0000:01:00.0",
        "-0000:00:1f.2",
        "class:display",
    ] {
        for mode in [&["--dry-run"][..], &["--yes"]] {
            let words = ["revert", "--json", "--devices", devices];
            let run = case.run(&[&words[..], mode].concat())?.expect(REFUSED)?;
            let report = run.report()?;
            let summary = report["summary"].to_string();
            ensure!(
                summary.contains("the request leaves 0000:00:1f.2 passed through")
                    && summary.contains("drives the boot disk"),
                "{devices}: {summary}"
            );
            let advice = advised(&report).context("no advice")?;
            let advised = case.run(&["revert", "--dry-run", "--json", &advice])?;
            let given = with_verdict(&advised.expect(DONE)?.report()?, "give-back");
            ensure!(
                given.contains(&"0000:00:1f.2".to_owned()),
                "{advice}: {given:?}"
            );
            let all = report["devices"].as_array().into_iter().flatten();
            let of_boot: Vec<_> = all
                .filter(|device| device["address"] == "0000:00:1f.2")
                .collect();
            ensure!(
                of_boot.len() == 1 && of_boot[0]["need"] == "needed",
                "{of_boot:?}"
            );
            ensure!(!of_boot[0]["reason"].to_string().contains("no ESXi disk"));
        }
    }
    Ok(())
}

#[test]
fn an_unknown_or_malformed_selector_is_a_usage_error_that_shows_what_exists() -> Result<()> {
    let case = Case::new("onboard-sata")?;
    for selection in [
        "dead:beef",
        "0000:07:00.0",
        "all,-dead:beef",
        "class:gpu",
        "1f.2",
        "",
    ] {
        let run = case
            .run(&["revert", "--yes", "--devices", selection])?
            .expect(USAGE)?;
        let said = run.said();
        ensure!(
            said.contains("0000:00:1f.2 (8086:2922)") && said.contains("0000:01:00.0 (10de:1b80)"),
            "{selection:?}: {said}"
        );
    }
    case.judges[0].nothing_changed()
}

#[test]
fn a_class_is_not_guessed_where_nothing_tells_it() -> Result<()> {
    let folder = scratch::folder()?;
    let made = EsxiDisk::v80().make(folder.path(), "disk")?;
    let judge = Judge::new(&made, folder.path())?;
    // Without the machine nothing says that one of them is a GPU.
    let run = agent::revert("all,-class:display", &made.image)?.expect(USAGE)?;
    ensure!(run.said().contains("--pci"), "{}", run.said());
    judge.nothing_changed()
}

// --- machines elsewhere --------------------------------------------------------------------------

#[test]
fn an_image_without_a_machine_still_gets_its_list() -> Result<()> {
    let folder = scratch::folder()?;
    let made = EsxiDisk::v67().make(folder.path(), "disk")?;
    let run = agent::run(&["inspect", "--json"], &made.image)?.expect(DONE)?;
    let report = run.report()?;
    ensure!(device(&report, &SATA.to_string())?["verdict"] == "unsure");
    ensure!(
        report["devices"]
            .as_array()
            .is_some_and(|all| all.len() == 2)
    );
    let run = agent::run(&["revert", "--yes"], &made.image)?.expect(USAGE)?;
    for flag in ["--pci", "--save-host", "--devices"] {
        ensure!(run.said().contains(flag), "{}", run.said());
    }
    Ok(())
}

#[test]
fn an_image_finds_its_disk_by_size_where_only_one_has_it() -> Result<()> {
    let case = Case::new("storage-vm")?;
    let snapshot = case.folder.path().join("host.json").display().to_string();
    let arguments = [
        "revert",
        "--dry-run",
        "--json",
        "--devices",
        "all",
        "--pci",
        &snapshot,
    ];
    let run = agent::run(&arguments, &case.disks["sda"].image)?.expect(DONE)?;
    let report = run.report()?;
    ensure!(
        report["disks"][0]["pci_path"][0][0] == "0000:00:1f.2",
        "{report:#}"
    );
    // Of no disk's size: asked for.
    std::fs::File::options()
        .write(true)
        .open(&case.disks["sda"].image)?
        .set_len(17 << 30)?;
    let run = agent::run(&arguments, &case.disks["sda"].image)?.expect(USAGE)?;
    ensure!(run.said().contains("say which one it is"), "{}", run.said());
    Ok(())
}

#[test]
fn a_disk_that_was_not_looked_at_makes_its_controller_unsure() -> Result<()> {
    let case = Case::new("storage-vm")?;
    let run = case
        .run_on(&["inspect", "--json"], &["sda"])?
        .expect(DONE)?;
    let report = run.report()?;
    let hba = device(&report, "0000:02:00.0")?;
    ensure!(
        hba["verdict"] == "unsure" && hba["reason"] == "leads to sdb, which was not examined",
        "{hba:#}"
    );
    Ok(())
}

#[test]
fn this_machine_can_be_saved() -> Result<()> {
    let folder = scratch::folder()?;
    let made = EsxiDisk::v67().make(folder.path(), "disk")?;
    let file = folder.path().join("host.json");
    let text = file.display().to_string();
    agent::run(&["inspect", "--save-host", &text], &made.image)?.expect(DONE)?;
    let (saved, here) = (Host::load(&file)?, Host::read(Path::new("/")));
    ensure!((saved.pci, saved.disks) == (here.pci, here.disks));
    Ok(())
}
