//! A machine as a file, so that the repair of a disk image can be planned away from it:
//! `rescue-agent inspect --save-host FILE` makes one, `--pci FILE` takes it.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{DiskNode, Host};
use crate::files::{read_whole, write_whole};

/// The version of the file's fields.
const SCHEMA: &str = "esxi-rescue-host/1";

/// A machine with thousands of functions and disks stays far below.
const MAX_BYTES: u64 = 16 << 20;

#[derive(Debug, Serialize, Deserialize)]
struct Snapshot {
    schema: String,
    #[serde(flatten)]
    host: Host,
}

/// Why a machine could not be saved or read back.
#[derive(Debug, Error)]
pub enum SnapshotError {
    /// The file cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file is something else.
    #[error(
        "{}: {why}; expected a file made by `rescue-agent inspect --save-host FILE` on the host",
        path.display()
    )]
    NoMachine {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// Why it is not known which disk of the machine an image stands for.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AssignError {
    /// A name that no disk of the machine has.
    #[error("the saved machine has no disk {}; it has {disks}", node.display())]
    NoSuchDisk {
        /// The name.
        node: PathBuf,
        /// What could be named.
        disks: String,
    },
    /// Two images for one disk.
    #[error("{} was named for two images", node.display())]
    Taken {
        /// The disk.
        node: PathBuf,
    },
    /// The size fits none, or several.
    #[error(
        "{}: {fits} of the saved machine's disks have its size of {size} bytes; say which one it is, as in {}={example}. \
         The machine has {disks}",
        image.display(),
        image.display()
    )]
    Which {
        /// The image.
        image: PathBuf,
        /// Its size in bytes.
        size: u64,
        /// How many disks have the same.
        fits: usize,
        /// A disk that could be named.
        example: String,
        /// All that could be named.
        disks: String,
    },
}

