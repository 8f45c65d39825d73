//! Every message that a run can end with, and `docs/troubleshooting.md`: each stands there, and
//! nothing else does.
//!
//! The messages are taken from the types that make them, one sample of each variant. A variant
//! without a sample does not compile.

use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use nix::errno::Errno;

use crate::archive::envelope::EnvelopeError;
use crate::archive::gzip::GzipError;
use crate::archive::keystore::{KeystoreError, Mode};
use crate::archive::tar::TarError;
use crate::archive::{ArchiveError, RecoveryKeyError, Seal};
use crate::cli;
use crate::config::configstore::ConfigStoreError;
use crate::config::esx_conf::EsxConfError;
use crate::config::pci::{PciAddress, VendorDevice};
use crate::disk::lock::{Holder, LockError};
use crate::disk::partition::TableWarning;
use crate::disk::usage::User;
use crate::fat::exchange::{ActiveArchive, ExchangeError, Refusal, Stage};
use crate::fat::{Damage, FatError, Note, ShortName};
use crate::firmware::Way;
use crate::host::{AssignError, PciClass, PciFunction, SnapshotError};
use crate::import::ImportError;
use crate::init::drivers::load::{ModuleFailure, StartingModule};
use crate::init::drivers::table::DriverTableError;
use crate::init::drivers::{NoDriverReason, WithoutDriver};
use crate::init::finish::Stuck;
use crate::init::mounts::MountError;
use crate::init::{self, HALTED, InitError, NoDrivers, PROGRAM_STOPPED, Warning};
use crate::inventory::{NoDisk, Packing};
use crate::medium::MediumError;
use crate::net::DeliveryError;
use crate::net::dns::LookupError;
use crate::net::post::PostError;
use crate::net::tls::Distrust;
use crate::originals::Objection;
use crate::plan::refusal::BankRefusal;
use crate::plan::{Doubt, PlanError};
use crate::repair::Trouble;
use crate::report::{BadStart, BootScript, Sentence, Unread};
use crate::rescue::{self, ImportStop, MediumStop, MediumWarning};
use crate::secret::SecretError;
use crate::settings::addressing::{AddressingError, FixedAddress};
use crate::settings::target::Pin;
use crate::settings::{Key, Origin, Place, SettingsError, SettingsErrors};
use crate::stick::{ReadError, StickError};
use crate::verify::Broken;

const DOC: &str = include_str!("../../docs/troubleshooting.md");
/// What stands for the parts that differ.
const PART: &str = "…";

/// One message of each variant. The patterns must cover the type.
macro_rules! samples {
    ($($pattern:pat => $sample:expr),+ $(,)?) => {{
        let covers = |message: &_| match message { $($pattern => ()),+ };
        let samples = [$($sample),+];
        samples.iter().for_each(covers);
        samples.iter().map(ToString::to_string).collect::<Vec<String>>()
    }};
}

fn name() -> ShortName {
    ShortName::from_raw(*b"STATE   TGZ")
}

fn text() -> String {
    "X".into()
}

fn failure() -> io::Error {
    io::Error::other("Y")
}

fn results() -> Vec<String> {
    samples![
        Sentence::Inspected { .. } => Sentence::Inspected { banks: 1 },
        Sentence::Planned => Sentence::Planned,
        Sentence::Reverted { .. } => Sentence::Reverted { devices: 1, banks: 1 },
        Sentence::Restored { .. } => Sentence::Restored { banks: 1 },
        Sentence::Imported { .. } => Sentence::Imported { place: text(), banks: 2 },
        Sentence::NothingThere => Sentence::NothingThere,
        Sentence::NothingNeeded => Sentence::NothingNeeded,
        Sentence::NothingCertain => Sentence::NothingCertain,
        Sentence::BadStart { .. } => Sentence::BadStart {
            start: BadStart::Suspect { bank: text() },
            banks: 0,
        },
        Sentence::Suspicious { .. } => Sentence::Suspicious { banks: 1 },
        Sentence::Refused => Sentence::Refused,
        Sentence::PartlyRefused { .. } => Sentence::PartlyRefused { banks: 1 },
        Sentence::Failed => Sentence::Failed,
        Sentence::NoneFound => Sentence::NoneFound,
        Sentence::InvalidRequest => Sentence::InvalidRequest,
        Sentence::RepairedBefore => Sentence::RepairedBefore,
        Sentence::BadSettings => Sentence::BadSettings,
        Sentence::UnknownSettings => Sentence::UnknownSettings,
        Sentence::Started => Sentence::Started,
    ]
}

