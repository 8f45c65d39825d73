//! The verdict on every device that is passed through, and its reason in words.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use super::needs::Needs;
use super::{Made, PlanError};
use crate::config::pci::{PciAddress, Reading, VendorDevice};
use crate::host::{Host, PciClass, PciFunction};
use crate::inventory::{Bank, Content, DeviceEntry, Inventory, Large};
use crate::policy::{Selection, Term};

/// What happens to a device that is passed through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// ESXi gets it back.
    GiveBack,
    /// It stays as it is.
    Leave,
    /// It stays as it is: no device sits at its address now.
    Stale,
    /// It stays as it is: what it drives cannot be determined with certainty.
    Unsure,
}

/// Whether ESXi needs a device, by what is known of the machine and its disks. What was asked for has
/// no part in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Need {
    /// It does.
    Needed {
        /// What for, in words.
        what_for: String,
    },
    /// Every disk was looked at, and none of ESXi's is behind it.
    NotNeeded {
        /// What it is, in words.
        what: String,
    },
    /// No device sits at its address now.
    Absent,
    /// It cannot be determined.
    Unknown {
        /// Why, in words.
        why: String,
        /// Whether one of its readings is an address that ESXi needs.
        may_be: bool,
    },
}

/// What was asked for with respect to a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// To give it back, because of what ESXi needs.
    ByNeed,
    /// To give it back, by this selector.
    Chosen(String),
    /// To leave it, by this selector.
    Excepted(String),
    /// Nothing.
    NotNamed,
}

/// The one place where need and request become a verdict, and its words.
fn verdict(need: &Need, request: &Request) -> (Verdict, String) {
    match (request, need) {
        (Request::Chosen(term), _) => (Verdict::GiveBack, format!("chosen by {term}")),
        (Request::Excepted(term), Need::Needed { what_for }) => (
            Verdict::Leave,
            format!("excepted by -{term}, although ESXi needs it: it {what_for}"),
        ),
        (Request::Excepted(term), _) => (Verdict::Leave, format!("excepted by -{term}")),
        (Request::ByNeed, Need::Needed { what_for }) => (Verdict::GiveBack, what_for.clone()),
        (Request::NotNamed, Need::Needed { what_for }) => (
            Verdict::Leave,
            format!("not named by `devices`, although ESXi needs it: it {what_for}"),
        ),
        (Request::ByNeed | Request::NotNamed, Need::Unknown { why, .. }) => {
            (Verdict::Unsure, why.clone())
        }
        (Request::ByNeed | Request::NotNamed, Need::Absent) => (
            Verdict::Stale,
            "there is no device at this address now".into(),
        ),
        (Request::ByNeed | Request::NotNamed, Need::NotNeeded { what }) => {
            (Verdict::Leave, what.clone())
        }
    }
}

/// A device that is passed through in at least one bank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// Its address as it is spelled in the configuration.
    pub text: Arc<str>,
    /// Its address, where the text is one.
    pub address: Option<PciAddress>,
    /// The number base in which the address was read.
    pub reading: Reading,
    /// What the address would be in hex, where the text is valid as both.
    pub alternative: Option<PciAddress>,
    /// The files that name it.
    pub files: Vec<&'static str>,
    /// ESXi's name for it.
    pub vmkname: Option<String>,
    /// What sits at the address now.
    pub present: Option<Box<PciFunction>>,
    /// The address by which a person can choose it: one where a device is, as far as is known.
    pub choose_by: Option<PciAddress>,
    /// How likely it is that ESXi needs a device of this kind.
    pub kind: Kind,
    /// What it was when ESXi recorded it.
    pub recorded: Option<VendorDevice>,
    /// The same, where something else sits there now: a card was moved.
    pub was: Option<VendorDevice>,
    /// Whether ESXi needs it.
    pub need: Need,
    /// What was asked for.
    pub request: Request,
    /// What happens to it: what follows from the two.
    pub verdict: Verdict,
    /// Why, in words.
    pub reason: String,
}

