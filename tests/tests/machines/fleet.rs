//! A rack through its BMCs: the plays of `dist/fleet/` against real machines behind an emulator of Redfish, and
//! against BMCs whose machines are none. The disks are judged from outside.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rescue_tests::artefacts;
use rescue_tests::collector::{Collector, Start, file, report};
use rescue_tests::esxi::EsxiDisk;
use rescue_tests::esxi::archive::{Layers, Seal};
use rescue_tests::esxi::host::SATA;
use rescue_tests::judge::Judge;
use rescue_tests::ports;
use rescue_tests::rack::{self, Behind, PASSWORD, Rack, USER};
use rescue_tests::receiver::Certificate;
use rescue_tests::tools::Tool;
use serde_json::{Value, json};

/// The rescue image with network drivers, which reports to a collector on this port.
fn image(folder: &Path, port: u16, certificate: &Certificate) -> Result<PathBuf> {
    let cache = folder.join("cache");
    // A copy, because the cache keeps the kernel of the last build only.
    Tool::new("cp")?
        .arg("-a")
        .arg(artefacts::workspace().join(".cache"))
        .arg(&cache)
        .run()?;
    Tool::at(artefacts::builder()?)
        .args(["build", "--quiet", "--net", "--offline", "--out"])
        .arg(folder.join("net"))
        .arg("--cache")
        .arg(cache)
        .arg("--agent")
        .arg(artefacts::agent()?)
        .deadline(Duration::from_secs(400))
        .run()?;
    let iso = folder.join("lab.iso");
    let settings = [
        "countdown=0".to_owned(),
        // The emulator forgets that a start was to be the only one from the CD.
        "finish=poweroff".to_owned(),
        format!("report=https://10.0.2.2:{port}/"),
        format!("report_pin={}", certificate.fingerprint),
    ];
    let mut tool = Tool::at(artefacts::builder()?)
        .arg("customize")
        .arg(folder.join("net/esxi-rescue.iso"));
    for setting in &settings {
        tool = tool.args(["--set", setting]);
    }
    tool.arg("-o").arg(&iso).run()?;
    Ok(iso)
}

/// The plays, laid out by the builder, and a rack for them.
struct Plays {
    folder: PathBuf,
    collect: Collector,
    hosts: BTreeMap<String, Value>,
    variables: Value,
}

/// How a run of a play ended.
struct Told {
    code: i32,
    text: String,
    /// The rows of the table, by host.
    rows: BTreeMap<String, String>,
}

impl Told {
    fn row(&self, host: &str) -> Result<&str> {
        let row = self.rows.get(host).map(String::as_str);
        row.with_context(|| format!("no row of {host}:\n{}", self.text))
    }

    /// The row of a host has all of these words.
    fn row_has(&self, host: &str, words: &[&str]) -> Result<()> {
        let row = self.row(host)?;
        for word in words {
            ensure!(
                row.contains(word),
                "{word:?} is not in {row:?}:\n{}",
                self.text
            );
        }
        Ok(())
    }
}

impl Plays {
    fn lay_out(folder: &Path, collect: Collector, certificate: &Path) -> Result<Self> {
        let plays = folder.join("fleet");
        Tool::at(artefacts::builder()?)
            .arg("fleet")
            .arg(&plays)
            .run()?;
        let variables = json!({
            "ansible_connection": "local",
            "bmc_user": USER,
            "bmc_password": PASSWORD,
            "esxi_rescue_iso": collect.image_url().unwrap_or_default(),
            "esxi_rescue_store": collect.store(),
            "esxi_rescue_program": artefacts::builder()?,
            "esxi_rescue_ca_path": certificate,
            "esxi_rescue_grace": 3,
            "esxi_rescue_wait": 600,
        });
        Ok(Self {
            folder: plays,
            collect,
            hosts: BTreeMap::new(),
            variables,
        })
    }

    fn host(&mut self, name: &str, variables: Value) {
        self.hosts.insert(name.to_owned(), variables);
    }