fn unread() -> Vec<String> {
    samples![
        Unread::Disk { .. } => Unread::Disk { path: text(), why: text() },
        Unread::Partition { .. } => Unread::Partition { name: text(), why: text() },
        Unread::Loader { .. } => Unread::Loader { name: text(), why: text() },
        Unread::Suspect { .. } => Unread::Suspect { name: text(), why: text() },
        Unread::BootableSuspect { .. } => Unread::BootableSuspect { name: text(), why: text() },
    ]
}

fn no_disks() -> Vec<String> {
    let path = || PathBuf::from("X");
    samples![
        NoDisk::VirtualDisk(_) => NoDisk::VirtualDisk("qcow2"),
        NoDisk::VmdkText(_) => NoDisk::VmdkText(path()),
        NoDisk::Packed(_) => NoDisk::Packed(Packing::Gzip),
        NoDisk::LoneBank => NoDisk::LoneBank,
        NoDisk::LoneVmfs => NoDisk::LoneVmfs,
        NoDisk::Partition { .. } => NoDisk::Partition { number: 5, disk: path() },
    ]
}

fn bad_starts() -> Vec<String> {
    let (bank, device, why) = (text(), text(), text());
    samples![
        BadStart::LeftByRequest { .. } => BadStart::LeftByRequest {
            device: device.clone(),
            why: why.clone(),
        },
        BadStart::Unsure { .. } => BadStart::Unsure { device: device.clone(), why: why.clone() },
        BadStart::NotRepaired { .. } => BadStart::NotRepaired {
            bank: bank.clone(),
            device: device.clone(),
            why: why.clone(),
        },
        BadStart::Ends { .. } => BadStart::Ends { bank: bank.clone(), why: why.clone() },
        BadStart::Unread { .. } => BadStart::Unread {
            bank: bank.clone(),
            name: text(),
            why: why.clone(),
        },
        BadStart::Suspect { .. } => BadStart::Suspect { bank: bank.clone() },
        BadStart::Uncertain { .. } => BadStart::Uncertain { bank: bank.clone(), others: text() },
        BadStart::NoBank { .. } => BadStart::NoBank { disk: text() },
    ]
}

fn boot_scripts() -> Vec<String> {
    let (at, device, why) = (text(), text(), text());
    samples![
        BootScript::Needed { .. } => BootScript::Needed {
            at: at.clone(),
            device: device.clone(),
            why: why.clone(),
        },
        BootScript::NotNeeded { .. } => BootScript::NotNeeded {
            at: at.clone(),
            device: device.clone(),
            why: why.clone(),
        },
        BootScript::Unknown { .. } => BootScript::Unknown { at: at.clone(), device, why },
        BootScript::Unnamed { .. } => BootScript::Unnamed { at },
    ]
}

fn refused_banks() -> Vec<String> {
    samples![
        BankRefusal::Archive { .. } => BankRefusal::Archive {
            name: name().to_string(),
            error: text(),
            remedy: "",
        },
        BankRefusal::StillPassesThrough { .. } => BankRefusal::StillPassesThrough {
            name: name().to_string(),
            device: text(),
        },
        BankRefusal::Unexpected => BankRefusal::Unexpected,
        BankRefusal::MissingArchive { .. } => BankRefusal::MissingArchive { name: text() },
        BankRefusal::Unreadable { .. } => BankRefusal::Unreadable {
            name: name().to_string(),
            why: text(),
        },
        BankRefusal::Volume(_) => BankRefusal::Volume(Refusal::Unsettled.to_string()),
        BankRefusal::Room(_) => BankRefusal::Room(Refusal::NoSlot.to_string()),
        BankRefusal::SavedSince { .. } => BankRefusal::SavedSince {
            name: text(),
            in_place: text(),
            copy: text(),
            original: text(),
        },
        BankRefusal::InUse { .. } => BankRefusal::InUse {
            used: format!("X is {}", User::Mount("/Y".into())),
        },
        BankRefusal::BrokenUndo { .. } => BankRefusal::BrokenUndo { name: text(), why: text() },
        BankRefusal::Copy { .. } => BankRefusal::copy(&Objection::Damaged {
            file: text(),
            place: text(),
        }),
        BankRefusal::BuildsDiffer => BankRefusal::BuildsDiffer,
        BankRefusal::PlainOverSealed { .. } => BankRefusal::PlainOverSealed { name: text() },
        BankRefusal::Doubtful(_) => BankRefusal::Doubtful(Doubt::Unknown { place: text() }),
        BankRefusal::OtherKind { .. } => BankRefusal::OtherKind { name: text(), given: text() },
        BankRefusal::NoReadableArchive => BankRefusal::NoReadableArchive,
    ]
}