/// Kinds of devices, those first that ESXi most likely needs to reach its disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// It drives disks, or a bus that boot media hang on.
    Storage,
    /// A bridge to other devices.
    Bridge,
    /// It is not known what it is.
    Unknown,
    /// Anything else.
    Other,
    /// A graphics card.
    Display,
}

impl Kind {
    fn of(class: Option<PciClass>, vmkname: Option<&str>) -> Self {
        match class {
            Some(class) if class.drives_storage() => Self::Storage,
            Some(class) if class.is_bridge() => Self::Bridge,
            Some(class) if class.is("display") => Self::Display,
            Some(_) => Self::Other,
            // ESXi's names for storage adapters.
            None if vmkname.is_some_and(|name| name.starts_with("vmhba")) => Self::Storage,
            None => Self::Unknown,
        }
    }
}

/// The machine and the request, ready to judge entries.
#[derive(Debug)]
pub(super) struct Judge<'a> {
    selection: &'a Selection,
    host: Option<&'a Host>,
    /// What an archive says that was given from outside.
    given: Option<&'a Content>,
    needs: Needs,
    /// What its verdicts have made of archives with very many devices.
    pub(super) large: Large<Made>,
}

impl<'a> Judge<'a> {
    /// # Errors
    /// [`PlanError`] when the selection does not fit this configuration and machine.
    pub(super) fn new(
        inventory: &Inventory,
        selection: &'a Selection,
        host: Option<&'a Host>,
        given: Option<&'a Content>,
    ) -> Result<Self, PlanError> {
        let mut judge = Self::unchecked(inventory, selection, host);
        judge.given = given;
        if entries(inventory, given).any(|entry| entry.passed_through) {
            for (_, term) in selection.terms() {
                judge.check(term, inventory)?;
            }
        }
        Ok(judge)
    }

    /// One that says `unsure` where [`Judge::new`] would not go on.
    pub(super) fn unchecked(
        inventory: &Inventory,
        selection: &'a Selection,
        host: Option<&'a Host>,
    ) -> Self {
        Self {
            selection,
            host,
            given: None,
            needs: host
                .map(|host| Needs::of(inventory, host))
                .unwrap_or_default(),
            large: Large::default(),
        }
    }

    /// Terms that take away are checked like those that add: a mistyped exception must not give
    /// back what it was meant to protect.
    fn check(&self, term: &Term, inventory: &Inventory) -> Result<(), PlanError> {
        let class_unknown = || {
            entries(inventory, self.given)
                .any(|entry| entry.passed_through && self.class_of(entry).is_none())
        };
        match (term, self.host) {
            (Term::Auto, None) => Err(PlanError::AutoNeedsMachine {
                passed_through: passed_through(inventory, self.host, self.given),
            }),
            (Term::Class(_), None) if class_unknown() => Err(PlanError::ClassNeedsMachine {
                selector: term.to_string(),
                passed_through: passed_through(inventory, self.host, self.given),
            }),
            _ if self.names_something(term, inventory) => Ok(()),
            _ => Err(PlanError::NothingSelected {
                selector: term.to_string(),
                passed_through: passed_through(inventory, self.host, self.given),
            }),
        }
    }

    /// The verdict on an entry that is passed through.
    pub(super) fn judge(&self, entry: &DeviceEntry) -> (Verdict, String) {
        let (need, request) = (self.need(entry), self.request(entry));
        verdict(&need, &request)
    }

    /// What was asked for: the last term that names the entry counts.
    fn request(&self, entry: &DeviceEntry) -> Request {
        let mut request = Request::NotNamed;
        for (adds, term) in self.selection.terms() {
            match (adds, term) {
                (true, Term::Auto) if self.purpose(entry).is_some() => request = Request::ByNeed,
                (true, Term::Auto) => {}
                (true, term) if self.matches(term, entry) => {
                    request = Request::Chosen(term.to_string());
                }
                (false, term) if self.matches(term, entry) => {
                    request = Request::Excepted(term.to_string());
                }
                _ => {}
            }
        }
        request
    }

