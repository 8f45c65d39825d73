//! The ConfigStore of ESXi 7 and later: who owns which PCI device, in an SQLite file.
//!
//! Scope: listing the owners that `current-store-1` records, and changing chosen ones from
//! `OWNER_PASSTHRU` to `OWNER_VMKERNEL`. Everything happens in memory, through SQLite itself; the
//! store's own triggers count the revision up as they would on the host. Not for: any other
//! setting, in particular not `esx/graphics/devices` and `esx/hardware/usb_passthrough_switch`,
//! where the same word means something else. A journal or a log left beside the store is the
//! caller's check.
//!
//! The file comes from a disk that may be damaged or hostile. SQLite therefore runs in defensive
//! mode, bounded in size, memory and steps; the file is checked before and after; and a change is
//! only handed out if a comparison of the whole store shows that nothing else changed. So
//! triggers are judged by what they do, not by their names, which may differ between versions.
//!
//! Sources: schema and rows measured on ESXi 7.0.2 archives; file header: SQLite file format,
//! section 1.3 (<https://www.sqlite.org/fileformat2.html>).

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::io::Read;
use std::ops::Range;

use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::types::{Value, ValueRef};
use rusqlite::{Connection, MAIN_DB, OptionalExtension, Row};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use thiserror::Error;

use crate::counted::counted;

/// Real stores have some hundred kilobytes.
const STORE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The longest text in a store, and the longest a trigger could make.
const TEXT_BYTES_MAX: i32 = 16 * 1024 * 1024;
/// What all of SQLite may allocate in this process, in bytes.
const HEAP_BYTES_MAX: u32 = 512 * 1024 * 1024;
/// Pages a change may add: counters may need a byte more and split a page.
const GROWTH_PAGES_MAX: usize = 64;
/// SQLite's steps between two looks at the budget, and the budget in looks: some seconds.
const STEPS_PER_LOOK: i32 = 10_000;
const LOOKS_MAX: u32 = 10_000;

const HEADER_BYTES: usize = 100;
const HEADER_MAGIC: &[u8] = b"SQLite format 3\0";
/// File format write and read version: 1 is a rollback journal, 2 a write-ahead log.
const HEADER_JOURNAL: Range<usize> = 18..20;
const ROLLBACK_JOURNAL: [u8; 2] = [1, 1];
const WRITE_AHEAD_LOG: [u8; 2] = [2, 2];
/// Fields that a change leaves alone, with their names.
const HEADER_CONSTANTS: [(Range<usize>, &str); 6] = [
    (16..18, "page size"),
    (HEADER_JOURNAL, "journal mode"),
    (40..48, "schema version or format"),
    (52..60, "vacuum mode or text encoding"),
    (60..64, "user version"),
    (68..72, "application id"),
];

const OWNER_MEMBER: &str = "owner";
const OWNER_PASSTHRU: &str = "OWNER_PASSTHRU";
const OWNER_VMKERNEL: &str = "OWNER_VMKERNEL";

const CONFIG_TABLE: &str = "Config";
const KEY_COLUMNS: [&str; 4] = ["Component", "ConfigGroup", "Name", "Identifier"];
/// Component, ConfigGroup and Name of the rows that say who owns a device.
const DEVICE_KEY: [&str; 3] = ["esx", "hardware", "pci_devices"];
/// Columns that the store's triggers maintain.
const MAINTAINED_COLUMNS: [&str; 2] = ["ModifiedTime", "Revision"];

/// A device the store has a row for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreDevice {
    /// Its address as the store spells it, for example `0000:65:00.0` (hexadecimal).
    pub identifier: String,
    /// The owner each value column names; columns without one are left out.
    pub owners: Vec<(StoreColumn, StoreOwner)>,
}

/// Who owns a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreOwner {
    /// The host.
    Vmkernel,
    /// Passed through to VMs.
    Passthru,
    /// Something else, as the JSON spells it.
    Other(String),
    /// The store does not say, which means the host.
    Absent,
}

/// A column of the store that holds a value as JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreColumn {
    /// What was set on the host.
    UserValue,
    /// What the host found by itself.
    AutoConfValue,
    /// The value active when the store was saved.
    CachedValue,
    /// What a central management wants.
    DesiredValue,
}

/// Why a store cannot be read or changed. In each case it is left as it is.
#[derive(Debug, Error)]
pub enum ConfigStoreError {
    /// Not a whole SQLite file.
    #[error("the ConfigStore is not a usable SQLite file: {what}; it is left as it is")]
    NotAStore {
        /// What is wrong.
        what: String,
    },
    /// Its own check fails.
    #[error("the ConfigStore is damaged ({report}); it is left as it is")]
    Damaged {
        /// SQLite's words.
        report: String,
    },
    /// Tables or columns are not the known ones.
    #[error(
        "a ConfigStore of unknown structure: {what}; it is of a newer ESXi version than this program knows, and is left as it is"
    )]
    UnknownShape {
        /// What is missing or different.
        what: String,
    },
    /// A value that cannot be understood.
    #[error("the ConfigStore's {column} of {row} {what}; the store is left as it is")]
    Value {
        /// The column.
        column: &'static str,
        /// The row: a device's identifier or a key.
        row: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A device to give back has no row.
    #[error("the ConfigStore has no device {identifier}; the store is left as it is")]
    NoSuchDevice {
        /// The identifier asked for.
        identifier: String,
    },
    /// The change did something else as well. Never handed out.
    #[error(
        "changing the owner also changed {what} in the ConfigStore; the change was discarded and the store is left as it is"
    )]
    SideEffect {
        /// What else changed.
        what: String,
    },
    /// SQLite reports an error.
    #[error("the ConfigStore: {doing}: {source}; it is left as it is")]
    Sqlite {
        /// What was being done.
        doing: &'static str,
        /// SQLite's words.
        source: rusqlite::Error,
    },
}