fn doubts() -> Vec<String> {
    let place = text;
    samples![
        Doubt::OtherKey { .. } => Doubt::OtherKey { place: place(), given: text(), here: text() },
        Doubt::OtherHost { .. } => Doubt::OtherHost {
            place: place(),
            what: "X",
            given: text(),
            here: text(),
        },
        Doubt::OtherBuild { .. } => Doubt::OtherBuild { place: place(), build: text() },
        Doubt::NoManifest { .. } => Doubt::NoManifest { place: place() },
        Doubt::NotSealed { .. } => Doubt::NotSealed { place: place() },
        Doubt::Unknown { .. } => Doubt::Unknown { place: place() },
    ]
}

fn imports() -> Vec<String> {
    let place = text;
    let mut messages = samples![
        ImportError::NoArchive { .. } => ImportError::NoArchive {
            place: place(),
            error: ArchiveError::NoConfiguration,
        },
        ImportError::Uncompressed { .. } => ImportError::Uncompressed { place: place() },
        ImportError::Unreadable { .. } => ImportError::Unreadable { place: place(), why: text() },
    ];
    messages.extend(samples![
        ImportStop::NoMedium => ImportStop::NoMedium,
        ImportStop::Nothing { .. } => ImportStop::Nothing { places: text() },
        ImportStop::Medium(_) => ImportStop::Medium(MediumError::Gone),
        ImportStop::Archive(_) => ImportStop::Archive(ImportError::Uncompressed { place: place() }),
    ]);
    messages
}

fn refused_copies() -> Vec<String> {
    let (file, place) = (text(), text());
    samples![
        Objection::SavedSince { .. } => Objection::SavedSince {
            archive: text(),
            place: place.clone(),
        },
        Objection::Unknown { .. } => Objection::Unknown { archive: text(), why: text() },
        Objection::Name { .. } => Objection::Name { file: file.clone(), place: place.clone() },
        Objection::Unreadable { .. } => Objection::Unreadable {
            file: file.clone(),
            place: place.clone(),
            why: text(),
        },
        Objection::NoArchive { .. } => Objection::NoArchive {
            file: file.clone(),
            place: place.clone(),
            why: text(),
        },
        Objection::Damaged { .. } => Objection::Damaged { file: file.clone(), place: place.clone() },
    ]
}

fn medium() -> Vec<String> {
    let mut messages = samples![
        MediumError::Ambiguous(_) => MediumError::Ambiguous(vec![text(), text()]),
        MediumError::File { .. } => MediumError::File { file: text(), why: text() },
        MediumError::Stick(_) => MediumError::Stick(StickError::Unsound(ReadError::Device(io::Error::other(text())))),
        MediumError::Gone => MediumError::Gone,
        MediumError::Slow(_) => MediumError::Slow(Duration::from_secs(1)),
        MediumError::Defect => MediumError::Defect,
    ];
    messages.extend(samples![
        StickError::Read { .. } => StickError::Read { what: text(), source: failure() },
        StickError::Unsound(_) => StickError::Unsound(ReadError::Device(io::Error::other(text()))),
        StickError::Full { .. } => StickError::Full { needed: 2, free: 1 },
        StickError::Prepare(_) => StickError::Prepare(text()),
        StickError::Write(_) => StickError::Write(failure()),
    ]);
    messages.extend(samples![
        MediumWarning::Originals(_) => MediumWarning::Originals(MediumError::Gone),
        MediumWarning::Note(_) => MediumWarning::Note(MediumError::Gone),
        MediumWarning::Recipe(_) => MediumWarning::Recipe(MediumError::Gone),
        MediumWarning::Report(_) => MediumWarning::Report(MediumError::Gone),
        MediumWarning::Unusable(_) => MediumWarning::Unusable(MediumError::Gone),
    ]);
    messages.extend(samples![
        MediumStop::Unclear(_) => MediumStop::Unclear(MediumError::Gone),
        MediumStop::Settings(_) => MediumStop::Settings(SettingsErrors(vec![unknown_key()])),
        MediumStop::Missing(_) => MediumStop::Missing(Duration::from_secs(1)),
    ]);
    messages
}

