//! No run says that all is well while the bank that boots next still passes a device through that ESXi
//! needs: what the agent's own reader does not take, what the loader takes first, what was not chosen.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use rescue_tests::agent::{self, DONE, REFUSED, USAGE};
use rescue_tests::esxi::EsxiDisk;
use rescue_tests::esxi::archive::Flaw;
use rescue_tests::esxi::host::SATA;
use rescue_tests::esxi::layout::Layout;
use rescue_tests::judge::loader::{Archives, NextStart, next_start};
use rescue_tests::judged_disk::JudgedDisk;
use rescue_tests::power::medium::{Image, Medium};
use rescue_tests::power::reader::crc32;
use rescue_tests::tools::Tool;
use serde_json::Value;

/// The boot controller, as a selector.
const BOOT: &str = "0000:00:1f.2";

fn le16(bytes: &[u8], at: usize) -> u64 {
    u64::from(bytes[at]) | u64::from(bytes[at + 1]) << 8
}

/// A FAT16 volume's places, read here by the specification.
struct Places {
    table: u64,
    root: u64,
    root_bytes: usize,
}

impl Places {
    fn of(image: &File, start: u64) -> Result<Self> {
        let mut boot = [0; 512];
        image.read_exact_at(&mut boot, start)?;
        let table = start + le16(&boot, 14) * 512;
        Ok(Self {
            table,
            root: table + u64::from(boot[16]) * le16(&boot, 22) * 512,
            root_bytes: usize::try_from(le16(&boot, 17) * 32)?,
        })
    }

    /// Where on the disk the directory entry is for which something holds.
    fn entry(&self, image: &File, wanted: impl Fn(&[u8]) -> bool) -> Result<(u64, Vec<u8>)> {
        let mut root = vec![0; self.root_bytes];
        image.read_exact_at(&mut root, self.root)?;
        let mut slots = (0..).zip(root.chunks_exact(32));
        let found = slots
            .find(|(_, slot)| wanted(slot))
            .context("no such entry")?;
        Ok((self.root + found.0 * 32, found.1.to_vec()))
    }
}

/// Makes a bank's boot.cfg's chain go on behind its end: to `next`, given the cluster that ends it.
fn lengthen_boot_cfg(case: &JudgedDisk, bank: usize, next: fn(u16) -> u16) -> Result<()> {
    let image = case.image()?;
    let places = Places::of(&image, case.start(bank)?)?;
    let (_, entry) = places.entry(&image, |slot| slot.starts_with(b"BOOT    CFG"))?;
    let cluster = le16(&entry, 26);
    let place = places.table + cluster * 2;
    let mut link = [0; 2];
    image.read_exact_at(&mut link, place)?;
    ensure!(
        u16::from_le_bytes(link) >= 0xfff8,
        "boot.cfg has one cluster"
    );
    let next = next(u16::try_from(cluster)?);
    Ok(image.write_all_at(&next.to_le_bytes(), place)?)
}

/// Damage of a bank, after which VMware's loader boots it all the same.
type Damage = fn(&JudgedDisk, usize) -> Result<()>;

