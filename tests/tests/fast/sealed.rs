//! Archives that a host's TPM has sealed: what is said of them, and the commands for their host.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rescue_agent::host::Host;
use rescue_tests::agent::{DONE, REFUSED, Run, USAGE};
use rescue_tests::esxi::EsxiDisk;
use rescue_tests::esxi::archive::{self, Archive, Dialect, Layers, RecoveryKey, Seal};
use rescue_tests::esxi::host::{Owner, SATA};
use rescue_tests::judged_disk::JudgedDisk;
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

/// The first archive of each bank, by a report.
fn archives(report: &Value) -> Result<Vec<&Value>> {
    let banks = report["disks"][0]["banks"].as_array().context("banks")?;
    Ok(banks.iter().map(|bank| &bank["archives"][0]).collect())
}

/// Text without the line ends of a console.
fn plain(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

// --- the recovery key ----------------------------------------------------------------------------

/// A file with the recovery key of a host, as ESXi prints it.
fn key_file(case: &JudgedDisk, text: &str) -> Result<String> {
    let file = case.file("key");
    let table = format!(
        "Recovery ID                             Key\n--------------------------------------  ---\n{{2DDD5424-7F3F-406A-8DA8-D62630F6C8BC}}  {text}\n"
    );
    fs::write(&file, table)?;
    Ok(file.display().to_string())
}

fn revert_with(case: &JudgedDisk, key: &str) -> Result<Run> {
    let key = key_file(case, key)?;
    let revert = ["revert", "--devices", BOOT, "--yes", "--json"];
    case.run(&[&revert[..], &["--recovery-key-file", &key]].concat())
}

#[test]
fn the_right_key_repairs_in_either_order_of_its_bytes() -> Result<()> {
    for order in ["big", "little"] {
        let case = JudgedDisk::new(&sealed("a"))?;
        let key = RecoveryKey::of("a", order)?;
        let report = revert_with(&case, &key.groups)?.expect(DONE)?.report()?;
        assert_eq!(report["result"], "reverted", "{order}");
        for archive in archives(&report)? {
            assert_eq!(archive["recovery_key"], "opens");
        }
        // By dissect.hypervisor, with that key.
        case.judge.repaired(&[0, 1], &[SATA])?;
        // Nothing is left to do, and the original comes back without any key.
        let again = revert_with(&case, &key.groups)?.expect(DONE)?;
        assert_eq!(again.result()?, "clean");
        assert_eq!(
            case.run(&["restore", "--yes", "--json"])?
                .expect(DONE)?
                .result()?,
            "restored"
        );
        case.judge.restored(&[0, 1])?;
    }
    Ok(())
}

#[test]
fn a_wrong_group_swapped_groups_and_the_key_of_another_host_have_their_own_messages() -> Result<()>
{
    let case = JudgedDisk::new(&sealed("a"))?;
    let right = RecoveryKey::of("a", "big")?.groups;
    let groups: Vec<&str> = right.split('-').collect();
    let with = |index: usize, group: &str| {
        let mut groups = groups.clone();
        groups[index] = group;
        groups.join("-")
    };
    let mut swapped = groups.clone();
    swapped.swap(3, 9);
    let mistyped = match groups[4].strip_suffix('0') {
        Some(digits) => format!("{digits}1"),
        None => format!("{}0", &groups[4][..5]),
    };
    for (key, said) in [
        (with(4, &mistyped), "group 5 is wrong"),
        (with(4, "12345"), "group 5 is not six digits"),
        (swapped.join("-"), "groups 4 and 10 are swapped"),
        (groups[1..].join("-"), "has 15 groups of digits, not 16"),
    ] {
        let run = revert_with(&case, &key)?.expect(USAGE)?;
        ensure!(
            run.said().contains(said),
            "{said:?} is not in {}",
            run.said()
        );
        case.judge.nothing_changed()?;
    }
    let other = RecoveryKey::of("b", "big")?.groups;
    let run = revert_with(&case, &other)?.expect(REFUSED)?;
    let report = run.report()?;
    for bank in report["disks"][0]["banks"].as_array().context("banks")? {
        let why = bank["why"].as_str().unwrap_or_default();
        ensure!(why.contains("is not the key of this archive"), "{why}");
        assert_eq!(bank["archives"][0]["recovery_key"], "other");
    }
    ensure!(report["recipes"][0]["bank_uuid"].is_string(), "{report}");
    case.judge.nothing_changed()
}

/// Every form in which a key may appear.
fn forms(key: &RecoveryKey) -> Result<Vec<(&'static str, Vec<u8>)>> {
    let pairs = key.hex.as_bytes().chunks(2);
    let bytes = pairs.map(|pair| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?));
    let bytes: Vec<u8> = bytes.collect::<Result<_>>()?;
    let listed: Vec<String> = bytes.iter().map(u8::to_string).collect();
    let digits = key.groups.replace('-', "");
    let text = |text: &str| text.as_bytes().to_vec();
    Ok(vec![
        ("its groups", text(&key.groups)),
        ("a group of it", text(&key.groups[..13])),
        ("another group of it", text(&key.groups[98..])),
        ("its digits", text(&digits)),
        ("some of its digits", text(&digits[..24])),
        (
            "its digits with blanks",
            text(&key.groups.replace('-', " ")),
        ),
        ("hex", text(&key.hex)),
        ("the beginning of the hex", text(&key.hex[..24])),
        ("large hex", text(&key.hex.to_uppercase())),
        ("base64", text(key.base64.trim_end_matches('='))),
        ("a list of its bytes", text(&listed[..8].join(", "))),
        ("its bytes", bytes),
    ])
}