fn refused_exchanges() -> Vec<String> {
    samples![
        Refusal::Volume(_) => Refusal::Volume(FatError::NotFound(text())),
        Refusal::NoSpace { .. } => Refusal::NoSpace { needed: 1, free: 1, cluster_bytes: 3 },
        Refusal::NoSlot => Refusal::NoSlot,
        Refusal::Empty(_) => Refusal::Empty(name()),
        Refusal::Changed(_) => Refusal::Changed(name()),
        Refusal::NoUndo(_) => Refusal::NoUndo(name()),
        Refusal::NameTaken(_) => Refusal::NameTaken(name()),
        Refusal::NoName(_) => Refusal::NoName(name()),
        Refusal::Unsettled => Refusal::Unsettled,
    ]
}

fn volumes() -> Vec<String> {
    samples![
        FatError::Read { .. } => FatError::Read { what: text(), source: failure() },
        FatError::NotFat(_) => FatError::NotFat(text()),
        FatError::Damaged(_) => FatError::Damaged(Damage::TooDeep(8)),
        FatError::NotFound(_) => FatError::NotFound(text()),
        FatError::InTheWay { .. } => FatError::InTheWay { name: text(), what: "a directory" },
        FatError::TooLarge { .. } => FatError::TooLarge { name: text(), size: 2, limit: 2 },
    ]
}

fn notes() -> Vec<String> {
    samples![
        Note::MarkedDirty => Note::MarkedDirty,
        Note::Lost { .. } => Note::Lost { clusters: 1 },
        Note::TablesDiffer { .. } => Note::TablesDiffer { entries: 1 },
        Note::OtherFile { .. } => Note::OtherFile { first: Damage::TooDeep(8), more: 1 },
        Note::Copy(_) => Note::Copy(Damage::TooDeep(8)),
        Note::ForeignName(_) => Note::ForeignName(text()),
        Note::Unsigned => Note::Unsigned,
    ]
}

fn users() -> Vec<String> {
    samples![
        User::Mount(_) => User::Mount("/X".into()),
        User::Swap => User::Swap,
        User::Device(_) => User::Device(text()),
    ]
    .into_iter()
    .map(|user| format!("X is {user}"))
    .collect()
}

fn locks() -> Vec<String> {
    let holder = Holder::Process {
        pid: 1,
        command: text(),
    };
    samples![
        LockError::Held { .. } => LockError::Held { path: text(), holder: holder.clone() },
        LockError::NoLocks { .. } => LockError::NoLocks { path: text(), error: failure() },
    ]
}

fn seal(mode: Mode) -> Seal {
    let key_id = Some(text());
    Seal { mode, key_id }
}

fn archives() -> Vec<String> {
    const LAYER: &str = "state.tgz";
    samples![
        ArchiveError::NotAnArchive { .. } => ArchiveError::NotAnArchive { layer: LAYER },
        ArchiveError::Gzip { .. } => ArchiveError::Gzip { layer: LAYER, source: GzipError::Header },
        ArchiveError::Tar { .. } => ArchiveError::Tar {
            layer: LAYER,
            source: TarError::TooManyMembers,
        },
        ArchiveError::SealedByTpm(_) => ArchiveError::SealedByTpm(seal(Mode::Tpm)),
        ArchiveError::UnknownMode(_) => ArchiveError::UnknownMode(seal(Mode::Other(text()))),
        ArchiveError::OtherRecoveryKey(_) => ArchiveError::OtherRecoveryKey(seal(Mode::Tpm)),
        ArchiveError::NoKeystore => ArchiveError::NoKeystore,
        ArchiveError::Keystore(_) => ArchiveError::Keystore(KeystoreError::TooLarge { bytes: 2 }),
        ArchiveError::Envelope(_) => ArchiveError::Envelope(EnvelopeError::Tag),
        ArchiveError::PlainAndSealed => ArchiveError::PlainAndSealed,
        ArchiveError::NoConfiguration => ArchiveError::NoConfiguration,
        ArchiveError::EsxConf(_) => ArchiveError::EsxConf(EsxConfError::TooLarge { size: 2 }),
        ArchiveError::ConfigStore(_) => ArchiveError::ConfigStore(ConfigStoreError::NoSuchDevice {
            identifier: text(),
        }),
        ArchiveError::StoreNotClosed(_) => ArchiveError::StoreNotClosed("X"),
        ArchiveError::NotAsMeant(_) => ArchiveError::NotAsMeant("X"),
    ]
}