const STILL_BOOTED: [(&str, Damage); 5] = [
    ("no signature in the boot sector", |case, bank| {
        let at = case.start(bank)? + 510;
        Ok(case.image()?.write_all_at(&[0, 0], at)?)
    }),
    (
        "a volume one sector larger than its partition",
        |case, bank| {
            let (image, at) = (case.image()?, case.start(bank)? + 32);
            let mut sectors = [0; 4];
            image.read_exact_at(&mut sectors, at)?;
            let larger = u32::from_le_bytes(sectors) + 1;
            Ok(image.write_all_at(&larger.to_le_bytes(), at)?)
        },
    ),
    ("boot.cfg with a cluster too many", |case, bank| {
        // The first free-looking high cluster is named; the loader never goes there.
        lengthen_boot_cfg(case, bank, |_| 60_000)
    }),
    ("boot.cfg with a loop behind its end", |case, bank| {
        lengthen_boot_cfg(case, bank, |cluster| cluster)
    }),
    ("a partition one sector too short", |case, bank| {
        let number = 5 + bank;
        let said = Tool::new("sgdisk")?
            .arg(format!("-i={number}"))
            .arg(&case.made.image)
            .run_text()?;
        let field = |name: &str| -> Result<u64> {
            let line = said.lines().find_map(|line| line.strip_prefix(name));
            let word = line.and_then(|line| line.split_whitespace().next());
            Ok(word.context("sgdisk tells it")?.parse()?)
        };
        let (first, last) = (field("First sector: ")?, field("Last sector: ")?);
        Tool::new("sgdisk")?
            .arg("--set-alignment=1")
            .arg(format!("-d={number}"))
            .arg(format!("-n={number}:{first}:{}", last - 1))
            .arg(format!("-t={number}:0700"))
            .arg(&case.made.image)
            .run_text()?;
        Ok(())
    }),
];

/// Either the bank that boots next is repaired, or the run does not say that all is well, and says
/// which bank boots next.
fn ends_honestly(what: &str, run: &agent::Run, repaired: &dyn Fn() -> Result<()>) -> Result<()> {
    let (result, report) = (run.result()?, run.report()?);
    match result.as_str() {
        "reverted" => repaired().with_context(|| format!("{what}: said to be repaired")),
        "refused" => {
            let disk = &report["disks"][0];
            ensure!(disk["boots_next"] == 5, "{what}: {disk}");
            let names = |list: &Value| {
                let mut all = list.as_array().into_iter().flatten();
                all.any(|one| one["partition"] == 5)
            };
            ensure!(
                names(&disk["suspects"]) || names(&disk["banks"]),
                "{what}: {disk}"
            );
            ensure!(
                run.output.code() == REFUSED && report["next_starts"][0]["good"] == false,
                "{what}: {report}"
            );
            Ok(())
        }
        other => anyhow::bail!("{what} ends as {other}: {}", run.said()),
    }
}

#[test]
fn a_bank_that_the_loader_boots_and_nobody_else_takes_is_no_success() -> Result<()> {
    for (what, damage) in STILL_BOOTED {
        let case = JudgedDisk::new(&EsxiDisk::v67())?;
        damage(&case, 0)?;
        let case = case.judged_from_here()?;
        let run = case.revert(BOOT)?;
        let devices = case.judge.bank(0);
        ends_honestly(what, &run, &|| {
            devices
                .as_ref()
                .map_err(|error| anyhow::anyhow!("{error}"))?;
            let owners = case.judge.owners(0)?;
            ensure!(owners["00000:000:31.2"] == "vmkernel", "{owners:?}");
            Ok(())
        })?;
    }
    Ok(())
}

/// With both banks in that state, nobody may say that there is no ESXi on the disk.
#[test]
fn a_disk_on_which_only_the_loader_takes_the_banks_is_not_called_one_without_esxi() -> Result<()> {
    for (what, damage) in STILL_BOOTED {
        let case = JudgedDisk::new(&EsxiDisk::v67())?;
        damage(&case, 0)?;
        damage(&case, 1)?;
        let case = case.judged_from_here()?;
        let run = agent::revert(BOOT, &case.made.image)?;
        ends_honestly(what, &run, &|| {
            for bank in [0, 1] {
                let owners = case.judge.owners(bank)?;
                ensure!(owners["00000:000:31.2"] == "vmkernel", "{owners:?}");
            }
            Ok(())
        })?;
        ensure!(!run.said().contains("is connected"), "{}", run.said());
    }
    Ok(())
}

