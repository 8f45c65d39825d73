//! Archives that a host's TPM has sealed: what is said of them, and the commands for their host.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use rescue_agent::host::Host;
use rescue_tests::agent::{self, REFUSED, Run};
use rescue_tests::esxi::archive::{Layers, Seal};
use rescue_tests::esxi::{EsxiDisk, Made};
use rescue_tests::judge::Judge;
use rescue_tests::sysfs::Description;
use serde_json::{Value, json};

/// The boot controller, as a selector.
const BOOT: &str = "0000:00:1f.2";

/// A host whose boot disk is behind an HBA.
const MACHINE: &str = r#"
about = "The boot disk is behind an HBA, behind a bridge."
functions = [
    "pci0000:00/0000:00:1f.2 8086:8d02 010601 ahci",
    "pci0000:3a/0000:3a:00.0 8086:2030 060400 pcieport",
    "pci0000:3a/0000:3a:00.0/0000:3b:00.0 1000:005d 010400 megaraid_sas",
]
passed_through = []

[[disk]]
name = "sda"
at = "pci0000:3a/0000:3a:00.0/0000:3b:00.0/host0/target0:2:0/0:2:0:0"
holds = "esxi-8.0"
"#;

/// Sealed by the TPM of the host of that name.
fn sealed(host: &'static str) -> EsxiDisk {
    EsxiDisk::v80().every_bank(|bank| bank.archive.layers = Layers::Sealed(Seal::by_tpm(host)))
}

struct Case {
    folder: tempfile::TempDir,
    made: Made,
    judge: Judge,
}

impl Case {
    fn new(disk: &EsxiDisk) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let made = disk.make(folder.path(), "disk")?;
        let judge = Judge::new(&made, folder.path())?;
        Ok(Self {
            folder,
            made,
            judge,
        })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, arguments: &[&str]) -> Result<Run> {
        agent::run(arguments, &self.made.image)
    }
}

/// The first archive of each bank, by a report.
fn archives(report: &Value) -> Result<Vec<&Value>> {
    let banks = report["disks"][0]["banks"].as_array().context("banks")?;
    Ok(banks.iter().map(|bank| &bank["archives"][0]).collect())
}

/// Text without the line ends of a console.
fn plain(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

// --- the commands for the host -------------------------------------------------------------------

#[test]
fn the_commands_have_the_addresses_of_the_machine_and_the_uuid_of_the_bank() -> Result<()> {
    let mut disk = sealed("a");
    // The second bank boots next.
    for (bank, updated) in disk.banks.iter_mut().zip(["1", "2"]) {
        if let Some(boot_cfg) = &mut bank.boot_cfg {
            boot_cfg.updated = updated.into();
        }
    }
    let case = Case::new(&disk)?;
    let (text, root) = (case.file("machine.toml"), case.file("machine"));
    fs::write(&text, MACHINE)?;
    let size = case.made.image.metadata()?.len();
    Description::read(&text)?.make(&root, |_| Ok(size))?;
    let snapshot = case.file("host.json");
    Host::read(&root).save(&snapshot)?;
    let snapshot = snapshot.display().to_string();
    let refused = case.run(&["revert", "--yes", "--json", "--pci", &snapshot])?;
    let report = refused.expect(REFUSED)?.report()?;

    // As tests/src/esxi marks partition 6, spelled as ESXi spells it.
    let volume = "/vmfs/volumes/5e5c0006-5b5b5b5b-5b5b-5b5b5b5b5b5b";
    let commands = [
        "esxcli hardware pci pcipassthru set -d 0000:3b:00.0 -e false -a".to_owned(),
        format!("ls {volume}"),
        format!("ln -sfn {volume} /bootbank"),
        "/sbin/auto-backup.sh".into(),
        "ls -l /bootbank/state.tgz".into(),
        "reboot".into(),
    ];
    let recipes = report["recipes"].as_array().context("recipes")?;
    ensure!(recipes.len() == 1, "{recipes:#?}");
    let expected = json!({
        "disk": case.made.image.display().to_string(),
        "partition": 6,
        "bank_uuid": volume.trim_start_matches("/vmfs/volumes/"),
        "controllers": ["0000:3b:00.0"],
        "commands": commands,
    });
    assert_eq!(recipes[0], expected);
    let steps = report["next_steps"].as_array().context("next_steps")?;
    for (number, command) in (1..).zip(&commands) {
        let sentence = json!(format!("{number}. {command}"));
        ensure!(steps.contains(&sentence), "{sentence} is not in {steps:#?}");
    }
    let said = plain(&case.run(&["revert", "--yes", "--pci", &snapshot])?.said());
    for command in &commands {
        ensure!(said.contains(command), "{command} is not in {said}");
    }
    case.judge.nothing_changed()
}

#[test]
fn without_the_machine_the_commands_say_how_to_find_the_address() -> Result<()> {
    let case = Case::new(&sealed("a"))?;
    let report = case
        .run(&["inspect", "--json"])?
        .expect(REFUSED)?
        .report()?;
    let commands = &report["recipes"][0]["commands"];
    assert_eq!(commands[0], "esxcli hardware pci pcipassthru list");
    ensure!(
        commands[1]
            .as_str()
            .is_some_and(|set| set.contains("-d ADDRESS ")),
        "{commands}"
    );
    case.judge.nothing_changed()
}

#[test]
fn each_bank_shows_its_mode_its_key_and_whether_a_key_was_given() -> Result<()> {
    let disk = sealed("a").bank(1, |bank| {
        bank.archive.layers = Layers::Sealed(Seal::default());
    });
    let case = Case::new(&disk)?;
    let report = case.run(&["inspect", "--json"])?.report()?;
    let [first, second] = archives(&report)?[..] else {
        anyhow::bail!("two banks: {report:#}");
    };
    for (archive, mode, given) in [
        (first, "TPM", json!("not-given")),
        (second, "NONE", json!(null)),
    ] {
        assert_eq!(archive["encrypted"], true);
        assert_eq!(archive["encryption_mode"], mode);
        assert_eq!(archive["recovery_key"], given);
        let key_id = archive["key_id"].as_str().context("a key")?;
        ensure!(key_id.len() == 36, "{key_id}");
    }
    let said = case.run(&["inspect"])?.said();
    for archive in [first, second] {
        let key_id = archive["key_id"].as_str().unwrap_or_default();
        let mode = archive["encryption_mode"].as_str().unwrap_or_default();
        ensure!(
            said.contains(&format!("encrypted: mode {mode}, key {key_id}")),
            "{said}"
        );
    }
    Ok(())
}

#[test]
fn the_newest_archive_does_not_take_the_place_of_a_sealed_one() -> Result<()> {
    let disk = sealed("a").bank(1, |bank| {
        bank.archive.layers = Layers::Sealed(Seal::default());
        bank.archive.backup_counter = Some(90);
    });
    let case = Case::new(&disk)?;
    let newest = ["revert", "--devices", BOOT, "--source", "newest", "--yes"];
    let said = plain(&case.run(&newest)?.expect(REFUSED)?.said());
    ensure!(
        said.contains("no report says that ESXi starts with it")
            && !said.contains("gives this bank the configuration"),
        "{said}"
    );
    case.judge.repaired(&[1], &[rescue_tests::esxi::host::SATA])
}