fn failed() -> ExchangeError {
    ExchangeError::Failed {
        stage: Stage::Data,
        in_force: ActiveArchive::Old,
        reason: text(),
    }
}

fn troubles() -> Vec<String> {
    let (bank, error) = (text, failed());
    samples![
        Trouble::CannotOpen { .. } => Trouble::CannotOpen { bank: bank(), error: failure() },
        Trouble::NotBegun { .. } => Trouble::NotBegun { bank: bank() },
        Trouble::Exchange { .. } => Trouble::Exchange { bank: bank(), error: &error },
        Trouble::HalfWay { .. } => Trouble::HalfWay {
            bank: bank(),
            names: text(),
            file: text(),
            error: &error,
        },
    ]
}

fn broken_promises() -> Vec<String> {
    samples![
        Broken::NowUnreadable { .. } => Broken::NowUnreadable { name: text(), why: text() },
        Broken::TableGone { .. } => Broken::TableGone { path: text(), why: text() },
        Broken::OtherPartitions { .. } => Broken::OtherPartitions { path: text() },
        Broken::TableWorse { .. } => Broken::TableWorse { path: text(), warning: text() },
        Broken::NotAsPlanned { .. } => Broken::NotAsPlanned {
            name: "X",
            what: text(),
            in_force: "the new archive was written and was correct when read back",
        },
        Broken::TwoDisks { .. } => Broken::TwoDisks { path: text(), other: text() },
        Broken::StillPassedThrough { .. } => Broken::StillPassedThrough { name: "X", device: "Y" },
    ]
}

fn recovery_keys() -> Vec<String> {
    let mut messages = samples![
        RecoveryKeyError::NotSixDigits { .. } => RecoveryKeyError::NotSixDigits { number: 3 },
        RecoveryKeyError::Count { .. } => RecoveryKeyError::Count { found: 15 },
        RecoveryKeyError::Group { .. } => RecoveryKeyError::Group { number: 3 },
        RecoveryKeyError::Swapped { .. } => RecoveryKeyError::Swapped { first: 3, second: 4 },
    ];
    messages.extend(samples![
        SecretError::File { .. } => SecretError::File { file: text(), error: failure() },
        SecretError::TooLong { .. } => SecretError::TooLong { file: text() },
        SecretError::NoTerminal(_) => SecretError::NoTerminal(failure()),
    ]);
    messages
}

fn requests() -> Vec<String> {
    let mut messages = samples![
        PlanError::AutoNeedsMachine { .. } => PlanError::AutoNeedsMachine { passed_through: text() },
        PlanError::ClassNeedsMachine { .. } => PlanError::ClassNeedsMachine {
            selector: text(),
            passed_through: text(),
        },
        PlanError::NoSuchBank { .. } => PlanError::NoSuchBank { banks: text(), there: text() },
        PlanError::NothingSelected { .. } => PlanError::NothingSelected {
            selector: text(),
            passed_through: text(),
        },
    ];
    messages.extend(samples![
        AssignError::NoSuchDisk { .. } => AssignError::NoSuchDisk {
            node: PathBuf::from("X"),
            disks: text(),
        },
        AssignError::Taken { .. } => AssignError::Taken { node: PathBuf::from("X") },
        AssignError::Which { .. } => AssignError::Which {
            image: PathBuf::from("X"),
            size: 2,
            fits: 2,
            example: text(),
            disks: text(),
        },
    ]);
    messages.extend(samples![
        SnapshotError::NoMachine { .. } | SnapshotError::File { .. } => SnapshotError::NoMachine {
            path: PathBuf::from("X"),
            why: text(),
        },
    ]);
    messages.extend(samples![
        InitError::NotPidOne { .. } => InitError::NotPidOne { pid: 7 },
    ]);
    messages.push(cli::NOBODY_TO_ASK.into());
    messages.push(cli::NOTHING_TO_TRUST.into());
    messages
}