#[test]
fn a_bank_that_another_partition_overlaps_is_no_success() -> Result<()> {
    // (sectors behind its start, where the other partition begins): the same sectors, or some of them.
    for behind in [0, 4096] {
        let case = JudgedDisk::new(&EsxiDisk::v67().layout(Layout::mbr_5()))?;
        let image = case.image()?;
        let bank = case.judge.bank(0)?.bytes();
        let first = u32::try_from(bank.start / 512)? + behind;
        let sectors = u32::try_from((bank.end - bank.start) / 512)?;
        // The MBR's third entry, of a type that neither the loader nor the agent looks into.
        let entry = [
            [0, 0, 0, 0],
            [0x07, 0, 0, 0],
            first.to_le_bytes(),
            sectors.to_le_bytes(),
        ];
        image.write_all_at(&entry.concat(), 446 + 2 * 16)?;
        let case = case.judged_from_here()?;
        let run = case.revert(BOOT)?;
        ends_honestly("an overlapped bank", &run, &|| {
            let owners = case.judge.owners(0)?;
            ensure!(owners["00000:000:31.2"] == "vmkernel", "{owners:?}");
            Ok(())
        })?;
        ensure!(
            run.said().contains("overlaps partition 3"),
            "{}",
            run.said()
        );
    }
    Ok(())
}

#[test]
fn an_image_that_ends_inside_the_bank_is_no_success() -> Result<()> {
    let case = JudgedDisk::new(&EsxiDisk::v67())?;
    let end = case.start(0)? + (1 << 20);
    case.image()?.set_len(end)?;
    let run = case.revert(BOOT)?.expect(REFUSED)?;
    ensure!(
        run.report()?["disks"][0]["suspects"][0]["partition"] == 5
            || run.said().contains("partition 5"),
        "{}",
        run.said()
    );
    Ok(())
}

#[test]
fn a_choice_of_banks_that_names_none_is_a_usage_error() -> Result<()> {
    let case = JudgedDisk::new(&EsxiDisk::v67())?;
    for command in [&["revert", "--devices", BOOT][..], &["restore"]] {
        for banks in ["99", "5,99"] {
            let words = [command, &["--yes", "--banks", banks]].concat();
            let run = agent::run(&words, &case.made.image)?.expect(USAGE)?;
            ensure!(run.said().contains("5, 6"), "{}", run.said());
        }
    }
    case.judge.nothing_changed()
}

#[test]
fn a_bank_that_boots_next_and_was_not_chosen_is_no_success() -> Result<()> {
    let case = JudgedDisk::new(&EsxiDisk::v67())?;
    let words = [
        "revert",
        "--devices",
        BOOT,
        "--banks",
        "6",
        "--yes",
        "--json",
    ];
    let run = agent::run(&words, &case.made.image)?.expect(REFUSED)?;
    let report = run.report()?;
    ensure!(
        report["summary"]
            .to_string()
            .contains("partition 5 boots next and still passes"),
        "{report}"
    );
    ensure!(
        report["next_steps"].to_string().contains("Shift+R"),
        "{report}"
    );
    // What was chosen is done all the same.
    case.judge.repaired(&[1], &[SATA])
}

#[test]
fn an_archive_that_is_a_directory_is_refused() -> Result<()> {
    let case = JudgedDisk::new(&EsxiDisk::v67())?;
    case.volume(0)?.remove("STATE.TGZ")?;
    case.volume(0)?.make_directory("STATE.TGZ")?;
    let run = case.revert(BOOT)?.expect(REFUSED)?;
    ensure!(
        run.said().contains("a directory has the name STATE.TGZ"),
        "{}",
        run.said()
    );
    Ok(())
}

#[test]
fn an_archive_that_is_missing_where_the_loader_wants_it_is_no_success() -> Result<()> {
    let case = JudgedDisk::new(&EsxiDisk::v67())?;
    case.volume(0)?.remove("STATE.TGZ")?;
    let run = case.revert(BOOT)?.expect(REFUSED)?;
    let report = run.report()?;
    ensure!(
        report["summary"].to_string().contains("is missing"),
        "{report}"
    );
    ensure!(report["next_starts"][0]["other_bank"] == 6, "{report}");
    Ok(())
}