#[test]
fn no_form_of_the_key_is_in_anything_that_a_run_leaves() -> Result<()> {
    let key = RecoveryKey::of("a", "little")?;
    for host in ["a", "b"] {
        let case = JudgedDisk::new(&sealed(host))?;
        let file = key_file(&case, &key.groups)?;
        let mut left: Vec<(String, Vec<u8>)> = Vec::new();
        for command in [
            &["inspect", "--explain"][..],
            &["inspect", "--json"],
            &["revert", "--devices", BOOT, "--dry-run"],
            &["revert", "--devices", BOOT, "--yes"],
            &["revert", "--devices", BOOT, "--yes", "--json"],
        ] {
            let key = ["--verbose", "--recovery-key-file", &file];
            let run = case.run(&[command, &key].concat())?;
            left.push((format!("{command:?}, output"), run.output.stdout.clone()));
            left.push((format!("{command:?}, errors"), run.output.stderr.clone()));
        }
        for bank in [0, 1] {
            let volume = case.judge.bank(bank)?;
            for name in volume.entries()?.keys() {
                left.push((format!("{name} of bank {bank}"), volume.read(name)?));
            }
        }
        for (place, bytes) in &left {
            for (form, wanted) in forms(&key)? {
                let is_there = bytes.windows(wanted.len()).any(|piece| piece == wanted);
                ensure!(!is_there, "{form} is in {place}");
            }
        }
        ensure!(left.iter().any(|(_, bytes)| !bytes.is_empty()));
    }
    // The search itself finds what is there.
    let shown = format!("{}\n{}", key.groups, key.hex).into_bytes();
    let found = forms(&key)?
        .into_iter()
        .filter(|(_, wanted)| shown.windows(wanted.len()).any(|piece| piece == wanted));
    ensure!(found.count() >= 5);
    Ok(())
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
    let case = JudgedDisk::new(&disk)?;
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
    let case = JudgedDisk::new(&sealed("a"))?;
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
    let case = JudgedDisk::new(&disk)?;
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
    let case = JudgedDisk::new(&disk)?;
    let newest = ["revert", "--devices", BOOT, "--source", "newest", "--yes"];
    let said = plain(&case.run(&newest)?.expect(REFUSED)?.said());
    ensure!(
        said.contains("it is not known whether ESXi starts with it")
            && !said.contains("gives this bank the configuration"),
        "{said}"
    );
    case.judge.repaired(&[1], &[SATA])
}

// --- an archive that was given -------------------------------------------------------------------

/// An archive like that of the first bank, with a change, packed as a file.
fn given(case: &JudgedDisk, name: &str, change: impl FnOnce(&mut Archive)) -> Result<PathBuf> {
    let mut archive = case.made.banks[0].archive.clone();
    archive.backup_counter = Some(99);
    change(&mut archive);
    let folder = case.file(name);
    fs::create_dir(&folder)?;
    let packed = archive.pack(&folder, name)?;
    packed.context("an archive")
}

