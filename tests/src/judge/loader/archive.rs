//! What is inside the archives that the loader hands to ESXi, opened by outside tools.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use super::esx_conf;
use crate::esxi::archive::ESX_CONF;
use crate::esxi::host::Address;
use crate::judge::archive::Opened;
use crate::scratch;

/// How an archive is packed: its name says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// `state.tgz`, with an archive inside.
    Outer,
    /// `local.tgz` or `onetime.tgz`, with the files inside.
    Flat,
}

/// The kind of a module that is an archive of configuration, by its path in boot.cfg.
pub(super) fn kind(path: &str) -> Option<Kind> {
    match path.trim_start_matches('/').to_ascii_lowercase().as_str() {
        "state.tgz" => Some(Kind::Outer),
        "local.tgz" | "onetime.tgz" => Some(Kind::Flat),
        _ => None,
    }
}

/// The devices that are passed through, or why that cannot be said.
pub(super) type Devices = Result<BTreeSet<Address>, String>;

/// Archives that were opened, by their content: each is opened once.
#[derive(Debug, Default)]
pub struct Archives {
    opened: Mutex<BTreeMap<(Kind, [u8; 32]), Devices>>,
}

impl Archives {
    /// How many different ones were opened.
    pub fn opened(&self) -> usize {
        self.opened
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }

    /// The devices that an archive, unpacked once as the loader does it, says are passed through.
    ///
    /// # Errors
    /// When there is no folder to open it in.
    pub(super) fn passed_through(&self, kind: Kind, tar: &[u8]) -> Result<Devices> {
        let key = (kind, Sha256::digest(tar).into());
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(devices) = opened.get(&key) {
            return Ok(devices.clone());
        }
        let folder = scratch::folder()?;
        let devices = open(kind, tar, folder.path()).map_err(|error| format!("{error:#}"));
        opened.insert(key, devices.clone());
        Ok(devices)
    }
}

fn open(kind: Kind, tar: &[u8], folder: &std::path::Path) -> Result<BTreeSet<Address>> {
    let name = match kind {
        Kind::Outer => "STATE.TGZ",
        Kind::Flat => "LOCAL.TGZ",
    };
    let opened = Opened::read(name, tar, None, folder)?;
    let mut devices = match opened.file(ESX_CONF) {
        Ok(file) => esx_conf::passed_through(&file)?,
        Err(_) => BTreeSet::new(),
    };
    for (identifier, owner) in opened.store_owners()? {
        if owner == "OWNER_PASSTHRU" {
            devices.insert(in_store(&identifier).context(identifier)?);
        }
    }
    Ok(devices)
}

/// `0000:65:00.0`, hex.
fn in_store(text: &str) -> Option<Address> {
    let fields: Vec<&str> = text.split([':', '.']).collect();
    let [segment, bus, slot, function] = fields.as_slice() else {
        return None;
    };
    let byte = |text: &str| u8::from_str_radix(text, 16).ok();
    Some(Address {
        segment: u16::from_str_radix(segment, 16).ok()?,
        bus: byte(bus)?,
        slot: byte(slot)?,
        function: byte(function)?,
    })
}