/// A copy of the store in `db` in which the host owns the devices `identifiers`: in each of their
/// values, the text `OWNER_PASSTHRU` of the top-level member `owner` is `OWNER_VMKERNEL`. Other
/// owners are left alone. Identical to `db` if no chosen device is passed through.
pub fn give_back(db: &[u8], identifiers: &[String]) -> Result<Vec<u8>, ConfigStoreError> {
    let edits = edits(&Store::open(db)?.device_rows()?, identifiers)?;
    if edits.is_empty() {
        return Ok(db.to_vec());
    }
    let mut changed = {
        let mut store = Store::open(db)?;
        store.apply(&edits)?;
        store.image()?
    };
    changed[HEADER_JOURNAL].copy_from_slice(&db[HEADER_JOURNAL]);
    check_header_kept(db, &changed)?;
    check_only_owners_changed(&Store::open(db)?, &Store::open(&changed)?, &edits)?;
    Ok(changed)
}

/// The edits that give the devices `identifiers` back.
fn edits(rows: &[DeviceRow], identifiers: &[String]) -> Result<Vec<Edit>, ConfigStoreError> {
    let rows: HashMap<&str, &DeviceRow> = rows
        .iter()
        .map(|row| (row.identifier.as_str(), row))
        .collect();
    let mut edits = Vec::new();
    for identifier in identifiers.iter().collect::<BTreeSet<_>>() {
        let row = rows.get(identifier.as_str());
        let row = row.ok_or_else(|| ConfigStoreError::NoSuchDevice {
            identifier: printable(identifier),
        })?;
        edits.extend(row.give_back());
    }
    Ok(edits)
}

/// Whether the store in `after` is what [`give_back`] makes of the one in `before`, for some of its
/// devices. What triggers maintain in the rows of these devices may differ.
pub fn is_given_back(before: &[u8], after: &[u8]) -> bool {
    let compared = || -> Result<(), ConfigStoreError> {
        let (before, after) = (Store::open(before)?, Store::open(after)?);
        let (rows, now) = (before.device_rows()?, after.device_rows()?);
        let changed = |row: &&DeviceRow| {
            let found = now.iter().find(|one| one.identifier == row.identifier);
            found.is_some_and(|found| found.device().owner() != row.device().owner())
        };
        let edits: Vec<Edit> = rows
            .iter()
            .filter(changed)
            .flat_map(DeviceRow::give_back)
            .collect();
        check_only_owners_changed(&before, &after, &edits)
    };
    before == after || compared().is_ok()
}

impl StoreDevice {
    /// The owner that counts: passed through if any column says so, else what the first column says.
    pub fn owner(&self) -> StoreOwner {
        let mut owners = self.owners.iter().map(|(_, owner)| owner);
        let passed = owners.clone().find(|owner| **owner == StoreOwner::Passthru);
        passed
            .or(owners.next())
            .cloned()
            .unwrap_or(StoreOwner::Absent)
    }
}

impl StoreOwner {
    fn parse(text: String) -> Self {
        match text.as_str() {
            OWNER_VMKERNEL => Self::Vmkernel,
            OWNER_PASSTHRU => Self::Passthru,
            _ => Self::Other(printable(&text)),
        }
    }
}

impl StoreColumn {
    /// In the order in which they count.
    const ALL: [Self; 4] = [
        Self::UserValue,
        Self::AutoConfValue,
        Self::CachedValue,
        Self::DesiredValue,
    ];

    /// The column's name in the store.
    pub fn name(self) -> &'static str {
        match self {
            Self::UserValue => "UserValue",
            Self::AutoConfValue => "AutoConfValue",
            Self::CachedValue => "CachedValue",
            Self::DesiredValue => "DesiredValue",
        }
    }
}

impl fmt::Display for StoreColumn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

// ---- the rows ----------------------------------------------------------------------------------

/// A row of a device, with its values taken apart.
struct DeviceRow {
    identifier: String,
    values: Vec<OwnerValue>,
}

/// A value that names an owner.
struct OwnerValue {
    column: StoreColumn,
    json: String,
    owner: StoreOwner,
    /// Where in `json` the owner's value stands, with its quotes.
    span: Range<usize>,
}

/// One column of one row, and its new text.
struct Edit {
    identifier: String,
    column: StoreColumn,
    json: String,
}

impl DeviceRow {
    fn device(&self) -> StoreDevice {
        let owners = self.values.iter();
        StoreDevice {
            identifier: self.identifier.clone(),
            owners: owners
                .map(|value| (value.column, value.owner.clone()))
                .collect(),
        }
    }

    /// The edits that give the device back to the host.
    fn give_back(&self) -> impl Iterator<Item = Edit> {
        let passed = self.values.iter();
        passed
            .filter(|value| value.owner == StoreOwner::Passthru)
            .map(|value| {
                let mut json = value.json.clone();
                json.replace_range(value.span.clone(), &format!("\"{OWNER_VMKERNEL}\""));
                Edit {
                    identifier: self.identifier.clone(),
                    column: value.column,
                    json,
                }
            })
    }
}

impl OwnerValue {
    /// `None` if the value names no owner.
    fn parse(column: StoreColumn, value: ValueRef<'_>) -> Result<Option<Self>, &'static str> {
        let text = match value {
            ValueRef::Null => return Ok(None),
            ValueRef::Text(text) => std::str::from_utf8(text).map_err(|_| "is not UTF-8")?,
            _ => return Err("is not text"),
        };
        if text.trim().is_empty() {
            return Ok(None);
        }
        Ok(find_owner(text)?.map(|(owner, span)| Self {
            column,
            json: text.to_owned(),
            owner,
            span,
        }))
    }
}

/// Finds the top-level member `owner` of a JSON object: its value, and where it stands. `None` if
/// the text is JSON without such a member.
fn find_owner(json: &str) -> Result<Option<(StoreOwner, Range<usize>)>, &'static str> {
    let Members(members) = serde_json::from_str(json).map_err(|_| "is not JSON")?;
    let mut owners = members.iter().filter(|(name, _)| name == OWNER_MEMBER);
    let Some((_, raw)) = owners.next() else {
        return Ok(None);
    };
    if owners.next().is_some() {
        return Err("has more than one member \"owner\"");
    }
    // The raw value is a slice of `json`, so its address says where it stands.
    let start = raw.get().as_ptr().addr() - json.as_ptr().addr();
    let owner = match serde_json::from_str(raw.get()) {
        Ok(text) => StoreOwner::parse(text),
        Err(_) => StoreOwner::Other(printable(raw.get())),
    };
    Ok(Some((owner, start..start + raw.get().len())))
}

