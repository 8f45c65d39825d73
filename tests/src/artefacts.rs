//! Where the built things are: the agent, the builder, the images.
//!
//! Tests never build them. One that is missing fails the test and names the command that makes it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::tools::Tool;

/// Where cargo puts release programs of this workspace (`.cargo/config.toml` fixes the target).
const RELEASE: &str = "target/x86_64-unknown-linux-gnu/release";

/// The root folder of the workspace.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The agent program: `RESCUE_AGENT`, or the release build.
///
/// # Errors
/// When it has not been built.
pub fn agent() -> Result<PathBuf> {
    located(
        "RESCUE_AGENT",
        workspace().join(RELEASE).join("rescue-agent"),
    )
}

/// The builder program: `RESCUE_IMAGE`, or the release build.
///
/// # Errors
/// When it has not been built.
pub fn builder() -> Result<PathBuf> {
    located(
        "RESCUE_IMAGE",
        workspace().join(RELEASE).join("rescue-image"),
    )
}

/// A file of `dist/`, or of the folder that `RESCUE_DIST` names.
///
/// # Errors
/// When it has not been built.
pub fn dist(name: &str) -> Result<PathBuf> {
    let folder =
        std::env::var_os("RESCUE_DIST").map_or_else(|| workspace().join("dist"), PathBuf::from);
    present(folder.join(name))
}

/// The Python that opens a sealed archive with `dissect.hypervisor`.
///
/// # Errors
/// When the folder for it cannot be set up.
pub fn oracle_python() -> Result<PathBuf> {
    python_tool("python3")
}

/// A program of the tests' own Python environment, such as `virt-fw-vars`.
///
/// # Errors
/// When the folder for it cannot be set up, or the environment has no such program.
pub fn python_tool(name: &str) -> Result<PathBuf> {
    let folder = workspace().join("target/test-venv");
    Tool::at("/bin/sh")
        .arg(crate::tools::crate_file("setup-venv.sh"))
        .arg(&folder)
        .deadline(std::time::Duration::from_secs(300))
        .run()
        .context("setting up the Python that the tests use")?;
    present(folder.join("bin").join(name))
}

/// Makes a copy of a finished image with settings of its own, such as `countdown=0`.
///
/// # Errors
/// When the builder or the image is missing, or the builder refuses.
pub fn customized(image: &str, settings: &[&str], to: &Path) -> Result<()> {
    let mut tool = Tool::at(builder()?).arg("customize").arg(dist(image)?);
    for setting in settings {
        tool = tool.args(["--set", setting]);
    }
    tool.arg("-o")
        .arg(to)
        .run()
        .with_context(|| format!("personalising {image}"))?;
    Ok(())
}

fn located(variable: &str, fallback: PathBuf) -> Result<PathBuf> {
    present(std::env::var_os(variable).map_or(fallback, PathBuf::from))
}

fn present(path: PathBuf) -> Result<PathBuf> {
    ensure!(
        path.exists(),
        "{} does not exist: run `make image` first",
        path.display()
    );
    // Not resolved: a Python environment is recognised by the path it is called by.
    std::path::absolute(&path).with_context(|| format!("resolving {}", path.display()))
}