/// Their own messages are under other heads; none of the variants may be forgotten.
fn stops() -> Vec<String> {
    let wrong = || SettingsErrors(vec![unknown_key()]);
    let mut messages = samples![
        init::Stop::Mount(_) => init::Stop::Mount(mount_error()),
        init::Stop::CommandLine(_) => init::Stop::CommandLine(failure()),
        init::Stop::ImageSettings(_) => init::Stop::ImageSettings(failure()),
        init::Stop::Settings(_) => init::Stop::Settings(wrong()),
    ];
    messages.extend(samples![
        rescue::Stop::Plan(_) => rescue::Stop::Plan(PlanError::NothingSelected {
            selector: text(),
            passed_through: text(),
        }),
        rescue::Stop::Import(_) => rescue::Stop::Import(ImportStop::NoMedium),
        rescue::Stop::Medium(_) => rescue::Stop::Medium(MediumStop::Missing(Duration::ZERO)),
    ]);
    messages
}

fn mount_error() -> MountError {
    MountError::Mount {
        kind: "X",
        target: "Y",
        error: Errno::EIO,
    }
}

fn place() -> Place {
    Place {
        origin: Origin::CommandLine,
        line: None,
    }
}

fn unknown_key() -> SettingsError {
    SettingsError::UnknownKey {
        place: place(),
        key: text(),
        meant: Some(Key::Mode),
    }
}

fn settings() -> Vec<String> {
    let (origin, key) = (Origin::CommandLine, Key::Mode);
    samples![
        SettingsError::TooLong { .. } => SettingsError::TooLong {
            origin: origin.clone(),
            found: 2,
            limit: 2,
        },
        SettingsError::NotUtf8 { .. } => SettingsError::NotUtf8 { origin: origin.clone(), offset: 1 },
        SettingsError::Syntax { .. } => SettingsError::Syntax { place: place(), message: text() },
        SettingsError::UnknownKey { .. } => unknown_key(),
        SettingsError::Misspelled { .. } => SettingsError::Misspelled {
            place: place(),
            word: text(),
            meant: key,
        },
        SettingsError::NoValue { .. } => SettingsError::NoValue { place: place(), key },
        SettingsError::BadValue { .. } => SettingsError::BadValue {
            place: place(),
            key,
            value: text(),
        },
        SettingsError::PinWithoutTls { .. } => SettingsError::PinWithoutTls { place: place() },
        SettingsError::WrongType { .. } => SettingsError::WrongType {
            place: place(),
            key,
            found: "a list",
        },
    ]
}

fn warnings() -> Vec<String> {
    let mut messages = samples![
        Warning::NotSilenced(_) => Warning::NotSilenced(failure()),
        Warning::NoConsole { .. } => Warning::NoConsole { name: text() },
        Warning::NoEvents(_) => Warning::NoEvents(Errno::EIO),
    ];
    messages.extend(samples![
        MountError::Folder { .. } => MountError::Folder {
            kind: "X",
            target: "Y",
            error: failure(),
        },
        MountError::Mount { .. } => mount_error(),
    ]);
    messages.extend(samples![
        NoDrivers::Read(_) => NoDrivers::Read(failure()),
        NoDrivers::Table(_) => NoDrivers::Table(DriverTableError::TooLarge { found: 2 }),
    ]);
    messages.extend(samples![
        TableWarning::PrimaryDamaged { .. } => TableWarning::PrimaryDamaged { reason: text() },
        TableWarning::PrimaryUnsupported { .. } => TableWarning::PrimaryUnsupported { reason: text() },
        TableWarning::BackupDamaged { .. } => TableWarning::BackupDamaged { reason: text() },
        TableWarning::CutShort { .. } => TableWarning::CutShort { promised: 2, device: 2 },
        TableWarning::NotProtected => TableWarning::NotProtected,
        TableWarning::SectorSize { .. } => TableWarning::SectorSize { table: 512, device: 4096 },
        TableWarning::BrokenChain { .. } => TableWarning::BrokenChain { number: 5, reason: text() },
    ]);
    messages
}

