//! Puts modules into the kernel: what each needs first, as many at a time as possible.
//!
//! Each module is loaded on a thread of its own, because loading one lasts as long as its driver
//! looks at the hardware. A module may be built upon as soon as it is live, which the kernel says
//! by a uevent, even while the driver is still looking (`do_init_module` in Linux
//! `kernel/module/main.c`: the module becomes live, then the call waits for all asynchronous work,
//! such as scans for disks).

use std::collections::{HashMap, HashSet};
use std::ffi::CString;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::kmod::init_module;
use serde::Serialize;
use thiserror::Error;
use zstd::dict::DecoderDictionary;
use zstd::stream::read::Decoder;

use super::table::{Catalog, Module, ModuleId};
use crate::files::read_up_to;
use crate::settings::command_line_words;

/// Most modules that are on their way to being live at a time; each needs memory for its content.
const MAX_AT_A_TIME: usize = 8;
/// Largest module that is loaded, in bytes. The largest of storage drivers have about 5 MiB.
const MAX_MODULE_BYTES: u64 = 64 * 1024 * 1024;
/// What the modules have in common, in their folder: the dictionary that they are compressed with.
const DICTIONARY: &str = "dictionary";
/// Largest dictionary that is read, in bytes.
const MAX_DICTIONARY_BYTES: u64 = 4 * 1024 * 1024;

/// The word of the kernel command line that names modules not to be loaded, as for `modprobe`
/// (modprobe.d(5)): the way out where a driver hangs or harms.
const EXCLUDE: &str = "modprobe.blacklist";

/// Why a module is not in the kernel.
#[derive(Debug, Error)]
pub enum LoadError {
    /// Its file cannot be read or unpacked.
    #[error("{file}: {error}", file = .file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What went wrong.
        error: io::Error,
    },
    /// It is larger than any real one.
    #[error("{file}: more than {MAX_MODULE_BYTES} bytes", file = .file.display())]
    TooLarge {
        /// The file.
        file: PathBuf,
    },
    /// A person does not want it.
    #[error("excluded by {EXCLUDE}= on the kernel command line")]
    Excluded,
    /// Its parameters contain a zero byte.
    #[error("its parameters on the kernel command line contain a zero byte")]
    Parameters,
    /// The kernel refused it.
    #[error("the kernel refused it: {0}")]
    Kernel(Errno),
    /// No thread could be started for it.
    #[error("no thread to load it: {0}")]
    Thread(io::Error),
}

/// What puts one module into the kernel. Tests have their own.
pub trait ModuleLoader: Send + Sync + 'static {
    /// Loads the module; everything it needs is there. It being there already is success.
    ///
    /// # Errors
    /// When it is not in the kernel afterwards.
    fn load(&self, module: &Module) -> Result<(), LoadError>;
}

/// Loads modules of the image into the running kernel.
pub struct KernelLoader {
    folder: PathBuf,
    parameters: HashMap<String, String>,
    excluded: HashSet<String>,
    /// Read when the first module is; none if the image has none.
    dictionary: OnceLock<Option<DecoderDictionary<'static>>>,
}

impl std::fmt::Debug for KernelLoader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KernelLoader")
            .field("folder", &self.folder)
            .field("parameters", &self.parameters)
            .field("excluded", &self.excluded)
            .finish_non_exhaustive()
    }
}

impl KernelLoader {
    /// A loader for the modules in `folder`, each compressed by zstd on its own, with the dictionary there. Parameters for
    /// modules are taken from the kernel command line (`MODULE.PARAMETER=VALUE`), as `modprobe`
    /// would: the kernel itself passes them on only to drivers that are part of it.
    #[must_use]
    pub fn new(folder: PathBuf, command_line: &str) -> KernelLoader {
        KernelLoader {
            folder,
            parameters: module_parameters(command_line),
            excluded: excluded_modules(command_line),
            dictionary: OnceLock::new(),
        }
    }

