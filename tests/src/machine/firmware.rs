//! Firmware: how a machine starts, and the keys that its Secure Boot knows.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::{Arguments, escaped};
use crate::artefacts;
use crate::tools::Tool;

/// Where Debian's package `ovmf` puts the firmware.
const OVMF: &str = "/usr/share/OVMF";

/// How the machine starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Firmware {
    /// SeaBIOS.
    Bios,
    /// OVMF without Secure Boot.
    Uefi,
    /// OVMF with Secure Boot and Microsoft's keys of 2011.
    SecureBoot,
    /// OVMF with Secure Boot and Microsoft's keys of 2023 only, as on hosts where the keys of 2011
    /// were taken out.
    SecureBoot2023,
}

impl Firmware {
    /// QEMU's machine options for the q35 board.
    pub(super) fn machine(self) -> &'static str {
        match self {
            Self::SecureBoot | Self::SecureBoot2023 => {
                "-machine q35,smm=on -global driver=cfi.pflash01,property=secure,value=on"
            }
            Self::Bios | Self::Uefi => "-machine q35",
        }
    }

    /// Whether it is UEFI.
    pub fn is_uefi(self) -> bool {
        self != Self::Bios
    }

    /// Makes a fresh store of this firmware's variables, unless there is one.
    ///
    /// # Errors
    /// When the firmware is not installed.
    pub fn make_variables(self, variables: &Path) -> Result<()> {
        let Some((_, store)) = self.files() else {
            return Ok(());
        };
        if variables.exists() {
            return Ok(());
        }
        fs::copy(&store, variables).with_context(|| {
            let store = store.display();
            format!("{store} is missing: `apt-get install ovmf` brings it")
        })?;
        match self {
            Self::SecureBoot2023 => enroll_2023(variables),
            _ => Ok(()),
        }
    }

    /// Its code, and a fresh store of its variables.
    fn files(self) -> Option<(PathBuf, PathBuf)> {
        let (code, store) = match self {
            Self::Bios => return None,
            Self::Uefi => ("OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd"),
            Self::SecureBoot => ("OVMF_CODE_4M.ms.fd", "OVMF_VARS_4M.ms.fd"),
            Self::SecureBoot2023 => ("OVMF_CODE_4M.ms.fd", "OVMF_VARS_4M.fd"),
        };
        let folder = Path::new(OVMF);
        Some((folder.join(code), folder.join(store)))
    }

    /// Adds the firmware and a store of its variables, which starts from `boot_uri` once if one
    /// is given.
    pub(super) fn add(
        self,
        arguments: &mut Arguments,
        variables: &Path,
        boot_uri: Option<&str>,
    ) -> Result<()> {
        let Some((code, _)) = self.files() else {
            return Ok(());
        };
        self.make_variables(variables)?;
        if let Some(uri) = boot_uri {
            edit(variables, &["--set-boot-uri", uri])?;
        }
        arguments.pair(
            "-drive",
            format!(
                "if=pflash,format=raw,unit=0,readonly=on,file={}",
                escaped(&code)
            ),
        );
        arguments.pair(
            "-drive",
            format!("if=pflash,format=raw,unit=1,file={}", escaped(variables)),
        );
        Ok(())
    }
}

/// Puts Microsoft's keys of 2023, and none of 2011, into a store that has no keys yet.
fn enroll_2023(variables: &Path) -> Result<()> {
    edit(
        variables,
        &[
            "--enroll-microsoft",
            "--microsoft-kek=2023",
            "--microsoft-db=uefi23",
            "--secure-boot",
        ],
    )?;
    let keys = signers(variables)?;
    ensure!(
        keys.contains("Microsoft UEFI CA 2023") && !keys.contains("CA 2011"),
        "not the keys of 2023 only:\n{keys}"
    );
    Ok(())
}

fn edit(variables: &Path, how: &[&str]) -> Result<()> {
    Tool::at(artefacts::python_tool("virt-fw-vars")?)
        .arg("--inplace")
        .arg(variables)
        .args(how)
        .run()
        .context("editing the variables of the firmware")?;
    Ok(())
}

/// The names of the certificates in a store of variables.
fn signers(variables: &Path) -> Result<String> {
    Tool::at(artefacts::python_tool("virt-fw-vars")?)
        .arg("--input")
        .arg(variables)
        .args(["--print", "--verbose"])
        .run_text()
}