/// The members of a JSON object, in order and with repetitions; none for any other JSON value.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <&RawValue>::deserialize(deserializer)?;
        if !raw.get().starts_with('{') {
            return Ok(Self(Vec::new()));
        }
        let mut object = serde_json::Deserializer::from_str(raw.get());
        object
            .deserialize_map(MembersVisitor)
            .map_err(serde::de::Error::custom)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(Members(members))
    }
}

// ---- the file ----------------------------------------------------------------------------------

/// A store in memory, checked.
#[derive(Debug)]
pub struct Store {
    connection: Connection,
}

impl Store {
    /// Reads the store in `db`, and checks all of it.
    ///
    /// A store with a write-ahead log that was closed is whole without the log. SQLite opens it in
    /// memory with the other journal mode in its header, as the documentation of `sqlite3_deserialize`
    /// says (<https://www.sqlite.org/c3ref/deserialize.html>).
    pub fn open(db: &[u8]) -> Result<Self, ConfigStoreError> {
        check_header(db)?;
        let doing = sqlite("opening it");
        let mut connection = Connection::open_in_memory().map_err(&doing)?;
        confine(&mut connection).map_err(&doing)?;
        let (before, after) = (&db[..HEADER_JOURNAL.start], &db[HEADER_JOURNAL.end..]);
        let rollback = before.chain(&ROLLBACK_JOURNAL[..]).chain(after);
        connection
            .deserialize_read_exact(MAIN_DB, rollback, db.len(), false)
            .map_err(&doing)?;
        let pages = page_size(db).map_or(0, |page| db.len() / page) + GROWTH_PAGES_MAX;
        let pages = i64::try_from(pages).unwrap_or(i64::MAX);
        connection
            .pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))
            .map_err(&doing)?;
        let store = Self { connection };
        store.check_integrity()?;
        store.check_shape()?;
        Ok(store)
    }

    /// The devices that it has rows for, by identifier.
    pub fn devices(&self) -> Result<Vec<StoreDevice>, ConfigStoreError> {
        let rows = self.device_rows()?;
        Ok(rows.iter().map(DeviceRow::device).collect())
    }

    /// `KVTable.BOOT_FS_UUID`: 32 hex digits that name the bank the store was saved from. `None` if
    /// the store does not say.
    pub fn boot_fs_uuid(&self) -> Result<Option<String>, ConfigStoreError> {
        self.require_columns("KVTable", &["Key", "Value"])?;
        let value: Option<Value> = self
            .connection
            .query_row(
                "SELECT Value FROM main.KVTable WHERE Key = 'BOOT_FS_UUID'",
                [],
                |row| row.get(0),
            )
            .optional()
            .map_err(sqlite("reading BOOT_FS_UUID"))?;
        let uuid = match value {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::Text(text)) if text.is_empty() => return Ok(None),
            Some(Value::Text(text)) => text,
            Some(_) => String::new(),
        };
        if uuid.len() == 32 && uuid.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            Ok(Some(uuid))
        } else {
            Err(ConfigStoreError::Value {
                column: "Value",
                row: "BOOT_FS_UUID".to_owned(),
                what: "is not 32 hex digits",
            })
        }
    }

    fn check_integrity(&self) -> Result<(), ConfigStoreError> {
        let report: String = self
            .connection
            .query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))
            .map_err(sqlite("checking its integrity"))?;
        if report == "ok" {
            return Ok(());
        }
        Err(ConfigStoreError::Damaged {
            report: printable(&report),
        })
    }

    fn check_shape(&self) -> Result<(), ConfigStoreError> {
        // Virtual tables have no root page.
        let virtual_tables: i64 = self
            .connection
            .query_row(
                "SELECT count(*) FROM main.sqlite_schema WHERE type = 'table' AND rootpage = 0",
                [],
                |row| row.get(0),
            )
            .map_err(sqlite("reading its schema"))?;
        if virtual_tables != 0 {
            return Err(ConfigStoreError::UnknownShape {
                what: "it has virtual tables".to_owned(),
            });
        }
        self.require_columns(CONFIG_TABLE, &KEY_COLUMNS)?;
        self.require_columns(CONFIG_TABLE, &StoreColumn::ALL.map(StoreColumn::name))
    }

    fn require_columns(&self, table: &str, columns: &[&str]) -> Result<(), ConfigStoreError> {
        let doing = sqlite("reading its schema");
        let kind: Option<String> = self
            .connection
            .query_row(
                "SELECT type FROM main.sqlite_schema WHERE name = ?1",
                [table],
                |row| row.get(0),
            )
            .optional()
            .map_err(&doing)?;
        if kind.as_deref() != Some("table") {
            return Err(ConfigStoreError::UnknownShape {
                what: format!("it has no table {table}"),
            });
        }
        let present = self.columns(table)?;
        match columns
            .iter()
            .find(|column| !present.iter().any(|p| p == *column))
        {
            None => Ok(()),
            Some(column) => Err(ConfigStoreError::UnknownShape {
                what: format!("its table {table} has no column {column}"),
            }),
        }
    }

    fn columns(&self, table: &str) -> Result<Vec<String>, ConfigStoreError> {
        let doing = sqlite("reading its schema");
        let mut statement = self
            .connection
            .prepare("SELECT name FROM pragma_table_info(?1, 'main') ORDER BY cid")
            .map_err(&doing)?;
        let names = statement
            .query_map([table], |row| row.get(0))
            .map_err(&doing)?;
        names.collect::<Result<_, _>>().map_err(&doing)
    }

    fn device_rows(&self) -> Result<Vec<DeviceRow>, ConfigStoreError> {
        let doing = sqlite("reading the devices");
        let columns = StoreColumn::ALL.map(StoreColumn::name).join(", ");
        let mut statement = self
            .connection
            .prepare(&format!(
                "SELECT Identifier, {columns} FROM main.Config \
                 WHERE Component = ?1 AND ConfigGroup = ?2 AND Name = ?3 ORDER BY Identifier"
            ))
            .map_err(&doing)?;
        let mut found = statement.query(DEVICE_KEY).map_err(&doing)?;
        let mut rows = Vec::new();
        while let Some(row) = found.next().map_err(&doing)? {
            let identifier: String = row.get(0).map_err(&doing)?;
            let mut values = Vec::new();
            for (column, index) in StoreColumn::ALL.into_iter().zip(1..) {
                let value = row.get_ref(index).map_err(&doing)?;
                let value = OwnerValue::parse(column, value).map_err(|what| {
                    let row = printable(&identifier);
                    let column = column.name();
                    ConfigStoreError::Value { column, row, what }
                })?;
                values.extend(value);
            }
            rows.push(DeviceRow { identifier, values });
        }
        Ok(rows)
    }

    /// Updates the columns whose text changes, and nothing else.
    fn apply(&mut self, edits: &[Edit]) -> Result<(), ConfigStoreError> {
        let doing = sqlite("changing the owner");
        let transaction = self.connection.transaction().map_err(&doing)?;
        for edit in edits {
            let statement = format!(
                "UPDATE main.Config SET {} = ?1 WHERE Component = ?2 AND ConfigGroup = ?3 \
                 AND Name = ?4 AND Identifier = ?5",
                edit.column
            );
            let [component, group, name] = DEVICE_KEY;
            let key = [&edit.json, component, group, name, &edit.identifier];
            let mut statement = transaction.prepare_cached(&statement).map_err(&doing)?;
            let rows = statement.execute(key).map_err(&doing)?;
            if rows != 1 {
                return Err(ConfigStoreError::SideEffect {
                    what: format!("{rows} rows instead of one"),
                });
            }
        }
        transaction.commit().map_err(&doing)
    }

    /// The file as it is now.
    fn image(&mut self) -> Result<Vec<u8>, ConfigStoreError> {
        let bytes = self
            .connection
            .serialize(MAIN_DB)
            .map_err(sqlite("taking it out of memory"))?;
        Ok(bytes.to_vec())
    }

    /// Everything there is to read: each table, and the schema.
    fn tables(&self) -> Result<Vec<Table>, ConfigStoreError> {
        let doing = sqlite(READING_ALL);
        let mut names = self
            .connection
            .prepare(
                "SELECT name FROM main.sqlite_schema WHERE type = 'table' ORDER BY name COLLATE BINARY",
            )
            .map_err(&doing)?;
        let names = names.query_map([], |row| row.get(0)).map_err(&doing)?;
        let mut tables = vec![Table::schema()];
        for name in names {
            let name: String = name.map_err(&doing)?;
            let columns = self.columns(&name)?;
            tables.push(Table::new(name, columns));
        }
        Ok(tables)
    }
}