    /// The dictionary. If it cannot be read, the modules cannot be unpacked, and the error names them.
    fn dictionary(&self) -> Option<&DecoderDictionary<'static>> {
        let read = || {
            let content = read_up_to(&self.folder.join(DICTIONARY), MAX_DICTIONARY_BYTES).ok()?;
            Some(DecoderDictionary::copy(&content))
        };
        self.dictionary.get_or_init(read).as_ref()
    }

    fn unpack(&self, file: File) -> io::Result<Vec<u8>> {
        let file = BufReader::new(file);
        let decoder = match self.dictionary() {
            Some(dictionary) => Decoder::with_prepared_dictionary(file, dictionary)?,
            None => Decoder::with_buffer(file)?,
        };
        let mut content = Vec::new();
        decoder
            .take(MAX_MODULE_BYTES + 1)
            .read_to_end(&mut content)?;
        Ok(content)
    }

    fn content(&self, module: &Module) -> Result<Vec<u8>, LoadError> {
        let file = self.folder.join(&module.file);
        match File::open(&file).and_then(|packed| self.unpack(packed)) {
            Ok(content) if content.len() as u64 > MAX_MODULE_BYTES => {
                Err(LoadError::TooLarge { file })
            }
            Ok(content) => Ok(content),
            Err(error) => Err(LoadError::File { file, error }),
        }
    }
}

impl ModuleLoader for KernelLoader {
    fn load(&self, module: &Module) -> Result<(), LoadError> {
        if self.excluded.contains(&module.name) {
            return Err(LoadError::Excluded);
        }
        let parameters = self
            .parameters
            .get(&module.name)
            .cloned()
            .unwrap_or_default();
        let parameters = CString::new(parameters).map_err(|_| LoadError::Parameters)?;
        match init_module(&self.content(module)?, &parameters) {
            Ok(()) | Err(Errno::EEXIST) => Ok(()),
            Err(error) => Err(LoadError::Kernel(error)),
        }
    }
}

/// The modules that are not to be loaded.
fn excluded_modules(command_line: &str) -> HashSet<String> {
    command_line_words(command_line)
        .into_iter()
        .filter(|word| word.name == EXCLUDE)
        .filter_map(|word| word.value)
        .flat_map(|names| {
            let names = names.split(',').map(|name| name.replace('-', "_"));
            names.collect::<Vec<String>>()
        })
        .collect()
}

/// The parameters of each module, in the form `init_module` takes them.
fn module_parameters(command_line: &str) -> HashMap<String, String> {
    let mut parameters: HashMap<String, String> = HashMap::new();
    for word in command_line_words(command_line) {
        let Some((module, parameter)) = word.name.split_once('.') else {
            continue;
        };
        let text = parameters.entry(module.replace('-', "_")).or_default();
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(parameter);
        match word.value {
            Some(value) if value.contains(char::is_whitespace) => {
                text.push_str(&format!("=\"{value}\""));
            }
            Some(value) => text.push_str(&format!("={value}")),
            None => {}
        }
    }
    parameters
}

/// A module that was loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LoadedModule {
    /// Its name.
    pub name: String,
    /// How long that took, in milliseconds.
    pub milliseconds: u64,
}

/// A module that was needed and could not be loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModuleFailure {
    /// Its name.
    pub name: String,
    /// Why not.
    pub reason: String,
}

/// A module on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StartingModule {
    /// Its name.
    pub name: String,
    /// Since when, counted from now.
    pub since: Duration,
}

#[derive(Debug)]
enum Status {
    /// Nobody asked for it.
    Unwanted,
    /// Its turn has not come.
    Waiting(Instant),
    /// It is being loaded; others cannot use it yet.
    Starting(Instant),
    /// Others can use it; its driver is still looking at the hardware.
    Live(Instant),
    /// It is there and has nothing more to do.
    Loaded(Duration),
    /// It could not be loaded.
    Failed(LoadError),
}

