//! The commands that docs/fleet.md prints, typed as they stand in the page's order: only addresses, ports and the
//! password are other ones. Two hosts behind an emulator of Redfish are repaired, and judged from outside.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use rescue_tests::artefacts;
use rescue_tests::esxi::EsxiDisk;
use rescue_tests::esxi::host::SATA;
use rescue_tests::judge::Judge;
use rescue_tests::ports;
use rescue_tests::rack::{self, Behind, PASSWORD, Rack, USER};
use serde_json::{Value, json};

const VAULT_PASSWORD: &str = "of the vault";
/// For all the commands of a step: Ansible is installed, and two hosts start one after the other.
const DEADLINE: Duration = Duration::from_secs(900);

/// A step of the page: its commands, and the text that it prints for a file.
#[derive(Debug, Default)]
struct Step {
    commands: Vec<String>,
    file: String,
}

/// The steps below "Example: two hosts, step by step".
fn steps() -> Result<Vec<Step>> {
    let page = fs::read_to_string(artefacts::workspace().join("docs/fleet.md"))?;
    let (_, part) = page
        .split_once("\n## Example: two hosts, step by step\n")
        .context("no such part")?;
    let (part, _) = part.split_once("\n## ").context("the part has no end")?;
    part.split("\n### ").skip(1).map(step).collect()
}

fn step(text: &str) -> Result<Step> {
    let mut step = Step::default();
    let mut rest = text;
    while let Some((_, block)) = rest.split_once("\n```") {
        let (language, block) = block.split_once('\n').context("a block without a line")?;
        let (block, after) = block
            .split_once("\n```")
            .context("a block without an end")?;
        match language {
            "yaml" => step.file = format!("{block}\n"),
            // The example of the table is no command.
            _ if block.starts_with("HOST ") => {}
            _ => step
                .commands
                .extend(block.replace("\\\n", " ").lines().map(str::to_owned)),
        }
        rest = after;
    }
    Ok(step)
}

/// A server that the page starts in a terminal of its own.
struct Terminal(Child);

impl Terminal {
    fn open(folder: &Path, command: &str, port: u16) -> Result<Self> {
        let mut shell = Command::new("bash");
        shell
            .args(["-c", command])
            .current_dir(folder)
            .process_group(0);
        let log = fs::File::create(folder.join("collect.log"))?;
        shell
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let terminal = Self(shell.spawn()?);
        let until = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let said = fs::read_to_string(folder.join("collect.log"))?;
            ensure!(Instant::now() < until, "it does not listen: {said}");
            thread::sleep(Duration::from_millis(50));
        }
        Ok(terminal)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = killpg(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

/// The page's addresses become those of the rack.
struct Addresses(Vec<(String, String)>);

impl Addresses {
    fn put_into(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, (page, here)| {
            text.replace(page, here)
        })
    }
}

/// What a person answers to the prompts of a command.
fn answers(command: &str) -> Vec<[&'static str; 2]> {
    let mut answers = Vec::new();
    if command.contains("ansible-vault create") {
        answers.extend([
            ["New Vault password: ", VAULT_PASSWORD],
            ["Confirm New Vault password: ", VAULT_PASSWORD],
        ]);
    }
    if command.contains("--ask-vault-pass") {
        answers.push(["Vault password: ", VAULT_PASSWORD]);
    }
    if command.contains("repair.yml") && !command.contains("--check") {
        answers.push(["Type yes to go on", "yes"]);
    }
    answers
}

#[test]
#[ignore = "`make test-boot` runs it: it installs Ansible from PyPI, as the page does"]
fn the_commands_of_the_page_repair_two_hosts() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let project = folder.path();
    let mut rack = Rack::start()?;
    let disks = rack.folder_for("disks")?;
    let mut judges = BTreeMap::new();
    let mut ports = Vec::new();
    for (name, uuid, disk) in [
        (
            "esx01",
            "5d0f1a34-9d9b-4b7c-8a7e-0c6f3c1d0b01",
            EsxiDisk::v67(),
        ),
        (
            "esx02",
            "5d0f1a34-9d9b-4b7c-8a7e-0c6f3c1d0b02",
            EsxiDisk::v80(),
        ),
    ] {
        let made = disk.make(&disks, name)?;
        judges.insert(name, Judge::new(&made, project)?);
        let (serial, board, disk) = (&format!("S-{name}"), &format!("B-{name}"), &made.image);
        rack.add(&Behind {
            name,
            uuid,
            serial,
            board,
            disk,
        })?;
        ports.push(rack.add_bmc_of(uuid)?);
    }
    rack.wait_for_bmcs(&ports)?;
    let (reports, image) = (ports::free()?, ports::free()?);
    let addresses = Addresses(
        [
            // The machines of libvirt reach this machine by this address.
            (
                "--set report=https://192.0.2.10:8443",
                format!("--set report=https://10.0.2.2:{reports}"),
            ),
            ("0.0.0.0:8443", format!("127.0.0.1:{reports}")),
            ("0.0.0.0:8080", format!("127.0.0.1:{image}")),
            ("192.0.2.10:8080", format!("127.0.0.1:{image}")),
            ("192.0.2.101", format!("127.0.0.1:{}", ports[0])),
            ("192.0.2.102", format!("127.0.0.1:{}", ports[1])),
            ("bmc_user: rescue", format!("bmc_user: {USER}")),
        ]
        .map(|(page, here)| (page.to_owned(), here))
        .into(),
    );
    let steps = steps()?;
    let [first, serve, set_up, repair] = steps.as_slice() else {
        anyhow::bail!("{} steps", steps.len());
    };
    let typed = |command: &String| json!({"command": addresses.put_into(command), "answers": answers(command)});