fn import(case: &JudgedDisk, file: &Path, more: &[&str]) -> Result<Run> {
    let file = file.display().to_string();
    let revert = [
        "revert",
        "--devices",
        BOOT,
        "--yes",
        "--json",
        "--source",
        &file,
    ];
    case.run(&[&revert[..], more].concat())
}

/// It is not taken, for a reason that has these words, and nothing was written.
fn refuses(case: &JudgedDisk, file: &Path, words: &str) -> Result<()> {
    let report = import(case, file, &[])?.expect(REFUSED)?.report()?;
    for bank in report["disks"][0]["banks"].as_array().context("banks")? {
        let why = bank["why"].as_str().unwrap_or_default();
        ensure!(why.contains(words), "{words:?} is not in {why:?}");
        let remedy = bank["remedy"].as_str().unwrap_or_default();
        ensure!(remedy.contains("--trust-source"), "{remedy:?}");
    }
    case.judge.nothing_changed()
}

/// A configBundle around a state archive.
fn config_bundle(case: &JudgedDisk, state: &Path, manifest: Option<&str>) -> Result<PathBuf> {
    let folder = tempfile::Builder::new().tempdir_in(case.folder.path())?;
    fs::copy(state, folder.path().join("state.tgz"))?;
    let mut names = vec!["state.tgz".to_owned()];
    if let Some(text) = manifest {
        fs::write(folder.path().join("Manifest.txt"), text)?;
        names.push("Manifest.txt".into());
    }
    let tar = archive::tar(folder.path(), &names, Dialect::OldGnu, 1_700_000_000)?;
    let file = case.file("configBundle-esx01.tgz");
    fs::write(&file, archive::gzip(tar)?)?;
    Ok(file)
}

/// The boot controller is given back.
fn given_back(archive: &mut Archive) {
    for device in &mut archive.devices {
        if device.address == SATA {
            device.owner = Owner::Vmkernel;
        }
    }
}

/// The kind of archive that 7.0U2 and later save without a TPM.
fn unsealed() -> EsxiDisk {
    EsxiDisk::v80().every_bank(|bank| bank.archive.layers = Layers::Sealed(Seal::default()))
}

#[test]
fn a_sealed_archive_of_the_same_host_is_taken_as_it_is_and_can_be_undone() -> Result<()> {
    let case = JudgedDisk::new(&sealed("a"))?;
    let file = given(&case, "given", given_back)?;
    let report = import(&case, &file, &[])?.expect(DONE)?.report()?;
    assert_eq!(report["result"], "restored");
    assert_eq!(report["source"]["as_it_is"], true);
    assert_eq!(report["source"]["trusted"], false);
    case.judge.holds_in_both_banks(&fs::read(&file)?)?;
    // dissect.hypervisor opens it, with the key of the host.
    assert_eq!(
        case.judge.store_owners(0)?["0000:00:1f.2"],
        "OWNER_VMKERNEL"
    );
    assert_eq!(import(&case, &file, &[])?.expect(DONE)?.result()?, "clean");
    case.run(&["restore", "--yes"])?.expect(DONE)?;
    case.judge.restored(&[0, 1])
}

#[test]
fn a_sealed_archive_of_another_host_is_taken_only_if_a_person_vouches_for_it() -> Result<()> {
    let case = JudgedDisk::new(&sealed("a"))?;
    let file = given(&case, "given", |archive| {
        archive.layers = Layers::Sealed(Seal::by_tpm("b"));
    })?;
    refuses(
        &case,
        &file,
        "it is from another host, or this host had another key then",
    )?;
    let report = import(&case, &file, &["--trust-source"])?
        .expect(DONE)?
        .report()?;
    assert_eq!(report["source"]["trusted"], true);
    case.judge.holds_in_both_banks(&fs::read(&file)?)
}