impl Status {
    /// Whether what waits for it may go on. After a failure too: the kernel then decides.
    fn lets_others_go_on(&self) -> bool {
        matches!(
            self,
            Status::Live(_) | Status::Loaded(_) | Status::Failed(_)
        )
    }
}

/// Loads modules in the background.
pub struct Loading {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Loading {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loading")
            .field("starting", &self.starting())
            .finish()
    }
}

struct Shared {
    modules: Vec<Module>,
    loader: Box<dyn ModuleLoader>,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    status: Vec<Status>,
    /// What each wanted module waits for. Always modules that were queued before it, so that
    /// nothing waits in a circle, whatever the table says.
    needs: Vec<Vec<ModuleId>>,
    queue: Vec<ModuleId>,
    starting: usize,
}

impl Loading {
    /// Prepares to load modules of `catalog`.
    #[must_use]
    pub fn new(catalog: &Catalog, loader: Box<dyn ModuleLoader>) -> Loading {
        let modules = catalog.modules().to_vec();
        let count = modules.len();
        Loading {
            shared: Arc::new(Shared {
                modules,
                loader,
                state: Mutex::new(State {
                    status: (0..count).map(|_| Status::Unwanted).collect(),
                    needs: vec![Vec::new(); count],
                    queue: Vec::new(),
                    starting: 0,
                }),
                changed: Condvar::new(),
            }),
        }
    }

    /// Asks for modules and all they need. Returns at once.
    pub fn request(&self, catalog: &Catalog, wanted: &[ModuleId]) {
        let mut state = self.shared.lock();
        for id in wanted {
            enqueue(&mut state, catalog, *id);
        }
        start_ready(&self.shared, &mut state);
    }

    /// Takes note that the kernel says this module can be used now.
    pub fn is_live(&self, id: ModuleId) {
        let mut state = self.shared.lock();
        if let Status::Starting(since) = state.status[id.0] {
            state.status[id.0] = Status::Live(since);
            state.starting -= 1;
            start_ready(&self.shared, &mut state);
        }
    }

    /// The modules that were asked for and are not done yet.
    #[must_use]
    pub fn starting(&self) -> Vec<StartingModule> {
        self.collect(|module, status| match status {
            Status::Waiting(since) | Status::Starting(since) | Status::Live(since) => {
                Some(StartingModule {
                    name: module.name.clone(),
                    since: since.elapsed(),
                })
            }
            _ => None,
        })
    }

    /// The modules that were loaded, in the order of the table.
    #[must_use]
    pub fn loaded(&self) -> Vec<LoadedModule> {
        self.collect(|module, status| match status {
            Status::Loaded(took) => Some(LoadedModule {
                name: module.name.clone(),
                milliseconds: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            }),
            _ => None,
        })
    }

    /// The modules that could not be loaded, in the order of the table.
    #[must_use]
    pub fn failures(&self) -> Vec<ModuleFailure> {
        self.collect(|module, status| match status {
            Status::Failed(error) => Some(ModuleFailure {
                name: module.name.clone(),
                reason: error.to_string(),
            }),
            _ => None,
        })
    }

    /// Waits until all that was asked for is done, for `timeout` at most; whether it is.
    #[cfg(test)]
    #[must_use]
    pub fn wait_until_done(&self, timeout: Duration) -> bool {
        let undone = |state: &mut State| state.status.iter().any(is_undone);
        let waited = self
            .shared
            .changed
            .wait_timeout_while(self.shared.lock(), timeout, undone)
            .unwrap_or_else(PoisonError::into_inner);
        !waited.1.timed_out()
    }

    fn collect<T>(&self, pick: impl Fn(&Module, &Status) -> Option<T>) -> Vec<T> {
        let state = self.shared.lock();
        let both = self.shared.modules.iter().zip(&state.status);
        both.filter_map(|(module, status)| pick(module, status))
            .collect()
    }
}

