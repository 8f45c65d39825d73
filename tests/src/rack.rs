//! A rack of machines behind BMCs: sushy-emulator answers Redfish over HTTPS, libvirt and QEMU are the
//! machines. Everything runs in a folder of its own, on this machine's loopback; libvirt runs as a user
//! without rights, and touches nothing of the system's.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::TcpStream;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::artefacts;
use crate::machine::PROCESSOR_WITHOUT;
use crate::ports;
use crate::receiver::Certificate;
use crate::tools::{Output, Tool, crate_file, find};

/// The user that libvirt runs as where the tests run as root: nobody.
const NOBODY: u32 = 65534;
/// Time that a server gets to start on a busy machine.
const DEADLINE: Duration = Duration::from_secs(90);
/// The user of the BMCs.
pub const USER: &str = "rescue";
/// The password. It must never be seen anywhere.
pub const PASSWORD: &str = "correct-horse-battery";

/// A server that ends with this value.
#[derive(Debug)]
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The BMCs and the machines behind them.
#[derive(Debug)]
pub struct Rack {
    servers: Vec<Server>,
    machines: Vec<String>,
    folder: TempDir,
    /// The certificate that the BMCs show; it is for the address 127.0.0.1.
    pub certificate: Certificate,
    /// The port of the BMC of the machines.
    pub port: u16,
}

/// A machine that a BMC switches.
#[derive(Debug)]
pub struct Behind<'a> {
    /// Its name.
    pub name: &'a str,
    /// The system's UUID.
    pub uuid: &'a str,
    /// The serial number of its chassis, and its SKU.
    pub serial: &'a str,
    /// The serial number of its board.
    pub board: &'a str,
    /// Its disk.
    pub disk: &'a Path,
}

/// A program of the environment with Ansible and the emulator.
///
/// # Errors
/// When it cannot be set up.
pub fn program(name: &str) -> Result<PathBuf> {
    let folder = std::path::absolute(artefacts::workspace().join("target/fleet-venv"))?;
    Tool::at("/bin/sh")
        .arg(crate_file("setup-fleet.sh"))
        .arg(&folder)
        .deadline(Duration::from_secs(400))
        .run()
        .context("setting up Ansible and the emulator")?;
    Ok(folder.join("bin").join(name))
}

impl Rack {
    /// Starts libvirt, and the BMC of the machines.
    ///
    /// # Errors
    /// When something is not installed, or does not start.
    pub fn start() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("rack-").tempdir()?;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        let certificate = bmc_certificate(folder.path())?;
        let mut rack = Self {
            servers: Vec::new(),
            machines: Vec::new(),
            folder,
            certificate,
            port: ports::free()?,
        };
        rack.start_libvirt()?;
        rack.start_bmc(rack.port, &rack.libvirt_settings())?;
        Ok(rack)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A folder that the user of libvirt may write to.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn folder_for(&self, name: &str) -> Result<PathBuf> {
        let folder = self.path(name);
        fs::create_dir_all(&folder)?;
        give(&folder)?;
        Ok(folder)
    }

    /// A command that runs as the user of libvirt, with its files in our folder.
    fn unprivileged(&self, program: &Path) -> Result<Command> {
        let mut command = if nix::unistd::geteuid().is_root() {
            let mut command = Command::new(find("setpriv")?);
            let user = NOBODY.to_string();
            command.args(["--reuid", &user, "--regid", &user, "--clear-groups"]);
            // The project may lie where only root may look, such as in root's home.
            command.args([
                "--inh-caps=+dac_read_search",
                "--ambient-caps=+dac_read_search",
                "--",
            ]);
            command.arg(program);
            command
        } else {
            Command::new(program)
        };
        for (variable, name) in [
            ("HOME", "home"),
            ("XDG_CONFIG_HOME", "config"),
            ("XDG_RUNTIME_DIR", "run"),
            ("XDG_CACHE_HOME", "cache"),
            ("XDG_DATA_HOME", "data"),
            ("TMPDIR", "tmp"),
        ] {
            command.env(variable, self.folder_for(name)?);
        }
        command.stdin(Stdio::null());
        Ok(command)
    }