/// Takes from SQLite what a store does not need and a hostile file could use.
fn confine(connection: &mut Connection) -> rusqlite::Result<()> {
    for (config, on) in [
        (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
        (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false),
        (DbConfig::SQLITE_DBCONFIG_WRITABLE_SCHEMA, false),
    ] {
        connection.set_db_config(config, on)?;
    }
    for (limit, value) in [
        (Limit::SQLITE_LIMIT_LENGTH, TEXT_BYTES_MAX),
        (Limit::SQLITE_LIMIT_ATTACHED, 0),
        (Limit::SQLITE_LIMIT_TRIGGER_DEPTH, 10),
        (Limit::SQLITE_LIMIT_EXPR_DEPTH, 100),
    ] {
        connection.set_limit(limit, value)?;
    }
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    // Answers with the new limit, unlike most.
    connection.pragma_update_and_check(None, "hard_heap_limit", HEAP_BYTES_MAX, |_| Ok(()))?;
    let mut looks = 0;
    let out_of_steps = move || {
        looks += 1;
        looks > LOOKS_MAX
    };
    connection.progress_handler(STEPS_PER_LOOK, Some(out_of_steps))
}

fn check_header(db: &[u8]) -> Result<(), ConfigStoreError> {
    let not = |what: &str| {
        let what = what.to_owned();
        Err(ConfigStoreError::NotAStore { what })
    };
    if db.len() < HEADER_BYTES || !db.starts_with(HEADER_MAGIC) {
        return not("it does not start with SQLite's header");
    }
    if db.len() > STORE_BYTES_MAX {
        return not("it is larger than any ConfigStore");
    }
    if ![ROLLBACK_JOURNAL, WRITE_AHEAD_LOG].contains(&[db[18], db[19]]) {
        return not("its header names an unknown journal mode");
    }
    match page_size(db) {
        Some(page) if db.len().is_multiple_of(page) => Ok(()),
        Some(page) => not(&format!(
            "its size of {} is not a whole number of pages of {page}: it is truncated",
            counted(db.len(), "byte", "bytes")
        )),
        None => not("its header names an impossible page size"),
    }
}

/// Bytes per page: a power of two from 512 to 65536, which is written as 1.
fn page_size(db: &[u8]) -> Option<usize> {
    match (usize::from(*db.get(16)?) << 8) | usize::from(*db.get(17)?) {
        1 => Some(65_536),
        size if size.is_power_of_two() && size >= 512 => Some(size),
        _ => None,
    }
}

fn check_header_kept(before: &[u8], after: &[u8]) -> Result<(), ConfigStoreError> {
    check_header(after)?;
    let changed = HEADER_CONSTANTS
        .into_iter()
        .find(|(field, _)| before[field.clone()] != after[field.clone()]);
    match changed {
        None => Ok(()),
        Some((_, name)) => Err(ConfigStoreError::SideEffect {
            what: format!("the {name}"),
        }),
    }
}

// ---- before and after --------------------------------------------------------------------------

/// Reads both stores side by side, row by row: nothing but the edited values may differ, and what
/// the store's triggers maintain in the edited rows.
fn check_only_owners_changed(
    before: &Store,
    after: &Store,
    edits: &[Edit],
) -> Result<(), ConfigStoreError> {
    let mut by_device: HashMap<&str, Vec<&Edit>> = HashMap::new();
    for edit in edits {
        by_device.entry(&edit.identifier).or_default().push(edit);
    }
    let tables = before.tables()?;
    if tables != after.tables()? {
        return side_effect("the list of tables or their columns".to_owned());
    }
    for table in &tables {
        let doing = sqlite(READING_ALL);
        let [mut old, mut new] = [
            before.connection.prepare(&table.query).map_err(&doing)?,
            after.connection.prepare(&table.query).map_err(&doing)?,
        ];
        let (mut old, mut new) = (
            old.query([]).map_err(&doing)?,
            new.query([]).map_err(&doing)?,
        );
        loop {
            match (old.next().map_err(&doing)?, new.next().map_err(&doing)?) {
                (None, None) => break,
                (Some(old), Some(new)) => table.check_row(old, new, &by_device)?,
                _ => return side_effect(format!("the rows of table {}", printable(&table.name))),
            }
        }
    }
    Ok(())
}

fn side_effect<T>(what: String) -> Result<T, ConfigStoreError> {
    Err(ConfigStoreError::SideEffect { what })
}

/// A table that is compared.
#[derive(Debug, PartialEq, Eq)]
struct Table {
    name: String,
    columns: Vec<String>,
    /// What reads all of it.
    query: String,
    /// Where the columns of a device's key stand, if it is the table of devices.
    key: Option<Vec<usize>>,
}

impl Table {
    fn schema() -> Self {
        let columns = ["type", "name", "tbl_name", "sql"].map(str::to_owned);
        Self::new("sqlite_schema".to_owned(), columns.to_vec())
    }

    /// The columns are named, so that a row has exactly those.
    fn new(name: String, columns: Vec<String>) -> Self {
        let list: Vec<String> = columns.iter().map(|column| quoted(column)).collect();
        let place = |wanted: &&str| columns.iter().position(|column| column == wanted);
        let key: Option<Vec<usize>> = KEY_COLUMNS.iter().map(place).collect();
        Self {
            query: format!("SELECT {} FROM main.{}", list.join(", "), quoted(&name)),
            key: key.filter(|_| name == CONFIG_TABLE),
            name,
            columns,
        }
    }

    /// The edits of a row.
    fn edits_of<'e>(
        &self,
        row: &Row<'_>,
        by_device: &'e HashMap<&str, Vec<&'e Edit>>,
    ) -> Result<&'e [&'e Edit], ConfigStoreError> {
        let Some([component, group, name, identifier]) = self.key.as_deref() else {
            return Ok(&[]);
        };
        let text = |at: &usize| {
            let value = row.get_ref(*at).map_err(sqlite(READING_ALL))?;
            Ok(value.as_str().unwrap_or_default())
        };
        if [text(component)?, text(group)?, text(name)?] != DEVICE_KEY {
            return Ok(&[]);
        }
        Ok(by_device
            .get(text(identifier)?)
            .map_or(&[], |edits| edits.as_slice()))
    }

    fn check_row(
        &self,
        old: &Row<'_>,
        new: &Row<'_>,
        by_device: &HashMap<&str, Vec<&Edit>>,
    ) -> Result<(), ConfigStoreError> {
        let edits = self.edits_of(old, by_device)?;
        for (index, column) in self.columns.iter().enumerate() {
            let cell = |row| cell(row, index);
            let edit = edits.iter().find(|edit| edit.column.name() == column);
            let as_expected = match edit {
                Some(edit) => cell(new)? == ValueRef::Text(edit.json.as_bytes()),
                None if !edits.is_empty() && MAINTAINED_COLUMNS.contains(&column.as_str()) => true,
                None => cell(old)? == cell(new)?,
            };
            if !as_expected {
                let (column, table) = (printable(column), printable(&self.name));
                return side_effect(format!("{column} in table {table}"));
            }
        }
        Ok(())
    }
}