impl Host {
    /// Writes this machine to a file.
    ///
    /// # Errors
    /// [`SnapshotError::File`] when the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), SnapshotError> {
        let snapshot = Snapshot {
            schema: SCHEMA.to_owned(),
            host: self.clone(),
        };
        let in_file = |source| SnapshotError::File {
            path: path.to_owned(),
            source,
        };
        let mut text = serde_json::to_vec_pretty(&snapshot)
            .map_err(|error| in_file(io::Error::other(error)))?;
        text.push(b'\n');
        write_whole(path, &text).map_err(in_file)
    }

    /// Reads a machine from a file that [`Host::save`] wrote.
    ///
    /// # Errors
    /// [`SnapshotError`] when the file cannot be read, or is something else.
    pub fn load(path: &Path) -> Result<Self, SnapshotError> {
        let text = read_whole(path, MAX_BYTES).map_err(|source| SnapshotError::File {
            path: path.to_owned(),
            source,
        })?;
        let no_machine = |why: String| SnapshotError::NoMachine {
            path: path.to_owned(),
            why,
        };
        let snapshot: Snapshot =
            serde_json::from_slice(&text).map_err(|error| no_machine(error.to_string()))?;
        match snapshot.schema == SCHEMA {
            true => Ok(Self {
                elsewhere: true,
                ..snapshot.host
            }),
            false => Err(no_machine(format!("its schema is {:?}", snapshot.schema))),
        }
    }

    /// From now on `image` stands for the disk `node`.
    ///
    /// # Errors
    /// [`AssignError`] when there is no such disk, or it is taken.
    pub fn assign(&mut self, image: &Path, node: &Path) -> Result<(), AssignError> {
        let disks = self.list_disks();
        let Some(disk) = self.disks.iter_mut().find(|disk| disk.node == node) else {
            return Err(AssignError::NoSuchDisk {
                node: node.to_owned(),
                disks,
            });
        };
        if disk.image.is_some() {
            return Err(AssignError::Taken {
                node: node.to_owned(),
            });
        }
        disk.image = Some(image.to_owned());
        Ok(())
    }

    /// From now on `image` stands for the one disk that has its size in bytes and that no other
    /// image stands for yet.
    ///
    /// # Errors
    /// [`AssignError::Which`] when there is no such disk, or more than one.
    pub fn assign_by_size(&mut self, image: &Path, size: u64) -> Result<(), AssignError> {
        let disks = self.list_disks();
        let mut fits: Vec<&mut DiskNode> = self
            .disks
            .iter_mut()
            .filter(|disk| disk.size == size && disk.image.is_none())
            .collect();
        match fits.as_mut_slice() {
            [disk] => {
                disk.image = Some(image.to_owned());
                Ok(())
            }
            several => Err(AssignError::Which {
                image: image.to_owned(),
                size,
                fits: several.len(),
                example: several
                    .first()
                    .map_or("/dev/sda".into(), |disk| disk.node.display().to_string()),
                disks,
            }),
        }
    }

    fn list_disks(&self) -> String {
        let disks: Vec<String> = self
            .disks
            .iter()
            .map(|disk| {
                let model = disk.model.as_deref().unwrap_or("no model");
                format!("{} ({} bytes, {model})", disk.node.display(), disk.size)
            })
            .collect();
        match disks.is_empty() {
            true => "none".into(),
            false => disks.join(", "),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::{PciClass, PciFunction};
    use super::*;

    fn host() -> Host {
        let disk = |node: &str, size| DiskNode {
            node: node.into(),
            model: Some("Model".into()),
            serial: None,
            world_wide_ids: vec!["wwid naa.5000c50012345678".into()],
            size,
            removable: false,
            pci_paths: vec![vec!["0000:00:1f.2".parse().unwrap()]],
            image: None,
        };
        let address = "0000:00:1f.2".parse().unwrap();
        let controller = PciFunction {
            address,
            id: "8086:2922".parse().unwrap(),
            class: PciClass(0x01_0601),
            above: vec!["0000:00:01.0".parse().unwrap()],
            driver: Some("ahci".into()),
            name: Some("A controller".into()),
        };
        Host {
            pci: [(address, controller)].into(),
            disks: vec![
                disk("/dev/sda", 10),
                disk("/dev/sdb", 20),
                disk("/dev/sdc", 20),
            ],
            elsewhere: true,
            ..Host::default()
        }
    }

    #[test]
    fn a_machine_survives_being_saved() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("host.json");
        host().save(&file).unwrap();
        let loaded = Host::load(&file).unwrap();
        assert!(loaded.elsewhere);
        assert_eq!((&loaded.pci, &loaded.disks), (&host().pci, &host().disks));
        // The node of the same name on this machine is another disk.
        assert!(loaded.disk(Path::new("/dev/sda")).is_none());
    }

    #[test]
    fn a_machine_that_was_saved_before_disks_had_names_can_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("host.json");
        host().save(&file).unwrap();
        let text = fs::read_to_string(&file).unwrap();
        let mut saved: serde_json::Value = serde_json::from_str(&text).unwrap();
        for disk in saved["disks"].as_array_mut().unwrap() {
            assert!(
                disk.as_object_mut()
                    .unwrap()
                    .remove("world_wide_ids")
                    .is_some()
            );
        }
        fs::write(&file, saved.to_string()).unwrap();
        let disk = &Host::load(&file).unwrap().disks[0];
        assert!(disk.world_wide_ids.is_empty());
        // Without any name it is no disk that another path may lead to.
        assert!(!disk.has_identity_of(&disk.clone()));
    }

    #[test]
    fn other_files_are_refused_with_what_was_expected() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("host.json");
        for text in [
            "",
            "{}",
            "\u{0}",
            r#"{"schema":"other/1","name_plate":{},"pci":[],"disks":[]}"#,
        ] {
            fs::write(&file, text).unwrap();
            let error = Host::load(&file).unwrap_err().to_string();
            assert!(error.contains("--save-host"), "{error}");
        }
        assert!(Host::load(&folder.path().join("absent")).is_err());
    }

    #[test]
    fn an_image_stands_for_the_disk_it_is_named_for_or_the_only_one_of_its_size() {
        let image = Path::new("a.img");
        let mut machine = host();
        machine.assign_by_size(image, 10).unwrap();
        assert_eq!(machine.disk(image).unwrap().name(), "sda");

        let mut machine = host();
        let error = machine.assign_by_size(image, 20).unwrap_err().to_string();
        assert!(error.contains("a.img=/dev/sdb"), "{error}");
        machine.assign(image, Path::new("/dev/sdb")).unwrap();
        // What is left fits alone.
        machine.assign_by_size(Path::new("b.img"), 20).unwrap();
        assert_eq!(machine.disk(Path::new("b.img")).unwrap().name(), "sdc");
        assert!(matches!(
            machine.assign(image, Path::new("/dev/sdc")),
            Err(AssignError::Taken { .. })
        ));
        assert!(matches!(
            machine.assign(image, Path::new("/dev/sdz")),
            Err(AssignError::NoSuchDisk { .. })
        ));
    }
}