    fn run(&mut self, mut command: Command, name: &str) -> Result<()> {
        let log = File::create(self.path(&format!("{name}.log")))?;
        command.stdout(log.try_clone()?).stderr(log);
        let child = command
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        self.servers.push(Server(child));
        Ok(())
    }

    fn start_libvirt(&mut self) -> Result<()> {
        let config = self.folder_for("config/libvirt")?;
        let socket = self.socket();
        let run = self.folder_for("run")?;
        fs::write(
            config.join("libvirtd.conf"),
            format!("unix_sock_dir = {run:?}\n"),
        )?;
        fs::write(
            config.join("qemu.conf"),
            "security_driver = \"none\"\nstdio_handler = \"file\"\n",
        )?;
        let mut command = self.unprivileged(&find("libvirtd")?)?;
        command.arg("-f").arg(config.join("libvirtd.conf"));
        command.arg("-p").arg(run.join("libvirtd.pid"));
        self.run(command, "libvirtd")?;
        self.wait_for("libvirtd", || Ok(socket.exists()))?;
        let pool = self.folder_for("pool")?;
        let target = pool.display().to_string();
        self.virsh(&["pool-define-as", "default", "dir", "--target", &target])?;
        self.virsh(&["pool-start", "default"])?;
        Ok(())
    }

    fn socket(&self) -> PathBuf {
        self.path("run/libvirt-sock")
    }

    fn uri(&self) -> String {
        format!("qemu+unix:///session?socket={}", self.socket().display())
    }