fn without_driver() -> Vec<String> {
    let controller = |reason| WithoutDriver {
        function: PciFunction {
            address: PciAddress {
                segment: 0,
                bus: 0,
                slot: 0x1f,
                function: 2,
            },
            id: VendorDevice {
                vendor: 0x8086,
                device: 0x2922,
            },
            class: PciClass(0x01_0601),
            above: Vec::new(),
            driver: None,
            name: None,
        },
        reason,
        firmware: Vec::new(),
    };
    let reasons = [
        NoDriverReason::NoDriver,
        NoDriverReason::Failed(vec![ModuleFailure {
            name: text(),
            reason: text(),
        }]),
        NoDriverReason::StillStarting(vec![StartingModule {
            name: text(),
            since: Duration::from_secs(40),
        }]),
        NoDriverReason::NotTaken(vec![text()]),
    ];
    let covers = |reason: &NoDriverReason| match reason {
        NoDriverReason::NoDriver
        | NoDriverReason::Failed(_)
        | NoDriverReason::StillStarting(_)
        | NoDriverReason::NotTaken(_) => (),
    };
    reasons.iter().for_each(covers);
    reasons
        .into_iter()
        .map(|reason| controller(reason).to_string())
        .collect()
}

fn fixed_address() -> FixedAddress {
    FixedAddress {
        address: Ipv4Addr::new(192, 0, 2, 7),
        prefix: 24,
        gateway: None,
    }
}

fn deliveries() -> Vec<String> {
    let mut messages = samples![
        DeliveryError::NoCard { .. } => DeliveryError::NoCard { without_driver: Vec::new() },
        DeliveryError::NoSuchInterface { .. } => DeliveryError::NoSuchInterface {
            wanted: text(),
            present: Vec::new(),
        },
        DeliveryError::NoSignal(_) => DeliveryError::NoSignal(vec![text()]),
        DeliveryError::NoAddress(_) => DeliveryError::NoAddress(vec![text()]),
        DeliveryError::Refused { .. } => DeliveryError::Refused {
            interface: text(),
            address: fixed_address(),
            problem: text(),
        },
        // Its own message stands among those of the attempt.
        DeliveryError::NotTaken { .. } => DeliveryError::Skipped,
        DeliveryError::Skipped => DeliveryError::Skipped,
        DeliveryError::Internal(_) => DeliveryError::Internal(text()),
    ];
    messages.push(rescue::passed_over(
        "X",
        &AddressingError::Interface(text()),
    ));
    messages
}

fn posts() -> Vec<String> {
    let at = text;
    samples![
        PostError::Refused { .. } => PostError::Refused { at: at() },
        PostError::Unreachable { .. } => PostError::Unreachable { at: at(), problem: text() },
        PostError::Silent { .. } => PostError::Silent { at: at(), seconds: 15 },
        PostError::Tls { .. } => PostError::Tls { at: at(), problem: text() },
        PostError::Redirect { .. } => PostError::Redirect { status: 302, to: text() },
        PostError::Status { .. } => PostError::Status { status: 422, text: text() },
        PostError::Broken { .. } => PostError::Broken { at: at(), problem: text() },
        PostError::Lookup(_) | PostError::Distrust(_) => Distrust::Name.into(),
    ]
}

fn lookups() -> Vec<String> {
    let server = (Ipv4Addr::new(192, 0, 2, 53), 53).into();
    samples![
        LookupError::NoServer { .. } => LookupError::NoServer { name: text() },
        LookupError::UnknownName { .. } => LookupError::UnknownName { name: text(), server },
        LookupError::NoAnswer { .. } => LookupError::NoAnswer { name: text(), problems: vec![text()] },
    ]
}

fn distrusts() -> Vec<String> {
    let pin = Pin([7; 32]);
    samples![
        Distrust::Pin { .. } => Distrust::Pin { found: pin, wanted: pin },
        Distrust::Date { .. } => Distrust::Date { word: "is out of date", date: text() },
        Distrust::Issuer => Distrust::Issuer,
        Distrust::Name => Distrust::Name,
        Distrust::Certificate(_) => Distrust::Certificate(text()),
    ]
}

fn endings() -> Vec<String> {
    let mut messages = samples![
        Stuck::Machine(_) => Stuck::Machine(Errno::EIO),
        Stuck::Disk => Stuck::Disk,
    ];
    messages.extend([HALTED.to_owned(), PROGRAM_STOPPED.to_owned()]);
    messages
}