    /// Why ESXi needs a device that an archive passes through; `None` where it does not, as far as is
    /// known. Without a machine, what was asked for is what is needed.
    pub(super) fn why_needed(&self, entry: &DeviceEntry) -> Option<String> {
        match (self.host, self.need(entry), self.request(entry)) {
            (None, _, Request::Chosen(term)) => Some(format!("was chosen by {term}")),
            (None, _, _) => None,
            (_, Need::Needed { what_for }, _) => Some(what_for),
            (_, Need::Unknown { why, may_be: true }, _) => Some(why),
            _ => None,
        }
    }

    /// All devices that are passed through somewhere, each once: what ESXi most likely needs first, what
    /// is not there last.
    pub(super) fn devices(&self, inventory: &Inventory) -> Vec<Judged> {
        // Archives of one host name mostly the same devices.
        let counts = contents(inventory, self.given).map(|one| one.passed_through().count());
        let number = counts.max().unwrap_or(0);
        let mut devices: Vec<Judged> = Vec::with_capacity(number);
        let mut known: HashMap<(DeviceIdentity, Verdict), usize> = HashMap::with_capacity(number);
        for entry in entries(inventory, self.given).filter(|entry| entry.passed_through) {
            let new = self.judged(entry);
            match known.entry((new.identity(), new.verdict)) {
                Entry::Occupied(index) => devices[*index.get()].merge(new),
                Entry::Vacant(place) => {
                    place.insert(devices.len());
                    devices.push(new);
                }
            }
        }
        devices.sort_by_cached_key(Judged::usefulness);
        devices
    }