    fn virsh(&self, arguments: &[&str]) -> Result<String> {
        let uri = self.uri();
        let mut command = self.unprivileged(&find("virsh")?)?;
        let output = command.args(["-c", &uri]).args(arguments).output()?;
        ensure!(
            output.status.success(),
            "virsh {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    fn libvirt_settings(&self) -> String {
        let uri = self.uri();
        format!("SUSHY_EMULATOR_LIBVIRT_URI = {uri:?}\n")
    }

    /// Starts an emulator that listens on a port, with these settings.
    fn start_bmc(&mut self, port: u16, settings: &str) -> Result<()> {
        let certificate = self.certificate.clone();
        self.start_bmc_with(port, settings, &certificate)
    }

    fn start_bmc_with(&mut self, port: u16, settings: &str, shown: &Certificate) -> Result<()> {
        let name = format!("bmc-{port}");
        let state = self.folder_for(&name)?;
        let passwords = self.path("passwords");
        if !passwords.exists() {
            let script = "import bcrypt, sys; print(sys.argv[1] + ':' + bcrypt.hashpw(sys.stdin.read().encode(), bcrypt.gensalt(4)).decode())";
            let line = Tool::at(program("python3")?)
                .args(["-c", script, USER])
                .input(PASSWORD)
                .run()?;
            fs::write(&passwords, line)?;
            give(&passwords)?;
        }
        for file in [&shown.certificate, &shown.key] {
            give(file)?;
        }
        let mut text = format!(
            "SUSHY_EMULATOR_LISTEN_IP = '127.0.0.1'\nSUSHY_EMULATOR_LISTEN_PORT = {port}\n"
        );
        let _ = writeln!(text, "SUSHY_EMULATOR_SSL_CERT = {:?}", shown.certificate);
        let _ = writeln!(text, "SUSHY_EMULATOR_SSL_KEY = {:?}", shown.key);
        let _ = writeln!(text, "SUSHY_EMULATOR_AUTH_FILE = {passwords:?}");
        let _ = writeln!(text, "SUSHY_EMULATOR_STATE_DIR = {state:?}");
        text += settings;
        let config = state.join("emulator.conf");
        fs::write(&config, text)?;
        give(&config)?;
        let mut command = self.unprivileged(&program("sushy-emulator")?)?;
        command.arg("--config").arg(config);
        self.run(command, &name)
    }

    /// Starts a BMC of a machine that is none: it does as it is told, and nothing boots.
    ///
    /// # Errors
    /// When it does not start.
    pub fn add_fake(&mut self, uuid: &str, untrusted: bool) -> Result<u16> {
        let port = ports::free()?;
        let settings = format!(
            "SUSHY_EMULATOR_FAKE_DRIVER = True\nSUSHY_EMULATOR_FAKE_SYSTEMS = [{{'uuid': {uuid:?}, 'name': 'fake', \
             'power_state': 'Off', 'external_notifier': False, 'nics': []}}]\n"
        );
        let certificate = if untrusted {
            Certificate::make(self.folder.path(), "untrusted", "ec")?
        } else {
            self.certificate.clone()
        };
        self.start_bmc_with(port, &settings, &certificate)?;
        Ok(port)
    }

    /// Starts a BMC that has one of the machines behind it, and no other.
    ///
    /// # Errors
    /// When it does not start.
    pub fn add_bmc_of(&mut self, uuid: &str) -> Result<u16> {
        let port = ports::free()?;
        let settings =
            self.libvirt_settings() + &format!("SUSHY_EMULATOR_ALLOWED_INSTANCES = [{uuid:?}]\n");
        self.start_bmc(port, &settings)?;
        Ok(port)
    }

    /// Waits until all BMCs answer.
    ///
    /// # Errors
    /// When one does not.
    pub fn wait_for_bmcs(&self, ports: &[u16]) -> Result<()> {
        for port in ports.iter().chain([&self.port]) {
            self.wait_for(&format!("bmc-{port}"), || {
                Ok(TcpStream::connect(("127.0.0.1", *port)).is_ok())
            })?;
        }
        Ok(())
    }

    fn wait_for(&self, name: &str, ready: impl Fn() -> Result<bool>) -> Result<()> {
        let until = Instant::now() + DEADLINE;
        while !ready()? {
            if Instant::now() > until {
                bail!("{name} does not start: {}", self.log(name));
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// What a server said.
    pub fn log(&self, name: &str) -> String {
        fs::read_to_string(self.path(&format!("{name}.log"))).unwrap_or_default()
    }

    /// What a machine said on its serial console.
    pub fn console(&self, machine: &str) -> String {
        let text = fs::read(self.path(&format!("consoles/{machine}"))).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Puts a machine behind the BMC, switched off.
    ///
    /// # Errors
    /// When libvirt refuses it.
    pub fn add(&mut self, machine: &Behind<'_>) -> Result<()> {
        let consoles = self.folder_for("consoles")?;
        give(machine.disk)?;
        let xml = self.folder_for("machines")?.join(machine.name);
        fs::write(&xml, domain(machine, &consoles.join(machine.name)))?;
        give(&xml)?;
        self.virsh(&["define", &xml.display().to_string()])?;
        self.machines.push(machine.name.to_owned());
        Ok(())
    }

    /// Switches a machine on.
    ///
    /// # Errors
    /// When libvirt does not.
    pub fn switch_on(&self, machine: &str) -> Result<()> {
        self.virsh(&["start", machine]).map(drop)
    }

    /// Switches a machine off, as by its button.
    ///
    /// # Errors
    /// When libvirt does not.
    pub fn switch_off(&self, machine: &str) -> Result<()> {
        self.virsh(&["destroy", machine]).map(drop)
    }

    /// Waits until a machine is off.
    ///
    /// # Errors
    /// When it stays on.
    pub fn wait_until_off(&self, machine: &str) -> Result<()> {
        // Before, it is "in shutdown": QEMU still runs.
        self.wait_for(machine, || {
            Ok(self.virsh(&["domstate", machine])?.trim() == "shut off")
        })
    }

    /// Whether a machine is on.
    ///
    /// # Errors
    /// When there is no such machine.
    pub fn is_on(&self, machine: &str) -> Result<bool> {
        Ok(self.virsh(&["domstate", machine])?.trim() == "running")
    }

    /// Whether there is a medium in a machine's CD drive, by libvirt's own account.
    ///
    /// # Errors
    /// When there is no such machine.
    pub fn has_medium(&self, machine: &str) -> Result<bool> {
        let drives = self.virsh(&["domblklist", machine, "--details"])?;
        let mut cds = drives.lines().filter(|line| line.contains("cdrom"));
        Ok(cds.any(|line| !line.trim_end().ends_with('-')))
    }
}

impl Drop for Rack {
    fn drop(&mut self) {
        for machine in &self.machines {
            let _ = self.virsh(&["destroy", machine]);
        }
    }
}

/// The user of libvirt gets it.
fn give(path: &Path) -> Result<()> {
    if nix::unistd::geteuid().is_root() {
        chown(path, Some(NOBODY), Some(NOBODY))
            .with_context(|| format!("giving {} to nobody", path.display()))?;
    }
    Ok(())
}

fn bmc_certificate(folder: &Path) -> Result<Certificate> {
    let (certificate, key) = (folder.join("bmc.crt"), folder.join("bmc.key"));
    Tool::new("openssl")?
        .args([
            "req", "-x509", "-nodes", "-days", "30", "-subj", "/CN=bmc", "-newkey", "rsa:2048",
        ])
        .args(["-addext", "subjectAltName=IP:127.0.0.1"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .run()?;
    Ok(Certificate {
        certificate,
        key,
        fingerprint: String::new(),
    })
}

/// Types commands into a terminal, in a folder, and returns what the terminal showed. The answers to the prompts
/// of a command follow it: a regular expression, and the line to type.
///
/// # Errors
/// When a command fails, or a prompt does not come within the deadline.
pub fn type_commands(
    folder: &Path,
    commands: &Value,
    variables: &[(&str, &Path)],
    deadline: Duration,
) -> Result<String> {
    let mut tool = Tool::at("/usr/bin/python3")
        .arg(crate_file("fixtures/type_commands.py"))
        .arg(deadline.as_secs().to_string())
        .folder(folder)
        .env("LC_ALL", "C.UTF-8")
        .input(commands.to_string())
        .deadline(deadline + DEADLINE);
    for (name, value) in variables {
        tool = tool.env(name, value);
    }
    let output = tool.output()?;
    ensure!(
        output.code() == 0,
        "status {}:\n{}\n{}",
        output.code(),
        output.text(),
        output.errors()
    );
    Ok(output.text())
}

/// A machine for libvirt: the SATA controller of the board is 0000:00:1f.2, as in every machine of the tests.
fn domain(machine: &Behind<'_>, console: &Path) -> String {
    let Behind {
        name,
        uuid,
        serial,
        board,
        disk,
    } = machine;
    format!(
        "<domain type='qemu'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  <memory unit='MiB'>1024</memory>
  <vcpu>1</vcpu>
  <sysinfo type='smbios'>
    <system><entry name='manufacturer'>Rack</entry><entry name='product'>{name}</entry><entry name='serial'>{serial}</entry>
      <entry name='uuid'>{uuid}</entry><entry name='sku'>{serial}</entry></system>
    <baseBoard><entry name='serial'>{board}</entry></baseBoard>
  </sysinfo>
  <os><type arch='x86_64' machine='q35'>hvm</type><boot dev='hd'/><smbios mode='sysinfo'/></os>
  <features><acpi/><apic/></features>
  <cpu mode='maximum'><feature policy='disable' name='{PROCESSOR_WITHOUT}'/></cpu>
  <on_poweroff>destroy</on_poweroff>
  <devices>
    <disk type='file' device='disk'><driver name='qemu' type='raw' cache='unsafe'/><source file='{}'/><target dev='sda' bus='sata'/></disk>
    <interface type='user'><model type='virtio'/></interface>
    <serial type='file'><source path='{}'/></serial>
    <video><model type='vga'/></video>
  </devices>
</domain>
",
        disk.display(),
        console.display()
    )
}

/// `ansible-playbook` in a folder that was laid out, as a person starts it there.
///
/// # Errors
/// When it cannot be started.
pub fn playbook(folder: &Path, arguments: &[&str]) -> Result<Output> {
    let playbook = program("ansible-playbook")?;
    let collections = playbook
        .parent()
        .and_then(Path::parent)
        .context("no folder")?;
    Tool::at(&playbook)
        .folder(folder)
        .env("ANSIBLE_COLLECTIONS_PATH", collections.join("collections"))
        .env("ANSIBLE_NOCOLOR", "1")
        .env("LC_ALL", "C.UTF-8")
        .args(arguments)
        .deadline(Duration::from_secs(1800))
        .output()
}