    // This command is typed in the folder of the project; what it makes goes to ours.
    let (make, others) = first.commands.split_first().context("no command")?;
    let dist = project.join("dist");
    let built = rack::type_commands(
        &artefacts::workspace(),
        &json!([typed(make)]),
        &[("DIST", &dist)],
        DEADLINE,
    )?;
    println!("{built}");
    let others: Value = others.iter().map(typed).collect();
    println!("{}", rack::type_commands(project, &others, &[], DEADLINE)?);

    let command = serve.commands.first().context("no command")?;
    let _collect = Terminal::open(project, &addresses.put_into(command), reports)?;
    fs::copy(
        &rack.certificate.certificate,
        project.join("rack/bmc-ca.pem"),
    )?;

    // The editor that opens, and the line that is written there.
    let editor = project.join("editor");
    fs::write(
        &editor,
        format!("#!/bin/sh\nprintf '%s\\n' 'vault_bmc_password: \"{PASSWORD}\"' >\"$1\"\n"),
    )?;
    fs::set_permissions(&editor, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let inventory = project.join("inventory");
    fs::write(&inventory, addresses.put_into(&set_up.file))?;
    let mut commands: Vec<Value> = set_up.commands.iter().map(typed).collect();
    commands.push(json!({"command": format!("cp {} rack.yml", inventory.display())}));
    // The last one is for hosts that were not well.
    ensure!(repair.commands.len() == 3, "{:?}", repair.commands);
    commands.extend(repair.commands[..2].iter().map(typed));
    let variables = [
        ("EDITOR", editor.as_path()),
        ("ANSIBLE_NOCOLOR", Path::new("1")),
    ];
    let shown = rack::type_commands(project, &Value::from(commands), &variables, DEADLINE)
        .with_context(|| format!("{}\n{}", rack.console("esx01"), rack.console("esx02")))?;
    println!("{shown}");
    ensure!(!shown.contains(PASSWORD), "the password was shown");
    for (name, judge) in &judges {
        // It was restarted. What is in the drive of a machine that runs is seen once it is off: the emulator ejects for
        // the next start.
        if rack.is_on(name)? {
            rack.switch_off(name)?;
            rack.wait_until_off(name)?;
        }
        ensure!(!rack.has_medium(name)?, "the medium is still in {name}");
        judge.repaired(&[0, 1], &[SATA])?;
    }
    Ok(())
}