/// What is done while two stores are compared, in SQLite's errors.
const READING_ALL: &str = "reading all of it";

/// A name as SQL has it.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn cell<'r>(row: &'r Row<'_>, index: usize) -> Result<ValueRef<'r>, ConfigStoreError> {
    row.get_ref(index).map_err(sqlite(READING_ALL))
}

fn sqlite(doing: &'static str) -> impl Fn(rusqlite::Error) -> ConfigStoreError {
    move |source| ConfigStoreError::Sqlite { doing, source }
}

/// Text for a console: at most 80 characters, none of them control characters.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(80).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};
    use std::sync::OnceLock;

    use proptest::prelude::*;

    use super::*;

    /// The schema of a real store. The bodies of the triggers are as their names and the
    /// counting of `Revision` suggest.
    const SCHEMA: &str = "
        PRAGMA page_size = 4096; PRAGMA user_version = 2;
        CREATE TABLE Config(Component TEXT,ConfigGroup TEXT,Name TEXT,
          Identifier TEXT NOT NULL DEFAULT '',
          ModifiedTime DATETIME DEFAULT (datetime(CURRENT_TIMESTAMP)),
          CreationTime DATETIME,Version TEXT DEFAULT '',Success BOOLEAN DEFAULT 1,
          AutoConfValue TEXT,UserValue TEXT,VitalValue TEXT,CachedValue TEXT,DesiredValue TEXT,
          Revision INTEGER DEFAULT 0,PRIMARY KEY(Component,ConfigGroup,Name,Identifier));
        CREATE TABLE KVTable(Key TEXT,Value TEXT,ModifiedTime DATETIME,CreationTime DATETIME,
          PRIMARY KEY(Key));
        CREATE TABLE DesiredUserConfig(Component TEXT, Value TEXT);
        CREATE TABLE UpgradeStatus(Status TEXT);";
    const TRIGGERS: &str = "
        CREATE TRIGGER updateModifiedTime AFTER UPDATE ON Config FOR EACH ROW BEGIN
          UPDATE Config SET ModifiedTime=datetime(CURRENT_TIMESTAMP)
          WHERE Component=NEW.Component AND ConfigGroup=NEW.ConfigGroup AND Name=NEW.Name
            AND Identifier=NEW.Identifier; END;
        CREATE TRIGGER updateRevision AFTER UPDATE OF AutoConfValue,UserValue,VitalValue,
          CachedValue,DesiredValue ON Config FOR EACH ROW BEGIN
          UPDATE Config SET Revision=Revision+1
          WHERE Component=NEW.Component AND ConfigGroup=NEW.ConfigGroup AND Name=NEW.Name
            AND Identifier=NEW.Identifier; END;";
    /// Odd white space, order and neighbours on purpose.
    const ROWS: &str = r#"
        INSERT INTO Config(Component,ConfigGroup,Name,Identifier,ModifiedTime,UserValue,AutoConfValue,CachedValue,Revision) VALUES
          ('esx','hardware','pci_devices','0000:65:00.0','2021-01-01 00:00:00',
           '{"sbdf":"0000:65:00.0", "owner" :  "OWNER_PASSTHRU","hardware_label":"x","max_vfs":0}',
           '{"owner":"OWNER_VMKERNEL"}',
           '{ "owner":"OWNER_PASSTHRU" }', 127),
          ('esx','hardware','pci_devices','0000:00:1f.2','2021-01-01 00:00:00',
           '{"hardware_label":"OWNER_PASSTHRU","nested":{"owner":"OWNER_PASSTHRU"},"owner":"OWNER_PASSTHRU"}',
           NULL,NULL,3),
          ('esx','hardware','pci_devices','0000:02:00.0','2021-01-01 00:00:00',
           NULL,'{"owner":"OWNER_VMKERNEL"}',NULL,1),
          ('esx','hardware','pci_devices','0000:03:00.0','2021-01-01 00:00:00',
           '{"nested":{"owner":"OWNER_PASSTHRU"}}','',NULL,1),
          ('esx','hardware','pci_devices','0000:04:00.0','2021-01-01 00:00:00',
           '{"owner":"OWNER_NEW"}',NULL,NULL,1),
          ('esx','graphics','devices','0000:65:00.0','2021-01-01 00:00:00',
           '{"owner":"OWNER_PASSTHRU"}',NULL,NULL,1),
          ('esx','hardware','usb_passthrough_switch','','2021-01-01 00:00:00',
           '{"owner":"OWNER_PASSTHRU"}',NULL,NULL,1);
        INSERT INTO KVTable(Key,Value) VALUES('BOOT_FS_UUID','0123456789abcdef0123456789ABCDEF');
        INSERT INTO DesiredUserConfig VALUES('esx','OWNER_PASSTHRU');"#;

    const GPU: &str = "0000:65:00.0";
    const SATA: &str = "0000:00:1f.2";

    /// Runs the sqlite3 program on the store `db` (a new one if empty); its output, and the store
    /// afterwards.
    fn sqlite3(db: &[u8], sql: &str) -> (String, Vec<u8>) {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().write_all(db).unwrap();
        let mut child = Command::new("sqlite3")
            .args(["-batch", "-bail"])
            .arg(file.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("sqlite3 must be installed");
        child
            .stdin
            .take()
            .unwrap()
            .write_all(sql.as_bytes())
            .unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{sql}: {output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        (text, std::fs::read(file.path()).unwrap())
    }

    fn make(sql: &[&str]) -> Vec<u8> {
        sqlite3(b"", &sql.join("\n")).1
    }

    fn store() -> &'static [u8] {
        static STORE: OnceLock<Vec<u8>> = OnceLock::new();
        STORE.get_or_init(|| make(&[SCHEMA, TRIGGERS, ROWS]))
    }

    fn change(db: &[u8], sql: &str) -> Vec<u8> {
        sqlite3(db, sql).1
    }

    fn ask(db: &[u8], sql: &str) -> String {
        sqlite3(db, sql).0.trim_end().to_owned()
    }

    fn devices(db: &[u8]) -> Result<Vec<StoreDevice>, ConfigStoreError> {
        Store::open(db)?.devices()
    }

    fn boot_fs_uuid(db: &[u8]) -> Result<Option<String>, ConfigStoreError> {
        Store::open(db)?.boot_fs_uuid()
    }

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    fn owner_of(db: &[u8], identifier: &str) -> StoreOwner {
        let devices = devices(db).unwrap();
        let found = devices.iter().find(|d| d.identifier == identifier);
        found.unwrap().owner()
    }

    #[test]
    fn lists_devices_with_the_columns_that_name_an_owner() {
        let found = devices(store()).unwrap();
        let identifiers: Vec<_> = found.iter().map(|d| d.identifier.as_str()).collect();
        let expected = [SATA, "0000:02:00.0", "0000:03:00.0", "0000:04:00.0", GPU];
        assert_eq!(identifiers, expected);
        let owners: Vec<_> = found.iter().map(StoreDevice::owner).collect();
        let other = StoreOwner::Other("OWNER_NEW".to_owned());
        use StoreOwner::{Absent, Passthru, Vmkernel};
        assert_eq!(owners, [Passthru, Vmkernel, Absent, other, Passthru]);
        let columns = [
            (StoreColumn::UserValue, Passthru),
            (StoreColumn::AutoConfValue, Vmkernel),
            (StoreColumn::CachedValue, Passthru),
        ];
        assert_eq!(found[4].owners, columns);
    }

    #[test]
    fn gives_chosen_devices_back_and_changes_nothing_else() {
        let before = ask(store(), ".dump");
        let changed = give_back(store(), &names(&[GPU, SATA])).unwrap();
        assert_eq!(owner_of(&changed, GPU), StoreOwner::Vmkernel);
        assert_eq!(owner_of(&changed, SATA), StoreOwner::Vmkernel);
        assert_eq!(ask(&changed, "PRAGMA integrity_check"), "ok");
        let value = |identifier, column: &str| {
            let sql = format!(
                "SELECT {column} FROM Config WHERE Identifier='{identifier}' AND Name='pci_devices'"
            );
            ask(&changed, &sql)
        };
        assert_eq!(
            value(GPU, "UserValue"),
            r#"{"sbdf":"0000:65:00.0", "owner" :  "OWNER_VMKERNEL","hardware_label":"x","max_vfs":0}"#
        );
        assert_eq!(value(GPU, "CachedValue"), r#"{ "owner":"OWNER_VMKERNEL" }"#);
        assert_eq!(
            value(SATA, "UserValue"),
            r#"{"hardware_label":"OWNER_PASSTHRU","nested":{"owner":"OWNER_PASSTHRU"},"owner":"OWNER_VMKERNEL"}"#
        );
        // The store's own triggers ran.
        assert_ne!(value(GPU, "ModifiedTime"), "2021-01-01 00:00:00");
        assert!(value(GPU, "Revision").parse::<i64>().unwrap() > 127);
        assert_ne!(value(SATA, "ModifiedTime"), "2021-01-01 00:00:00");
        let after = ask(&changed, ".dump");
        let different: Vec<_> = before
            .lines()
            .zip(after.lines())
            .filter(|(old, new)| old != new)
            .collect();
        assert_eq!(before.lines().count(), after.lines().count());
        assert_eq!(different.len(), 2, "{different:#?}");
        assert_eq!(changed.len(), store().len());
    }

    #[test]
    fn keeps_the_form_of_the_file() {
        let changed = give_back(store(), &names(&[GPU])).unwrap();
        for pragma in [
            "page_size",
            "user_version",
            "journal_mode",
            "encoding",
            "auto_vacuum",
        ] {
            let sql = format!("PRAGMA {pragma}");
            assert_eq!(ask(&changed, &sql), ask(store(), &sql), "{pragma}");
        }
        assert_eq!(changed[HEADER_JOURNAL], ROLLBACK_JOURNAL);
    }

    #[test]
    fn a_closed_store_with_a_write_ahead_log_is_edited_and_keeps_its_mode() {
        let wal = change(store(), "PRAGMA journal_mode = WAL;");
        assert_eq!(wal[HEADER_JOURNAL], WRITE_AHEAD_LOG);
        assert_eq!(devices(&wal).unwrap(), devices(store()).unwrap());
        let changed = give_back(&wal, &names(&[GPU])).unwrap();
        assert_eq!(owner_of(&changed, GPU), StoreOwner::Vmkernel);
        assert_eq!(changed[HEADER_JOURNAL], WRITE_AHEAD_LOG);
        assert_eq!(ask(&changed, "PRAGMA journal_mode"), "wal");
        assert!(is_given_back(&wal, &changed));
    }

    #[test]
    fn leaves_the_bytes_alone_if_no_chosen_device_is_passed_through() {
        for list in [&[][..], &["0000:02:00.0", "0000:03:00.0", "0000:04:00.0"]] {
            assert_eq!(give_back(store(), &names(list)).unwrap(), store());
        }
        let once = give_back(store(), &names(&[GPU])).unwrap();
        assert_eq!(give_back(&once, &names(&[GPU])).unwrap(), once);
    }

    #[test]
    fn a_store_without_triggers_works_too() {
        let db = make(&[SCHEMA, ROWS]);
        let changed = give_back(&db, &names(&[GPU])).unwrap();
        assert_eq!(owner_of(&changed, GPU), StoreOwner::Vmkernel);
        assert_eq!(owner_of(&changed, SATA), StoreOwner::Passthru);
    }

    #[test]
    fn refuses_a_device_without_a_row() {
        let error = give_back(store(), &names(&[GPU, "0000:77:00.0"])).unwrap_err();
        assert!(
            error.to_string().contains("no device 0000:77:00.0"),
            "{error}"
        );
    }

    #[test]
    fn finds_the_owner_by_json_not_by_bytes() {
        let cases = [
            (
                r#"{"owner":"OWNER_PASSTHRU"}"#,
                Some((StoreOwner::Passthru, 9..25)),
            ),
            (
                " \n{ \"a\" : [1,{\"owner\":2}] ,\t\"owner\"\t:\r\"OWNER_VMKERNEL\" }",
                Some((StoreOwner::Vmkernel, 38..54)),
            ),
            (
                r#"{"\u006fwner":"OWNER\u005fPASSTHRU"}"#,
                Some((StoreOwner::Passthru, 14..35)),
            ),
            (
                r#"{"owner":null}"#,
                Some((StoreOwner::Other("null".to_owned()), 9..13)),
            ),
            (
                r#"{"owner":{"x":1}}"#,
                Some((StoreOwner::Other("{\"x\":1}".to_owned()), 9..16)),
            ),
            (r#"{"a":"\"owner\":\"OWNER_PASSTHRU\""}"#, None),
            (r#"{"Owner":"OWNER_PASSTHRU"}"#, None),
            (r#"["owner","OWNER_PASSTHRU"]"#, None),
            ("null", None),
            ("{}", None),
        ];
        for (json, expected) in cases {
            assert_eq!(find_owner(json), Ok(expected), "{json}");
        }
        for json in [
            "{",
            "{\"owner\":\"OWNER_PASSTHRU\"} x",
            "owner",
            "{'owner':1}",
            "{\"owner\":\"\u{1}\"}",
        ] {
            assert_eq!(find_owner(json), Err("is not JSON"), "{json}");
        }
        let twice = r#"{"owner":"OWNER_VMKERNEL","owner":"OWNER_PASSTHRU"}"#;
        assert!(find_owner(twice).unwrap_err().contains("more than one"));
        let deep = format!(
            "{{\"a\":{}1{},\"owner\":\"x\"}}",
            "[".repeat(100_000),
            "]".repeat(100_000)
        );
        let _ = find_owner(&deep);
    }

    #[test]
    fn refuses_values_it_does_not_understand_and_names_the_row() {
        let cases = [
            ("'{'", "is not JSON"),
            ("x'7B7D'", "is not text"),
            ("cast(x'22FF22' AS TEXT)", "is not UTF-8"),
        ];
        for (value, said) in cases {
            let sql = format!(
                "UPDATE Config SET DesiredValue={value} WHERE Identifier='{SATA}' AND Name='pci_devices'"
            );
            let error = devices(&change(store(), &sql)).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
            assert!(error.contains("DesiredValue of 0000:00:1f.2"), "{error}");
        }
    }

    #[test]
    fn refuses_stores_of_unknown_shape() {
        let cases = [
            ("DROP TABLE Config;", "no table Config"),
            (
                "ALTER TABLE Config RENAME COLUMN UserValue TO Other;",
                "no column UserValue",
            ),
            (
                "ALTER TABLE Config RENAME TO C; CREATE VIEW Config AS SELECT * FROM C;",
                "no table Config",
            ),
            ("CREATE VIRTUAL TABLE v USING fts5(x);", "virtual tables"),
        ];
        for (sql, said) in cases {
            let error = devices(&change(store(), sql)).unwrap_err();
            assert!(
                matches!(error, ConfigStoreError::UnknownShape { .. }),
                "{error}"
            );
            assert!(error.to_string().contains(said), "{error}");
        }
    }

    #[test]
    fn throws_a_change_away_that_does_more_than_it_should() {
        let bodies = [
            (
                "UPDATE Config SET UserValue='{}' WHERE Identifier='0000:02:00.0'",
                "table Config",
            ),
            (
                "UPDATE Config SET VitalValue='x' WHERE Identifier='0000:65:00.0'",
                "VitalValue in table Config",
            ),
            (
                "UPDATE Config SET UserValue=OLD.UserValue WHERE Identifier='0000:65:00.0'",
                "UserValue in table Config",
            ),
            ("INSERT INTO UpgradeStatus VALUES('x')", "UpgradeStatus"),
            ("DELETE FROM DesiredUserConfig", "DesiredUserConfig"),
            ("UPDATE KVTable SET Value='0'", "KVTable"),
        ];
        for (body, said) in bodies {
            let trigger = format!("CREATE TRIGGER t AFTER UPDATE ON Config BEGIN {body}; END;");
            let error = give_back(&change(store(), &trigger), &names(&[GPU])).unwrap_err();
            assert!(
                matches!(error, ConfigStoreError::SideEffect { .. }),
                "{error}"
            );
            assert!(error.to_string().contains(said), "{error}");
        }
    }

    #[test]
    fn hostile_triggers_end_with_an_error() {
        let bodies = [
            "SELECT RAISE(ABORT, 'no')",
            "INSERT INTO UpgradeStatus SELECT hex(zeroblob(8000000))",
            "INSERT INTO UpgradeStatus SELECT a.Name FROM Config a,Config b,Config c,Config d,\
             Config e,Config f,Config g,Config h,Config i,Config j,Config k,Config l",
            "INSERT INTO UpgradeStatus SELECT count(*) FROM Config a,Config b,Config c,Config d,\
             Config e,Config f,Config g,Config h,Config i,Config j,Config k,Config l",
        ];
        for body in bodies {
            let trigger = format!("CREATE TRIGGER t AFTER UPDATE ON Config BEGIN {body}; END;");
            let error = give_back(&change(store(), &trigger), &names(&[GPU])).unwrap_err();
            assert!(
                matches!(error, ConfigStoreError::Sqlite { .. }),
                "{body}: {error}"
            );
        }
    }

    #[test]
    fn refuses_files_that_are_not_whole_stores() {
        let with = |at: usize, value: u8| {
            let mut db = store().to_vec();
            db[at] = value;
            db
        };
        let cases = [
            (vec![], "does not start with"),
            (b"SQLite format 3\0".to_vec(), "does not start with"),
            (with(0, b'X'), "does not start with"),
            (with(18, 9), "unknown journal mode"),
            (with(19, 2), "unknown journal mode"),
            (with(16, 3), "impossible page size"),
            (store()[..store().len() - 1].to_vec(), "truncated"),
        ];
        for (db, said) in cases {
            let error = devices(&db).unwrap_err();
            assert!(error.to_string().contains(said), "{error}");
        }
        let missing_page = &store()[..store().len() - 4096];
        assert!(devices(missing_page).is_err());
        let mut damaged = store().to_vec();
        for page in damaged[4096..].chunks_mut(4096) {
            page[..8].fill(0xEE);
        }
        assert!(devices(&damaged).is_err());
    }

    #[test]
    fn reads_the_bank_the_store_was_saved_from() {
        let uuid = boot_fs_uuid(store()).unwrap();
        assert_eq!(uuid.as_deref(), Some("0123456789abcdef0123456789ABCDEF"));
        let unset = change(store(), "DELETE FROM KVTable;");
        assert_eq!(boot_fs_uuid(&unset).unwrap(), None);
        for value in ["NULL", "''"] {
            let unset = change(store(), &format!("UPDATE KVTable SET Value={value};"));
            assert_eq!(boot_fs_uuid(&unset).unwrap(), None);
        }
        for value in ["'0123'", "17", "'0123456789abcdef0123456789abcdeg'"] {
            let odd = change(store(), &format!("UPDATE KVTable SET Value={value};"));
            let error = boot_fs_uuid(&odd).unwrap_err().to_string();
            assert!(
                error.contains("BOOT_FS_UUID is not 32 hex digits"),
                "{error}"
            );
        }
        let none = change(store(), "DROP TABLE KVTable;");
        assert!(matches!(
            boot_fs_uuid(&none),
            Err(ConfigStoreError::UnknownShape { .. })
        ));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn damaged_stores_never_panic(
            changes in prop::collection::vec((0..40_960usize, any::<u8>()), 1..20),
            header in prop::collection::vec((16..100usize, any::<u8>()), 0..3),
        ) {
            let mut db = store().to_vec();
            for (at, value) in changes.into_iter().chain(header) {
                let at = at % db.len();
                db[at] = value;
            }
            let _ = devices(&db);
            let _ = give_back(&db, &names(&[GPU]));
        }

        #[test]
        fn any_json_text_is_read_or_refused(
            json in "[{}\\[\\]\",:a\\\\ ]{0,40}",
            before in "[a-z]{0,5}",
            white in "[ \t\n\r]{0,3}",
        ) {
            let _ = find_owner(&json);
            let text = format!("{white}{{\"{before}x\":{{}},{white}\"owner\"{white}:{white}\"OWNER_PASSTHRU\"{white}}}");
            let (owner, span) = find_owner(&text).unwrap().unwrap();
            prop_assert_eq!(owner, StoreOwner::Passthru);
            prop_assert_eq!(&text[span], "\"OWNER_PASSTHRU\"");
        }
    }
}