    /// What an archive says that was given from outside.
    pub(super) fn given(&self) -> Option<&'a Content> {
        self.given
    }

    /// Why a bank with nothing to change has nothing to change.
    pub(super) fn why_nothing(&self, bank: &Bank) -> String {
        let entries = bank
            .archives
            .iter()
            .filter_map(|archive| archive.content.as_ref().ok())
            .flat_map(|content| content.devices.iter());
        match entries.filter(|entry| entry.passed_through).count() {
            0 => "nothing is passed through".into(),
            1 => "the one device that is passed through stays passed through".into(),
            n => format!("the {n} devices that are passed through stay passed through"),
        }
    }

    fn judged(&self, entry: &DeviceEntry) -> Judged {
        let (need, request) = (self.need(entry), self.request(entry));
        let (verdict, reason) = verdict(&need, &request);
        let present = self.present(entry).cloned().map(Box::new);
        let differs = |id: &VendorDevice| present.as_ref().is_some_and(|there| there.id != *id);
        let was = entry
            .id
            .filter(|id| differs(id) && self.ambiguity(entry).is_none());
        Judged {
            text: entry.text.clone(),
            address: entry.address,
            reading: entry.reading,
            alternative: entry.alternative,
            files: vec![entry.place.file()],
            vmkname: entry.vmkname.clone(),
            present,
            choose_by: self.choose_by(entry),
            kind: self.kind(entry),
            recorded: entry.id,
            was,
            need,
            request,
            verdict,
            reason,
        }
    }

    /// Whether ESXi needs an entry's device.
    pub(super) fn need(&self, entry: &DeviceEntry) -> Need {
        let unknown = |why: String, may_be: bool| Need::Unknown { why, may_be };
        let Some(host) = self.host else {
            return match self.selection.uses_auto() {
                true => unknown(
                    "without the machine it is not known which disks are behind it".into(),
                    false,
                ),
                false => Need::NotNeeded {
                    what: "not chosen".into(),
                },
            };
        };
        let Some(address) = entry.address else {
            return unknown("its address has an unknown format".into(), false);
        };
        if let Some(why) = self.ambiguity(entry) {
            let readings = [Some(address), entry.alternative];
            let mut purposes = readings.into_iter().flatten();
            let may_be = purposes.any(|at| self.needs.purpose(at).is_some());
            return unknown(why, may_be);
        }
        if let Some(what_for) = self.needs.purpose(address) {
            return Need::Needed { what_for };
        }
        let Some(function) = host.function(address) else {
            return Need::Absent;
        };
        match self.needs.doubt(function) {
            Some(doubt) => unknown(doubt.why, doubt.may_be),
            None => Need::NotNeeded {
                what: format!("{}; no ESXi disk or datastore behind it", function.class),
            },
        }
    }

    /// Why an address that reads as decimal and as hex cannot be relied on, if it cannot. Decimal
    /// is what ESXi writes; only what sits there speaks against it.
    fn ambiguity(&self, entry: &DeviceEntry) -> Option<String> {
        let (host, address, other) = (self.host?, entry.address?, entry.alternative?);
        let there = host.function(other)?;
        match (host.function(address), entry.id) {
            (None, _) => Some(format!(
                "there is no device at {address}, but read as hex it would be {other}, which exists"
            )),
            (Some(here), Some(id)) if here.id != id && there.id == id => Some(format!(
                "it was recorded for {id}, which is not at {address} but at {other}, the address read as hex"
            )),
            (Some(here), None) => self.differing_needs(here, there),
            _ => None,
        }
    }

    /// Why an address without recorded IDs cannot be relied on: somebody added it by hand, and only
    /// one of its two readings is a device that ESXi needs.
    fn differing_needs(&self, here: &PciFunction, there: &PciFunction) -> Option<String> {
        let (needed, what_for) = match [here, there].map(|one| self.needs.purpose(one.address)) {
            [Some(what_for), None] => (here, what_for),
            [None, Some(what_for)] => (there, what_for),
            _ => return None,
        };
        Some(format!(
            "no ID was recorded for it: read as decimal it is {} ({}), read as hex {} ({}); ESXi needs {}, which {what_for}",
            here.address, here.class, there.address, there.class, needed.address
        ))
    }

    /// What ESXi certainly needs an entry's device for.
    fn purpose(&self, entry: &DeviceEntry) -> Option<String> {
        let purpose = self.needs.purpose(entry.address?)?;
        self.ambiguity(entry).is_none().then_some(purpose)
    }

    fn present(&self, entry: &DeviceEntry) -> Option<&PciFunction> {
        self.host?.function(entry.address?)
    }

    /// What sits there now counts; the configuration's own word only where nothing does.
    fn class_of(&self, entry: &DeviceEntry) -> Option<PciClass> {
        self.present(entry)
            .map(|function| function.class)
            .or(entry.class)
    }

    pub(super) fn kind(&self, entry: &DeviceEntry) -> Kind {
        let chosen = self.host.zip(self.choose_by(entry));
        let there = chosen.and_then(|(host, address)| host.function(address));
        let class = there.map(|function| function.class);
        Kind::of(class.or(entry.class), entry.vmkname.as_deref())
    }

    /// The address by which a person can choose an entry's device; none where no device is there.
    pub(super) fn choose_by(&self, entry: &DeviceEntry) -> Option<PciAddress> {
        let Some(host) = self.host else {
            return entry.address;
        };
        let as_hex = entry
            .alternative
            .filter(|_| self.ambiguity(entry).is_some());
        let addresses = || [as_hex, entry.address].into_iter().flatten();
        let is_there = |address: &PciAddress| host.function(*address).is_some();
        let needed = addresses().find(|address| self.needs.purpose(*address).is_some());
        needed.or_else(|| addresses().find(is_there))
    }

    fn id_of(&self, entry: &DeviceEntry) -> Option<VendorDevice> {
        self.present(entry).map(|function| function.id).or(entry.id)
    }

    fn matches(&self, term: &Term, entry: &DeviceEntry) -> bool {
        match term {
            Term::Auto => self.purpose(entry).is_some(),
            Term::All => true,
            Term::Address(address) => {
                let as_hex =
                    || entry.alternative == Some(*address) && self.ambiguity(entry).is_some();
                entry.address == Some(*address) || as_hex()
            }
            Term::Id(id) => self.id_of(entry) == Some(*id),
            Term::Class(word) => self.class_of(entry).is_some_and(|class| class.is(word)),
        }
    }

    /// Whether a term names any entry, passed through or not, or any present function.
    fn names_something(&self, term: &Term, inventory: &Inventory) -> bool {
        let by_host = |wanted: &dyn Fn(&PciFunction) -> bool| {
            self.host.is_some_and(|host| host.pci.values().any(wanted))
        };
        let present = match term {
            // A word of the language names something even where there is none of it.
            Term::Auto | Term::All | Term::Class(_) => true,
            Term::Address(address) => by_host(&|function| function.address == *address),
            Term::Id(id) => by_host(&|function| function.id == *id),
        };
        present || entries(inventory, self.given).any(|entry| self.matches(term, entry))
    }
}