fn ways_back() -> Vec<String> {
    let (why, first) = (text(), text());
    let (home, entry, description) = (text(), text(), text());
    samples![
        Way::BootNext { .. } => Way::BootNext { home: home.clone(), entry: entry.clone(), description },
        Way::MadeEntry { .. } => Way::MadeEntry { home, entry },
        Way::Medium => Way::Medium,
        Way::MediumInstead { .. } => Way::MediumInstead { why: why.clone() },
        Way::PullIt { .. } => Way::PullIt { why: why.clone() },
        Way::MediumFirst { .. } => Way::MediumFirst { why: why.clone(), first: first.clone() },
        Way::OwnOrder { .. } => Way::OwnOrder { why: why.clone(), first },
        Way::Unknown { .. } => Way::Unknown { why },
        Way::Off => Way::Off,
    ]
}

fn every_message() -> Vec<String> {
    [
        results(),
        unread(),
        no_disks(),
        bad_starts(),
        boot_scripts(),
        refused_banks(),
        refused_copies(),
        medium(),
        refused_exchanges(),
        volumes(),
        notes(),
        users(),
        locks(),
        archives(),
        troubles(),
        broken_promises(),
        recovery_keys(),
        doubts(),
        imports(),
        requests(),
        stops(),
        settings(),
        warnings(),
        without_driver(),
        deliveries(),
        posts(),
        lookups(),
        distrusts(),
        endings(),
        ways_back(),
    ]
    .concat()
}

/// The first cell of every row, without the backticks.
fn documented() -> Vec<&'static str> {
    let rows = DOC.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.filter_map(|row| Some(row.split_once("` | ")?.0))
        .collect()
}

/// Whether a message is the documented one, with anything where the dots stand.
fn fits(documented: &str, message: &str) -> bool {
    let mut parts = documented.split(PART);
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = message.strip_prefix(first) else {
        return false;
    };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        let found = match parts.peek() {
            Some(_) => rest.find(part),
            None => rest
                .len()
                .checked_sub(part.len())
                .filter(|_| rest.ends_with(part)),
        };
        match found {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    true
}

#[test]
fn every_message_is_documented() {
    for message in every_message() {
        let message = message.replace('\n', " ");
        assert!(
            documented().into_iter().any(|known| fits(known, &message)),
            "docs/troubleshooting.md says nothing of: {message}"
        );
    }
}

/// The samples hold ones where a message counts something.
#[test]
fn one_of_a_thing_is_not_said_as_several() {
    let says_it = |message: &String| {
        let words: Vec<&str> = message.split_whitespace().collect();
        words.windows(2).any(|pair| {
            let noun = pair[1].trim_matches(|c: char| !c.is_alphanumeric());
            pair[0] == "1" && noun.len() > 2 && noun.ends_with('s') && noun != "was"
        })
    };
    let wrong: Vec<String> = every_message().into_iter().filter(says_it).collect();
    assert_eq!(wrong, [""; 0]);
}

#[test]
fn every_documented_message_exists() {
    let messages: Vec<String> = every_message()
        .iter()
        .map(|message| message.replace('\n', " "))
        .collect();
    for known in documented() {
        assert!(
            messages.iter().any(|message| fits(known, message)),
            "nothing says any more: {known}"
        );
        let words: String = known.split(PART).collect();
        assert!(words.len() >= 10, "this would fit anything: {known}");
    }
}

#[test]
fn every_message_has_one_row() {
    let mut rows = documented();
    rows.sort_unstable();
    for pair in rows.windows(2) {
        assert_ne!(pair[0], pair[1], "docs/troubleshooting.md says this twice");
    }
}

#[test]
fn every_row_says_what_to_do() {
    let rows = DOC.lines().filter(|line| line.starts_with("| `"));
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").collect();
        let filled = cells.iter().all(|cell| cell.trim().len() >= 4);
        assert!(cells.len() == 3 && filled, "{row}");
    }
}

#[test]
fn dots_stand_for_anything_and_nothing_else_does() {
    for (documented, message, expected) in [
        ("a … b", "a x b", true),
        ("a … b", "a x y b", true),
        ("a … b", "a x c", false),
        ("…: c …", "x: c y", true),
        ("ab", "abc", false),
        ("ab…", "abc", true),
        ("… and …; …", "x and y; z", true),
        ("… and …; …", "x or y; z", false),
        ("a …b", "ab", false),
    ] {
        assert_eq!(
            fits(documented, message),
            expected,
            "{documented} {message}"
        );
    }
}