    fn play(&self, play: &str, more: &[&str]) -> Result<Told> {
        // YAML reads JSON.
        let inventory = json!({"esxi_rescue": {"vars": self.variables, "hosts": self.hosts}});
        fs::write(self.folder.join("rack.yml"), inventory.to_string())?;
        let arguments = [
            &["-i", "rack.yml", "-e", "esxi_rescue_yes=true", play],
            more,
        ]
        .concat();
        let start = Instant::now();
        let output = rack::playbook(&self.folder, &arguments)?;
        println!("{play} {more:?} took {:?}", start.elapsed());
        let text = output.text() + &output.errors();
        let log = fs::read_to_string(self.folder.join("repair.log")).unwrap_or_default();
        ensure!(
            !text.contains(PASSWORD) && !log.contains(PASSWORD),
            "the password is in the output:\n{text}"
        );
        let rows = text.lines().filter_map(|line| {
            let row = line
                .trim()
                .trim_start_matches("- ")
                .trim_matches(['"', '\'', ',']);
            let host = row.split_whitespace().next()?;
            self.hosts
                .contains_key(host)
                .then(|| (host.to_owned(), row.to_owned()))
        });
        // The table comes before the recap, whose lines begin with a host as well.
        let mut table = BTreeMap::new();
        for (host, row) in rows {
            if row.contains("127.0.0.1:") {
                table.entry(host).or_insert(row);
            }
        }
        Ok(Told {
            code: output.code(),
            text,
            rows: table,
        })
    }
}

/// Whether the password of the BMCs stands in the arguments or the environment of any process.
fn password_is_seen() -> bool {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|process| fs::read(process.path().join("cmdline")).ok())
        .any(|line| String::from_utf8_lossy(&line).contains(PASSWORD))
}

/// Does `work` while looking for the password in the list of processes.
fn watched<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    let (over, seen) = (AtomicBool::new(false), AtomicBool::new(false));
    let done = thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                if password_is_seen() {
                    seen.store(true, Ordering::Relaxed);
                }
                thread::sleep(Duration::from_millis(100));
            }
        });
        let done = work();
        over.store(true, Ordering::Relaxed);
        done
    })?;
    ensure!(
        !seen.load(Ordering::Relaxed),
        "the password was in the list of processes"
    );
    Ok(done)
}

const OFF: &str = "5d0f1a34-9d9b-4b7c-8a7e-0c6f3c1d0a01";
const ON: &str = "5d0f1a34-9d9b-4b7c-8a7e-0c6f3c1d0a02";
const SEALED: &str = "5d0f1a34-9d9b-4b7c-8a7e-0c6f3c1d0a03";
const IDLE: &str = "5d0f1a34-9d9b-4b7c-8a7e-0c6f3c1d0a04";

