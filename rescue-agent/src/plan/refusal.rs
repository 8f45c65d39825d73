//! Why a bank is refused by the plan, and what the administrator can do about it.

use thiserror::Error;

use super::doubt::Doubt;
use crate::archive::ArchiveError;
use crate::archive::state::other_bank;
use crate::fat::FatError;
use crate::fat::exchange;
use crate::originals::Objection;

/// What is left where no bank of a disk has an archive that can be read.
pub(super) const NO_OTHER_BANK: &str = "no other bank of this disk has an archive that can be read. If ESXi starts and is 7.0 or newer, it can give the device back itself: docs/troubleshooting.md, \"ESXi gives a device back itself\". Otherwise reinstall ESXi, preserving the datastore, and restore a backup of its configuration";

/// A reason not to write to a bank that something should be done about.
#[derive(Debug, Error)]
pub(crate) enum BankRefusal {
    /// The archive is not valid, or could not be made again.
    #[error("{name}: {error}")]
    Archive {
        /// The archive.
        name: String,
        /// What is wrong.
        error: String,
        /// What to do about that.
        remedy: &'static str,
    },
    /// The new archive does not do what it is for.
    #[error("{name}: the new archive would still pass {device} through")]
    StillPassesThrough {
        /// The archive.
        name: String,
        /// The device, as it is spelled there.
        device: String,
    },
    /// A fault of this program.
    #[error("planning failed unexpectedly")]
    Unexpected,
    /// The file itself cannot be read.
    #[error("{name} cannot be read: {why}")]
    Unreadable {
        /// The archive.
        name: String,
        /// What the volume or the disk says.
        why: String,
    },
    /// There is none, and the loader stops without it.
    #[error("{name}, which its boot.cfg loads, is missing: ESXi does not start from this bank")]
    MissingArchive {
        /// The archive.
        name: String,
    },
    /// The volume must not be written.
    #[error("{0}")]
    Volume(String),
    /// The volume cannot take the new archive.
    #[error("{0}")]
    Room(String),
    /// What is in place is not what the repair made of the undo copy.
    #[error(
        "{name} of {in_place} is not the one that the repair made of {copy}, the original of {original}: ESXi has saved its configuration since, or was upgraded, and what has changed would be lost"
    )]
    SavedSince {
        /// The archive.
        name: String,
        /// When it was saved.
        in_place: String,
        /// The undo copy.
        copy: String,
        /// When that was saved.
        original: String,
    },
    /// A part of the disk is mounted, or otherwise in use.
    #[error("{used}, so that its driver could overwrite the repair")]
    InUse {
        /// Which part, and by what.
        used: String,
    },
    /// The undo copy cannot be restored.
    #[error("the undo copy of {name} is no archive: {why}")]
    BrokenUndo {
        /// The archive.
        name: String,
        /// What is wrong with the copy.
        why: String,
    },
    /// There is a copy outside the bank, which must not go back.
    #[error("{why}")]
    Copy {
        /// In words.
        why: String,
        /// What to do about that.
        remedy: &'static str,
    },
    /// The newest archive does not fit every bank.
    #[error("the banks hold different builds of ESXi, and an archive of one may not fit the other")]
    BuildsDiffer,
    /// An archive that is not sealed, for a bank whose own is.
    #[error(
        "{name} is sealed by the host's TPM and the archive that would replace it is not: it is not known whether ESXi starts with it"
    )]
    PlainOverSealed {
        /// The archive in the bank.
        name: String,
    },
    /// A given archive that may be of another host.
    #[error(transparent)]
    Doubtful(Doubt),
    /// A given archive of another layout.
    #[error("its archive is {name}, and the given one is a {given}")]
    OtherKind {
        /// The archive in the bank.
        name: String,
        /// What was given.
        given: String,
    },
    /// There is nothing to take.
    #[error("no bank of this disk has a readable archive")]
    NoReadableArchive,
}

impl BankRefusal {
    pub(super) fn archive(name: impl ToString, error: &ArchiveError) -> Self {
        Self::Archive {
            name: name.to_string(),
            error: error.to_string(),
            remedy: error.remedy(),
        }
    }

    pub(super) fn unreadable(name: impl ToString, why: Option<&FatError>) -> Self {
        Self::Unreadable {
            name: name.to_string(),
            why: why.map_or("its bytes are missing".into(), ToString::to_string),
        }
    }

    pub(crate) fn copy(objection: &Objection) -> Self {
        Self::Copy {
            why: objection.to_string(),
            remedy: objection.remedy(),
        }
    }

    pub(super) fn volume(refusal: &exchange::Refusal) -> Self {
        Self::Volume(refusal.to_string())
    }

    pub(super) fn room(refusal: &exchange::Refusal) -> Self {
        Self::Room(refusal.to_string())
    }

    /// What the administrator can do.
    pub(super) fn remedy(&self) -> &'static str {
        match self {
            Self::Archive { remedy, .. } | Self::Copy { remedy, .. } => remedy,
            Self::StillPassesThrough { .. } => {
                concat!("report the problem; ", other_bank!())
            }
            Self::Unexpected => "run it again; if it fails again, report the problem",
            Self::MissingArchive { .. } => {
                other_bank!()
            }
            Self::Unreadable { .. } => {
                concat!("the volume or disk is damaged; ", other_bank!())
            }
            Self::Volume(_) => {
                concat!(
                    other_bank!(),
                    ". To repair this one, start any Linux, run `fsck.fat -a` on this partition, and then run this again"
                )
            }
            Self::Room(_) => {
                "start any Linux, mount this partition, delete what a repair by hand has left there, unmount it, and run this again"
            }
            Self::SavedSince { .. } => {
                "keep the current archive; to restore the original anyway, run `restore --discard-newer` (in the menu, Restore asks): the current archive is then kept as a copy"
            }
            Self::InUse { .. } => {
                "unmount it (`umount` with that folder, or Eject in the file manager), then run this again"
            }
            Self::BrokenUndo { .. } => {
                "`rescue-agent inspect` shows whether the archive in place can be read; if it can, keep it, and make the missing settings in ESXi again"
            }
            Self::BuildsDiffer => "use --source own, which edits each bank's own archive",
            Self::PlainOverSealed { .. } => {
                "let ESXi itself give the devices back: the commands for this host are described in docs/sealed.md"
            }
            Self::Doubtful(Doubt::OtherBuild { .. }) => {
                "make a new backup with the build that is in the bank; to use this one anyway, which ESXi itself would refuse: --trust-source on the command line; in the menu i, then t"
            }
            Self::Doubtful(_) => {
                "if you know that it is from this host, use it anyway: --trust-source on the command line; in the menu i, then t"
            }
            Self::OtherKind { .. } => "give an archive that this version of ESXi saved",
            Self::NoReadableArchive => NO_OTHER_BANK,
        }
    }
}