#[cfg(test)]
fn is_undone(status: &Status) -> bool {
    matches!(
        status,
        Status::Waiting(_) | Status::Starting(_) | Status::Live(_)
    )
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Queues a module behind all it needs. What is being queued already (a circle in the table) is
/// not waited for.
fn enqueue(state: &mut State, catalog: &Catalog, id: ModuleId) {
    if !matches!(state.status[id.0], Status::Unwanted) {
        return;
    }
    state.status[id.0] = Status::Waiting(Instant::now());
    let module = catalog.module(id);
    let first = module.pre.iter().chain(&module.depends);
    let first: Vec<ModuleId> = first.filter_map(|name| catalog.find(name)).collect();
    for need in &first {
        enqueue(state, catalog, *need);
    }
    let queued = |need: &ModuleId| {
        !matches!(state.status[need.0], Status::Waiting(_)) || state.queue.contains(need)
    };
    state.needs[id.0] = first.into_iter().filter(queued).collect();
    state.queue.push(id);
}

/// Starts every queued module whose needs are met.
fn start_ready(shared: &Arc<Shared>, state: &mut State) {
    while state.starting < MAX_AT_A_TIME {
        let met = |need: &ModuleId| state.status[need.0].lets_others_go_on();
        let ready = |id: &ModuleId| state.needs[id.0].iter().all(met);
        let Some(place) = state.queue.iter().position(ready) else {
            return;
        };
        let id = state.queue.remove(place);
        state.status[id.0] = Status::Starting(Instant::now());
        let worker = Arc::clone(shared);
        let thread = thread::Builder::new().name(shared.modules[id.0].name.clone());
        match thread.spawn(move || load_one(&worker, id)) {
            Ok(_) => state.starting += 1,
            Err(error) => state.status[id.0] = Status::Failed(LoadError::Thread(error)),
        }
    }
}

fn load_one(shared: &Arc<Shared>, id: ModuleId) {
    let begun = Instant::now();
    let outcome = shared.loader.load(&shared.modules[id.0]);
    let mut state = shared.lock();
    if matches!(state.status[id.0], Status::Starting(_)) {
        state.starting -= 1;
    }
    state.status[id.0] = match outcome {
        Ok(()) => Status::Loaded(begun.elapsed()),
        Err(error) => Status::Failed(error),
    };
    start_ready(shared, &mut state);
    shared.changed.notify_all();
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::mpsc::{self, Receiver, Sender};

    use super::*;

    /// Remembers the order, and holds up or fails the modules it is told to.
    #[derive(Default)]
    struct Recorder {
        log: Mutex<Vec<String>>,
        gate: Mutex<Option<Receiver<()>>>,
        gated: &'static str,
        failing: &'static str,
    }

    impl ModuleLoader for Arc<Recorder> {
        fn load(&self, module: &Module) -> Result<(), LoadError> {
            if module.name == self.gated
                && let Some(gate) = self.gate.lock().unwrap().take()
            {
                gate.recv().unwrap();
            }
            self.log.lock().unwrap().push(module.name.clone());
            match module.name == self.failing {
                true => Err(LoadError::Kernel(Errno::ENODEV)),
                false => Ok(()),
            }
        }
    }

    fn catalog(modules: &[(&str, &[&str], &[&str])]) -> Catalog {
        let modules: Vec<serde_json::Value> = modules
            .iter()
            .map(|(name, depends, pre)| {
                serde_json::json!({"name": name, "file": name, "depends": depends, "pre": pre})
            })
            .collect();
        let table = serde_json::json!({"schema": super::super::table::SCHEMA, "kernel": "", "modules": modules});
        Catalog::parse(table.to_string().as_bytes()).unwrap()
    }

    fn load(catalog: &Catalog, recorder: &Arc<Recorder>, wanted: &[&str]) -> Loading {
        let loading = Loading::new(catalog, Box::new(Arc::clone(recorder)));
        let wanted: Vec<ModuleId> = wanted
            .iter()
            .map(|name| catalog.find(name).unwrap())
            .collect();
        loading.request(catalog, &wanted);
        loading
    }

    fn gate(recorder: &mut Recorder, name: &'static str) -> Sender<()> {
        let (open, gate) = mpsc::channel();
        recorder.gate = Mutex::new(Some(gate));
        recorder.gated = name;
        open
    }

    #[test]
    fn what_a_module_needs_is_loaded_before_it_and_once() {
        let catalog = catalog(&[
            ("ahci", &["libahci", "libata"], &[]),
            ("libahci", &["libata"], &[]),
            ("libata", &["scsi_mod"], &[]),
            ("scsi_mod", &[], &["scsi_common"]),
            ("scsi_common", &[], &[]),
            ("sd_mod", &["scsi_mod"], &["crc", "not_in_the_table"]),
            ("crc", &[], &[]),
            ("unwanted", &[], &[]),
        ]);
        let recorder = Arc::new(Recorder::default());
        let loading = load(&catalog, &recorder, &["ahci", "sd_mod", "ahci"]);
        assert!(loading.wait_until_done(Duration::from_secs(10)));
        let log = recorder.log.lock().unwrap().clone();
        let place = |name: &str| log.iter().position(|loaded| loaded == name).unwrap();
        assert_eq!(log.len(), 7, "{log:?}");
        for (first, then) in [
            ("scsi_common", "scsi_mod"),
            ("scsi_mod", "libata"),
            ("libata", "libahci"),
            ("libahci", "ahci"),
            ("crc", "sd_mod"),
            ("scsi_mod", "sd_mod"),
        ] {
            assert!(place(first) < place(then), "{first} before {then}: {log:?}");
        }
        assert_eq!(loading.loaded().len(), 7);
    }

    #[test]
    fn circles_in_the_table_do_not_stop_the_machine() {
        let catalog = catalog(&[
            ("a", &["b"], &[]),
            ("b", &["c"], &["a"]),
            ("c", &["a", "c"], &[]),
            ("d", &["b"], &["a"]),
        ]);
        for first in ["a", "b", "c", "d"] {
            let recorder = Arc::new(Recorder::default());
            let loading = load(&catalog, &recorder, &[first, "d"]);
            assert!(loading.wait_until_done(Duration::from_secs(10)), "{first}");
            assert_eq!(loading.loaded().len(), 4);
        }
    }

    #[test]
    fn a_failure_is_remembered_and_does_not_stop_others() {
        let catalog = catalog(&[
            ("base", &[], &[]),
            ("top", &["base"], &[]),
            ("other", &[], &[]),
        ]);
        let recorder = Arc::new(Recorder {
            failing: "base",
            ..Recorder::default()
        });
        let loading = load(&catalog, &recorder, &["top", "other"]);
        assert!(loading.wait_until_done(Duration::from_secs(10)));
        let failures = loading.failures();
        assert_eq!(failures.len(), 1);
        assert_eq!(failures[0].name, "base");
        assert!(failures[0].reason.contains("ENODEV"), "{failures:?}");
        assert_eq!(loading.loaded().len(), 2);
    }

    #[test]
    fn a_driver_that_looks_at_its_hardware_holds_up_nobody_once_it_is_live() {
        let catalog = catalog(&[
            ("slow", &[], &[]),
            ("top", &["slow"], &[]),
            ("other", &[], &[]),
        ]);
        let mut recorder = Recorder::default();
        let open = gate(&mut recorder, "slow");
        let recorder = Arc::new(recorder);
        let loading = load(&catalog, &recorder, &["top", "other"]);
        let loaded = |names: &[&str]| {
            let deadline = Instant::now() + Duration::from_secs(10);
            while *recorder.log.lock().unwrap() != names && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(1));
            }
            recorder.log.lock().unwrap().clone()
        };
        assert_eq!(loaded(&["other"]), ["other"]);
        loading.is_live(catalog.find("slow").unwrap());
        assert_eq!(loaded(&["other", "top"]), ["other", "top"]);
        assert!(!loading.wait_until_done(Duration::from_millis(1)));
        assert_eq!(loading.starting()[0].name, "slow");
        open.send(()).unwrap();
        assert!(loading.wait_until_done(Duration::from_secs(10)));
    }

    #[test]
    fn more_modules_than_threads_all_get_their_turn() {
        let names: Vec<String> = (0..100).map(|number| format!("m{number}")).collect();
        let modules: Vec<(&str, &[&str], &[&str])> = names
            .iter()
            .map(|name| (name.as_str(), &[][..], &[][..]))
            .collect();
        let catalog = catalog(&modules);
        let wanted: Vec<&str> = names.iter().map(String::as_str).collect();
        let loading = load(&catalog, &Arc::new(Recorder::default()), &wanted);
        assert!(loading.wait_until_done(Duration::from_secs(10)));
        assert_eq!(loading.loaded().len(), 100);
    }

    #[test]
    fn parameters_come_from_the_kernel_command_line() {
        let parameters = module_parameters(
            "quiet nvme_core.default_ps_max_latency_us=0 usb-storage.quirks=1:2:u usb_storage.delay_use=3 libata.force=\"1.5G noncq\" ahci.x",
        );
        let cases = [
            ("nvme_core", Some("default_ps_max_latency_us=0")),
            ("usb_storage", Some("quirks=1:2:u delay_use=3")),
            ("libata", Some("force=\"1.5G noncq\"")),
            ("ahci", Some("x")),
            ("quiet", None),
        ];
        for (module, expected) in cases {
            assert_eq!(
                parameters.get(module).map(String::as_str),
                expected,
                "{module}"
            );
        }
    }

    #[test]
    fn the_kernel_command_line_leaves_modules_out_as_modprobe_would() {
        let excluded = excluded_modules(
            "modprobe.blacklist=megaraid_sas,usb-storage quiet modprobe.blacklist=nvme modprobe.blacklist",
        );
        let mut names: Vec<String> = excluded.into_iter().collect();
        names.sort();
        assert_eq!(names, ["megaraid_sas", "nvme", "usb_storage"]);
    }

    fn module_a() -> Module {
        Module {
            name: "a".into(),
            file: "a.ko.zst".into(),
            depends: Vec::new(),
            pre: Vec::new(),
            aliases: Vec::new(),
            class: super::super::table::Class::default(),
            firmware: Vec::new(),
        }
    }

    #[test]
    fn files_are_unpacked_or_the_trouble_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let loader = KernelLoader::new(folder.path().to_owned(), "");
        let module = module_a();
        let message = loader.content(&module).unwrap_err().to_string();
        assert!(message.contains("a.ko.zst: No such file"), "{message}");
        let mut file = File::create(folder.path().join("a.ko.zst")).unwrap();
        file.write_all(&zstd::encode_all(&b"\x7fELF"[..], 3).unwrap())
            .unwrap();
        assert_eq!(loader.content(&module).unwrap(), b"\x7fELF");
        std::fs::write(folder.path().join("a.ko.zst"), b"no zstd").unwrap();
        assert!(loader.content(&module).is_err());
    }

    #[test]
    fn files_packed_with_the_dictionary_need_it() {
        let folder = tempfile::tempdir().unwrap();
        let module = module_a();
        let common = "what all modules have in common ".repeat(20);
        let mut packer = zstd::bulk::Compressor::with_dictionary(3, common.as_bytes()).unwrap();
        let content = format!("{common}!");
        let packed = packer.compress(content.as_bytes()).unwrap();
        assert!(packed.len() < 60);
        std::fs::write(folder.path().join("a.ko.zst"), packed).unwrap();
        let without = KernelLoader::new(folder.path().to_owned(), "");
        assert!(without.content(&module).is_err());
        std::fs::write(folder.path().join(DICTIONARY), &common).unwrap();
        let with = KernelLoader::new(folder.path().to_owned(), "");
        assert_eq!(with.content(&module).unwrap(), content.as_bytes());
    }
}