impl Judged {
    /// The order in which devices are named: what is given back, what may be needed, what is not.
    fn usefulness(&self) -> (u8, u8, Kind) {
        let verdict = match self.verdict {
            Verdict::GiveBack => 0,
            Verdict::Unsure => 1,
            Verdict::Leave => 2,
            Verdict::Stale => 3,
        };
        let need = match self.need {
            Need::Needed { .. } => 0,
            Need::Unknown { may_be: true, .. } => 1,
            Need::Unknown { .. } => 2,
            Need::NotNeeded { .. } => 3,
            Need::Absent => 4,
        };
        (verdict, need, self.kind)
    }

    fn identity(&self) -> DeviceIdentity {
        DeviceIdentity::of(self.address, &self.text)
    }

    /// Adds what another file, or another bank, says of the same device.
    fn merge(&mut self, other: Self) {
        for file in other.files {
            if !self.files.contains(&file) {
                self.files.push(file);
            }
        }
        self.vmkname = self.vmkname.take().or(other.vmkname);
        self.recorded = self.recorded.or(other.recorded);
        self.was = self.was.or(other.was);
    }
}

/// All entries of the banks' archives, and of one that was given.
fn contents<'i>(
    inventory: &'i Inventory,
    given: Option<&'i Content>,
) -> impl Iterator<Item = &'i Content> {
    inventory
        .banks()
        .flat_map(|(_, bank)| &bank.archives)
        .filter_map(|archive| archive.content.as_ref().ok())
        .chain(given)
}

fn entries<'i>(
    inventory: &'i Inventory,
    given: Option<&'i Content>,
) -> impl Iterator<Item = &'i DeviceEntry> {
    contents(inventory, given).flat_map(|content| content.devices.iter())
}

/// By what two entries are known to speak of one device.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum DeviceIdentity {
    /// Its address.
    Address(PciAddress),
    /// Its spelling, where that is no address.
    Text(String),
}

impl DeviceIdentity {
    /// That of an entry with this address, spelled so.
    pub fn of(address: Option<PciAddress>, text: &str) -> Self {
        address.map_or_else(|| Self::Text(text.to_owned()), Self::Address)
    }
}

impl fmt::Display for DeviceIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Text(text) => f.write_str(text),
        }
    }
}

/// Devices that are named one by one in a message; of more, their number.
const NAMED_IN_MESSAGE: usize = 32;

/// The devices that are passed through, for a message: what ESXi most likely needs first, and without
/// those that are not there, unless none is.
pub(super) fn passed_through(
    inventory: &Inventory,
    host: Option<&Host>,
    given: Option<&Content>,
) -> String {
    let selection = Selection::default();
    let judge = Judge::unchecked(inventory, &selection, host);
    let mut all: Vec<(&DeviceEntry, Option<PciAddress>)> = entries(inventory, given)
        .filter(|entry| entry.passed_through)
        .map(|entry| (entry, judge.choose_by(entry)))
        .collect();
    let is_there = |(_, address): &(&DeviceEntry, Option<PciAddress>)| address.is_some();
    if all.iter().any(is_there) {
        all.retain(is_there);
    }
    all.sort_by_key(|(entry, _)| judge.kind(entry));
    let (mut seen, mut names) = (HashSet::new(), Vec::new());
    for (entry, address) in all {
        let device = DeviceIdentity::of(address.or(entry.address), &entry.text);
        let name = match entry.id {
            Some(id) => format!("{device} ({id})"),
            None => device.to_string(),
        };
        if seen.insert(name.clone()) && seen.len() <= NAMED_IN_MESSAGE {
            names.push(name);
        }
    }
    match seen.len().saturating_sub(NAMED_IN_MESSAGE) {
        0 => names.join(", "),
        more => format!("{} and {more} more", names.join(", ")),
    }
}