/// The archive of a repaired bank is gone, and what the repair kept is there.
#[test]
fn an_original_without_its_archive_is_not_said_to_be_of_no_repair() -> Result<()> {
    for (bank, status) in [(0, REFUSED), (1, DONE)] {
        let case = JudgedDisk::new(&EsxiDisk::v67())?;
        agent::revert(BOOT, &case.made.image)?.expect(DONE)?;
        case.volume(bank)?.remove("STATE.TGZ")?;
        let original = case.judge.bank(bank)?.read("STATE.ORG")?;
        let run = agent::run(&["restore", "--yes", "--json"], &case.made.image)?.expect(status)?;
        let report = run.report()?;
        let told = &report["disks"][0]["banks"][bank];
        let why = told["why"].to_string();
        ensure!(
            why.contains("STATE.TGZ") && why.contains("is missing"),
            "{told}"
        );
        ensure!(!run.said().contains("no repair has changed"), "{told}");
        ensure!(
            format!("{why}{}", told["remedy"]).contains("--source newest"),
            "{told}"
        );
        ensure!(case.judge.bank(bank)?.read("STATE.ORG")? == original);
        // The other bank is as it was before the repair.
        let other = case.judge.bank(1 - bank)?.read("STATE.TGZ")?;
        ensure!(other == case.judge.bank_before(1 - bank)?.read("STATE.TGZ")?);
    }
    Ok(())
}

#[test]
fn the_archive_that_boot_cfg_loads_is_the_one_that_is_repaired() -> Result<()> {
    let stray = b"not what the loader loads".to_vec();
    let disk = EsxiDisk::v41_embedded()
        .every_bank(|bank| bank.files.push(("state.tgz".into(), stray.clone())));
    let case = JudgedDisk::new(&disk)?;
    let run = case.revert(BOOT)?.expect(DONE)?;
    ensure!(run.result()? == "reverted", "{}", run.said());
    for bank in [0, 1] {
        ensure!(case.judge.bank(bank)?.read("STATE.TGZ")? == stray);
        let owners = case.judge.owners(bank)?;
        ensure!(owners["000:31.2"] == "vmkernel", "{owners:?}");
    }
    Ok(())
}

#[test]
fn what_has_the_archives_name_before_it_is_refused() -> Result<()> {
    // (what stands in front, its attributes, what is said)
    let cases = [
        (0x08, "the label of the volume"),
        (0x0f, "a part of a long name"),
        (0x10, "a directory"),
    ];
    for (attributes, said) in cases {
        let case = JudgedDisk::new(&EsxiDisk::v67())?;
        let image = case.image()?;
        let places = Places::of(&image, case.start(0)?)?;
        // The archive moves to a slot further back, and what is called like it stays in its place.
        let (at, archive) = places.entry(&image, |slot| slot.starts_with(b"STATE   TGZ"))?;
        let (end, _) = places.entry(&image, |slot| slot[0] == 0)?;
        image.write_all_at(&archive, end)?;
        image.write_all_at(&[attributes], at + 11)?;
        let run = case.revert(BOOT)?.expect(REFUSED)?;
        ensure!(run.said().contains(said), "{said}: {}", run.said());
        let next = &run.report()?["next_starts"][0];
        ensure!(next["good"] == false, "{said}: {next}");
    }
    Ok(())
}

#[test]
fn a_disk_that_cannot_be_opened_is_not_taken_for_one_without_esxi() -> Result<()> {
    let run = agent::run(&["inspect", "--json"], Path::new("/dev/null"))?.expect(REFUSED)?;
    ensure!(run.said().contains("cannot be opened"), "{}", run.said());
    Ok(())
}