#[test]
fn a_rack_is_repaired_through_its_bmcs() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut rack = Rack::start()?;
    let port = ports::free()?;
    let certificate = Certificate::make(folder.path(), "collect", "ec")?;
    let iso = image(folder.path(), port, &certificate)?;
    let collect = Start::default()
        .port(port)
        .tls(&certificate)
        .args([
            "--serve",
            &iso.display().to_string(),
            "--serve-listen",
            "127.0.0.1:0",
        ])
        .start()?;
    let disks = rack.folder_for("disks")?;
    let tpm = Seal {
        mode: "TPM",
        ..Seal::default()
    };
    let sealed =
        EsxiDisk::v80().every_bank(|bank| bank.archive.layers = Layers::Sealed(tpm.clone()));
    let mut judges = BTreeMap::new();
    for (name, uuid, disk) in [
        ("esx1-off", OFF, EsxiDisk::v67()),
        ("esx2-on", ON, EsxiDisk::v703()),
        ("esx3-sealed", SEALED, sealed),
        ("esx4-idle", IDLE, EsxiDisk::v67()),
    ] {
        let made = disk.make(&disks, name)?;
        judges.insert(name, Judge::new(&made, folder.path())?);
        let (serial, board) = (format!("S-{name}"), format!("B-{name}"));
        rack.add(&Behind {
            name,
            uuid,
            serial: &serial,
            board: &board,
            disk: &made.image,
        })?;
    }
    rack.switch_on("esx2-on")?;
    let mut plays = Plays::lay_out(folder.path(), collect, &rack.certificate.certificate)?;
    let untrusted = rack.add_fake("6d0f1a34-9d9b-4b7c-8a7e-0c6f3c1d0a05", true)?;
    rack.wait_for_bmcs(&[untrusted])?;
    let bmc = format!("127.0.0.1:{}", rack.port);
    // The first by name goes first.
    plays.host("esx1-off", json!({"bmc": bmc, "bmc_system": OFF}));
    plays.host("esx2-on", json!({"bmc": bmc, "bmc_system": ON}));
    plays.host("esx3-sealed", json!({"bmc": bmc, "bmc_system": SEALED}));
    plays.host(
        "esx4-wrong",
        json!({"bmc": bmc, "bmc_system": IDLE, "bmc_password": "wrong"}),
    );
    let nowhere = plays.collect.image_url()?.replace("lab.iso", "none.iso");
    plays.host(
        "esx5-nothing",
        json!({"bmc": bmc, "bmc_system": IDLE, "esxi_rescue_iso": nowhere}),
    );
    plays.host(
        "esx6-untrusted",
        json!({"bmc": format!("127.0.0.1:{untrusted}")}),
    );

    let looked = plays.play(
        "repair.yml",
        &["--check", "--limit", "esx1-off,esx2-on,esx4-wrong"],
    )?;
    looked.row_has("esx1-off", &["would repair"])?;
    looked.row_has("esx4-wrong", &["error", "401"])?;
    for judge in judges.values() {
        judge.nothing_changed()?;
    }
    ensure!(!rack.is_on("esx1-off")? && rack.is_on("esx2-on")? && !rack.has_medium("esx1-off")?);
    ensure!(
        !plays.collect.store().join("started").exists(),
        "a look leaves no note"
    );

    let told = watched(|| plays.play("repair.yml", &[]))?;
    ensure!(told.code == 2, "{}: {}", told.code, told.text);
    let consoles = || format!("{}\n{}", rack.console("esx1-off"), rack.console("esx2-on"));
    told.row_has("esx1-off", &["reverted", "S-esx1-off"])
        .with_context(consoles)?;
    told.row_has("esx2-on", &["reverted", "S-esx2-on"])
        .with_context(consoles)?;
    told.row_has("esx3-sealed", &["refused"])?;
    told.row_has("esx4-wrong", &["error", "401"])?;
    told.row_has("esx5-nothing", &["error", "VirtualMediaInsert", "none.iso"])?;
    told.row_has("esx6-untrusted", &["error", "certificate"])?;
    // A host that was refused stays on, and says why on its console.
    ensure!(rack.is_on("esx3-sealed")?);
    rack.switch_off("esx3-sealed")?;
    for name in ["esx1-off", "esx2-on", "esx3-sealed"] {
        rack.wait_until_off(name)?;
        ensure!(!rack.has_medium(name)?, "the medium is still in {name}");
    }
    judges["esx1-off"].repaired(&[0, 1], &[SATA])?;
    judges["esx2-on"].repaired(&[0, 1], &[SATA])?;
    judges["esx3-sealed"].nothing_changed()?;
    judges["esx4-idle"].nothing_changed()?;
    ensure!(!rack.is_on("esx4-idle")?);
    let lines = fs::read_to_string(plays.collect.store().join("reports.jsonl"))?;
    let first: Value = serde_json::from_str(lines.lines().next().context("no report")?)?;
    ensure!(
        first["report"]["host"]["board_serial"] == "B-esx1-off",
        "{}",
        first["report"]["host"]
    );

    // The same again: nothing is done to the two that are well.
    let retry = fs::read_to_string(plays.folder.join("repair.retry"))?;
    ensure!(
        !retry.contains("esx1-off") && retry.contains("esx4-wrong"),
        "{retry}"
    );
    let again = plays.play("repair.yml", &["--limit", "esx1-off,esx2-on"])?;
    ensure!(again.code == 0, "{}", again.text);
    again.row_has("esx1-off", &["reverted", "already"])?;
    ensure!(
        again.text.matches("changed=0").count() == 2,
        "{}",
        again.text
    );
    ensure!(!rack.is_on("esx1-off")? && !rack.is_on("esx2-on")?);
    Ok(())
}