#[test]
fn a_readable_archive_is_edited_like_any_other() -> Result<()> {
    let case = JudgedDisk::new(&unsealed())?;
    let file = given(&case, "given", |_| ())?;
    let report = import(&case, &file, &[])?.expect(DONE)?.report()?;
    assert_eq!(report["result"], "reverted");
    assert_eq!(report["source"]["as_it_is"], false);
    for bank in [0, 1] {
        assert_eq!(
            case.judge.store_owners(bank)?["0000:00:1f.2"],
            "OWNER_VMKERNEL"
        );
        let (before, now) = (case.judge.bank_before(bank)?, case.judge.bank(bank)?);
        ensure!(now.read("STATE.ORG")? == before.read("STATE.TGZ")?);
    }
    let read = |bank| case.judge.bank(bank)?.read("STATE.TGZ");
    let report = case.run(&["inspect", "--json"])?.report()?;
    for archive in archives(&report)? {
        assert_eq!(
            archive["saved_count"], 99,
            "both banks hold the given archive"
        );
    }
    // The second run finds it there, although the ConfigStore has noted when it was changed.
    let there = [read(0)?, read(1)?];
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert_eq!(import(&case, &file, &[])?.expect(DONE)?.result()?, "clean");
    ensure!(there == [read(0)?, read(1)?]);
    // A device that nobody asked for stays as it is.
    assert_eq!(
        case.judge.store_owners(0)?["0000:01:00.0"],
        "OWNER_PASSTHRU"
    );
    Ok(())
}

#[test]
fn a_readable_archive_of_another_host_is_refused() -> Result<()> {
    let case = JudgedDisk::new(&unsealed())?;
    let other = "11111111-2222-3333-4444-555555555555";
    let file = given(&case, "given", |archive| archive.system_uuid = Some(other))?;
    refuses(&case, &file, &format!("its system UUID is {other}"))
}

#[test]
fn an_archive_that_is_not_sealed_does_not_take_the_place_of_a_sealed_one_by_itself() -> Result<()> {
    let case = JudgedDisk::new(&sealed("a"))?;
    let file = given(&case, "given", |archive| {
        archive.layers = Layers::Sealed(Seal::default());
    })?;
    refuses(
        &case,
        &file,
        "is not sealed by a TPM, and an archive of this disk is",
    )
}

#[test]
fn a_config_bundle_gives_its_archive_if_its_manifest_names_the_build() -> Result<()> {
    let case = JudgedDisk::new(&sealed("a"))?;
    let state = given(&case, "given", given_back)?;
    let bundle = config_bundle(&case, &state, Some("RELEASELEVEL=8.0.1\nBUILD=21495797\n"))?;
    refuses(
        &case,
        &bundle,
        "its manifest does not name 8.0.2-0.0.22380479",
    )?;
    let bundle = config_bundle(&case, &state, None)?;
    refuses(&case, &bundle, "its manifest")?;
    let bundle = config_bundle(&case, &state, Some("RELEASELEVEL=8.0.2\nBUILD=22380479\n"))?;
    import(&case, &bundle, &[])?.expect(DONE)?;
    case.judge.holds_in_both_banks(&fs::read(&state)?)
}

#[test]
fn what_is_cut_short_or_no_archive_is_refused() -> Result<()> {
    let case = JudgedDisk::new(&sealed("a"))?;
    let whole = fs::read(given(&case, "given", given_back)?)?;
    let file = case.file("state.tgz");
    let page = b"<html>Not found</html>".to_vec();
    let [half, most] = [whole.len() / 2, whole.len() - 1].map(|end| whole[..end].to_vec());
    for bytes in [half, most, page, Vec::new()] {
        fs::write(&file, bytes)?;
        let run = import(&case, &file, &["--trust-source"])?.expect(USAGE)?;
        ensure!(
            run.said()
                .contains("is no state archive that ESXi could load"),
            "{}",
            run.said()
        );
        case.judge.nothing_changed()?;
    }
    let none = import(&case, &case.file("none"), &[])?.expect(USAGE)?;
    ensure!(none.said().contains("cannot be read"), "{}", none.said());
    Ok(())
}

#[test]
fn a_bank_of_another_build_is_left_as_it_is() -> Result<()> {
    let disk = sealed("a").bank(1, |bank| {
        if let Some(boot_cfg) = &mut bank.boot_cfg {
            boot_cfg.build = "7.0.3-0.0.18644231".into();
        }
    });
    let case = JudgedDisk::new(&disk)?;
    let file = given(&case, "given", given_back)?;
    import(&case, &file, &[])?.expect(DONE)?;
    case.judge.only_banks_changed(&[0])?;
    ensure!(case.judge.bank(0)?.read("STATE.TGZ")? == fs::read(&file)?);
    Ok(())
}