#[test]
fn an_image_that_may_not_be_read_is_not_taken_for_one_without_esxi() -> Result<()> {
    let case = JudgedDisk::new(&EsxiDisk::v67())?;
    fs::set_permissions(&case.made.image, fs::Permissions::from_mode(0o000))?;
    // Without the right of root to read what is forbidden.
    let without = "-dac_override,-dac_read_search";
    let agent = rescue_tests::artefacts::agent()?;
    let tool = match nix::unistd::geteuid().is_root() {
        true => Tool::new("setpriv")?
            .args(["--bounding-set", without, "--inh-caps", without])
            .arg(agent),
        false => Tool::at(agent),
    };
    let output = tool
        .args(["inspect", "--json"])
        .arg(&case.made.image)
        .output()?;
    let said = format!("{}{}", output.text(), output.errors());
    ensure!(
        output.code() == REFUSED && said.contains("Permission denied"),
        "{said}"
    );
    ensure!(!said.contains("No ESXi installation was found"), "{said}");
    Ok(())
}

/// Writes the primary GPT anew with entries of twice the size; its backup stays.
fn widen_entries(image: &File) -> Result<()> {
    let (mut header, mut entries) = (vec![0; 512], vec![0; 128 * 128]);
    image.read_exact_at(&mut header, 512)?;
    image.read_exact_at(&mut entries, 1024)?;
    let wide: Vec<u8> = entries
        .chunks_exact(128)
        .take(62)
        .flat_map(|entry| [entry, &[0; 128]].concat())
        .collect();
    header[80..84].copy_from_slice(&62_u32.to_le_bytes());
    header[84..88].copy_from_slice(&256_u32.to_le_bytes());
    header[88..92].copy_from_slice(&crc32(&wide).to_le_bytes());
    header[16..20].fill(0);
    let sum = crc32(&header[..92]);
    header[16..20].copy_from_slice(&sum.to_le_bytes());
    image.write_all_at(&header, 512)?;
    Ok(image.write_all_at(&wide, 1024)?)
}

/// ESXi's loader takes a GPT with entries of 256 bytes, so that its bank is what boots.
#[test]
fn entries_of_256_bytes_are_not_said_to_keep_the_loader_away() -> Result<()> {
    let case = JudgedDisk::new(&EsxiDisk::v67())?;
    widen_entries(&case.image()?)?;
    ensure!(passed_through_next(&case)?, "the loader takes the table");
    let run = agent::revert(BOOT, &case.made.image)?;
    let said = run.said();
    ensure!(
        said.contains("its entries are of 256 bytes"),
        "the table is said to be odd: {said}"
    );
    ensure!(!said.contains("will not boot"), "{said}");
    let is_well = run.output.code() == DONE;
    ensure!(!(is_well && passed_through_next(&case)?), "{said}");
    Ok(())
}

/// Whether the bank that the loader starts passes the boot controller through, by the reader of the tests.
fn passed_through_next(case: &JudgedDisk) -> Result<bool> {
    let mut image = Image::zeroed(fs::metadata(&case.made.image)?.len(), 512);
    image.write_file(0, &case.made.image)?;
    let next = next_start(&Medium::new(image), &Archives::default())?;
    ensure!(matches!(next, NextStart::Boots(_)), "{next}");
    Ok(next.passes_through(SATA))
}