#[test]
fn eight_bmcs_at_once_and_none_is_forgotten() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut rack = Rack::start()?;
    let iso = file(folder.path(), "lab.iso", vec![7; 100_000])?;
    let collect = Start::default()
        .args(["--serve", &iso.display().to_string()])
        .start()?;
    let mut plays = Plays::lay_out(folder.path(), collect, &rack.certificate.certificate)?;
    let mut ports = Vec::new();
    for number in 0..8 {
        let uuid = format!("7d0f1a34-9d9b-4b7c-8a7e-0c6f3c1d0a{number:02}");
        let port = rack.add_fake(&uuid, false)?;
        ports.push(port);
        plays.host(
            &format!("fake{number}"),
            json!({"bmc": format!("127.0.0.1:{port}")}),
        );
    }
    rack.wait_for_bmcs(&ports)?;
    // The first one is not repaired: nobody else is touched.
    plays.variables["esxi_rescue_canary"] = json!(true);
    let good = plays.hosts["fake0"].clone();
    let mut wrong = good.clone();
    wrong["bmc_password"] = json!("wrong");
    plays.host("fake0", wrong);
    let told = plays.play("repair.yml", &["--limit", "fake0,fake1,fake2"])?;
    told.row_has("fake0", &["error", "401"])?;
    told.row_has("fake2", &["not started", "fake0 is the first host"])?;
    ensure!(
        told.code == 2 && !plays.collect.store().join("started").exists(),
        "{}",
        told.text
    );
    plays.host("fake0", good);
    plays
        .hosts
        .entry("fake6".to_owned())
        .and_modify(|host| host["esxi_rescue_route"] = json!("pxe"));
    plays.variables["esxi_rescue_canary"] = json!(false);
    // Those that say nothing: a medium stays in, and a run that waits for longer goes on waiting.
    let silent = plays.play(
        "repair.yml",
        &["--limit", "fake1,fake6", "-e", "esxi_rescue_wait=2"],
    )?;
    silent.row_has("fake1", &["no report", "Nobody read the image", "still in"])?;
    silent.row_has("fake6", &["no report", "did it start from the network"])?;
    ensure!(
        !silent.rows["fake6"].contains("still in"),
        "{}",
        silent.text
    );
    plays
        .hosts
        .entry("fake5".to_owned())
        .and_modify(|host| host["bmc_slot"] = json!("Cd"));
    let over = AtomicBool::new(false);
    let told = thread::scope(|scope| -> Result<Told> {
        // In place of the hosts: whoever was started reports, but for the last one, which is refused.
        let hosts = scope.spawn(|| report_for_the_started(&plays, &over));
        let told = plays.play("repair.yml", &[]);
        over.store(true, Ordering::Relaxed);
        hosts.join().map_err(|_| anyhow::anyhow!("it panicked"))??;
        told
    })?;
    for number in 0..7 {
        told.row_has(&format!("fake{number}"), &["reverted"])?;
    }
    told.row_has("fake7", &["refused"])?;
    ensure!(told.code == 2, "{}", told.text);
    ensure!(boots_from(&plays, ports[5], 5)? == "Cd" && boots_from(&plays, ports[6], 6)? == "Pxe");
    ensure!(fs::read_to_string(plays.folder.join("repair.retry"))?.trim() == "fake7");
    // It was seen to, and has reported since: the rest of the list is taken.
    let seen_to = as_host(7, "restored");
    let status = plays
        .collect
        .send(&file(folder.path(), "r.json", seen_to)?, &[])?;
    ensure!(status == "201", "{status}");
    let rest = plays.play("repair.yml", &["--limit", "@repair.retry"])?;
    rest.row_has("fake7", &["restored", "already"])?;
    ensure!(rest.code == 0 && rest.rows.len() == 1, "{}", rest.text);
    let ejected = plays.play("eject.yml", &["--limit", "fake2,fake6,fake7"])?;
    ensure!(ejected.code == 0, "{}", ejected.text);
    Ok(())
}

/// What a BMC says that its host starts from next.
fn boots_from(plays: &Plays, port: u16, number: usize) -> Result<String> {
    let url = format!(
        "https://127.0.0.1:{port}/redfish/v1/Systems/7d0f1a34-9d9b-4b7c-8a7e-0c6f3c1d0a{number:02}"
    );
    // Not as an argument: another test looks for the password in the list of processes.
    let user = format!("user = \"{USER}:{PASSWORD}\"\n");
    let tool = plays.collect.curl(&["--config", "-", &url])?;
    let told = tool.input(user).run_text()?;
    let told: Value = serde_json::from_str(&told).with_context(|| told.clone())?;
    Ok(told["Boot"]["BootSourceOverrideTarget"]
        .as_str()
        .unwrap_or_default()
        .to_owned())
}

fn report_for_the_started(plays: &Plays, over: &AtomicBool) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let started = plays.collect.store().join("started");
    let mut reported = Vec::new();
    while !over.load(Ordering::Relaxed) {
        for number in 0..8 {
            if reported.contains(&number) || !started.join(format!("fake{number}")).exists() {
                continue;
            }
            let result = if number == 7 { "refused" } else { "reverted" };
            let mut one = report("Default string", result);
            // The other byte order.
            one["host"]["uuid"] = json!(format!("341a0f7d-9b9d-7c4b-8a7e-0c6f3c1d0a{number:02}"));
            let status = plays
                .collect
                .send(&file(folder.path(), "r.json", one.to_string())?, &[])?;
            ensure!(status == "201", "{status}");
            reported.push(number);
        }
        thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

/// A report of the host behind a BMC, whose firmware has a placeholder for a serial number, and the UUID in the
/// other byte order.
fn as_host(number: usize, result: &str) -> String {
    let mut one = report("Default string", result);
    one["host"]["uuid"] = json!(format!("341a0f7d-9b9d-7c4b-8a7e-0c6f3c1d0a{number:02}"));
    one.to_string()
}