/// The loader unpacks the outer archive only: what is wrong with an inner one is not said to be its business.
#[test]
fn padding_of_an_inner_archive_is_not_said_to_stop_the_loader() -> Result<()> {
    let case = JudgedDisk::new(&EsxiDisk::v67())?;
    let folder = case.folder.path().join("padded");
    fs::create_dir(&folder)?;
    fs::write(
        folder.join("state.tgz"),
        case.judge.bank(0)?.read("STATE.TGZ")?,
    )?;
    Tool::new("sh")?
        .folder(&folder)
        .arg("-c")
        .arg("tar -xzf state.tgz && truncate -s +512 local.tgz && tar --format=oldgnu -cf - local.tgz | gzip -n9 > padded.tgz")
        .run_text()?;
    for bank in [0, 1] {
        case.volume(bank)?.remove("STATE.TGZ")?;
        case.volume(bank)?
            .put(&folder.join("padded.tgz"), "STATE.TGZ")?;
    }
    ensure!(passed_through_next(&case)?, "the loader takes the archive");
    let run = agent::revert(BOOT, &case.made.image)?;
    let said = run.said();
    match run.output.code() {
        DONE => ensure!(!passed_through_next(&case)?, "{said}"),
        code => ensure!(
            code == REFUSED && said.contains("512 zero bytes stand after the end"),
            "{said}"
        ),
    }
    ensure!(!said.contains("which ESXi's loader does not"), "{said}");
    Ok(())
}

#[test]
fn a_directory_with_something_behind_its_end_is_not_called_full() -> Result<()> {
    let case = JudgedDisk::new(&EsxiDisk::v67())?;
    for bank in [0, 1] {
        let image = case.image()?;
        let places = Places::of(&image, case.start(bank)?)?;
        let (end, _) = places.entry(&image, |slot| slot[0] == 0)?;
        let rest = places.root + places.root_bytes as u64 - end - 32;
        image.write_all_at(&vec![0xa5; usize::try_from(rest)?], end + 32)?;
    }
    let case = case.judged_from_here()?;
    let run = agent::revert(BOOT, &case.made.image)?.expect(REFUSED)?;
    let said = run.said();
    ensure!(
        said.contains("the entries after its end are not empty"),
        "{said}"
    );
    ensure!(!said.contains("the root directory is full"), "{said}");
    case.judge.nothing_changed()
}

#[test]
fn a_damaged_archive_is_refused_with_a_remedy_that_can_be_followed() -> Result<()> {
    let damaged = |bank: &mut rescue_tests::esxi::Bank| {
        bank.flaw(Flaw::Truncated);
    };
    // The other bank has a sound archive of the same build: that is the cure.
    let case = JudgedDisk::new(&EsxiDisk::v67().bank(0, damaged))?;
    let run = case.revert(BOOT)?.expect(REFUSED)?;
    ensure!(run.said().contains("--source newest"), "{}", run.said());
    // Both are damaged: neither is of any use to the other.
    let case = JudgedDisk::new(&EsxiDisk::v67().every_bank(damaged))?;
    let run = case.revert(BOOT)?.expect(REFUSED)?;
    let banks = run.report()?["disks"][0]["banks"].clone();
    for bank in banks.as_array().context("banks")? {
        let remedy = bank["remedy"].to_string();
        ensure!(
            remedy.contains("no other bank") && !remedy.contains("Shift+R"),
            "{remedy}"
        );
    }
    case.judge.nothing_changed()
}

#[test]
fn a_small_archive_that_unpacks_without_end_takes_little_memory() -> Result<()> {
    let case = JudgedDisk::new(&EsxiDisk::v67())?;
    // 300 MiB of zeros.
    let bomb = case.folder.path().join("bomb");
    Tool::new("sh")?
        .arg("-c")
        .arg("head -c 314572800 /dev/zero | gzip -9 > \"$0\"")
        .arg(&bomb)
        .run_text()?;
    for bank in [0, 1] {
        case.volume(bank)?.remove("STATE.TGZ")?;
        case.volume(bank)?.put(&bomb, "STATE.TGZ")?;
    }
    let agent = rescue_tests::artefacts::agent()?;
    // 128 MiB for all of it, by the system's own limit.
    let output = Tool::new("prlimit")?
        .arg("--data=134217728")
        .arg(agent)
        .args(["inspect", "--json"])
        .arg(&case.made.image)
        .output()?;
    let said = format!("{}{}", output.text(), output.errors());
    ensure!(
        output.code() == REFUSED && said.contains("expands to more than"),
        "{said}"
    );
    Ok(())
}
