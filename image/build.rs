//! Lists the crates that the agent is made of, with their licences, for the manifest of the images.

use std::env;
use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::Command;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=../Cargo.lock");
    println!("cargo::rerun-if-changed=../rescue-agent/Cargo.toml");
    let tree = [
        "tree",
        "--locked",
        "--offline",
        "--package",
        "rescue-agent",
        "--edges",
        "normal",
        "--prefix",
        "none",
        "--format",
        "{p}|{l}",
    ];
    let output = Command::new(env::var("CARGO")?).args(tree).output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into());
    }
    let text = String::from_utf8(output.stdout)?;
    let mut lines: Vec<String> = text.lines().filter_map(line).collect();
    lines.sort();
    lines.dedup();
    fs::write(
        Path::new(&env::var("OUT_DIR")?).join("crates.txt"),
        lines.concat(),
    )?;
    Ok(())
}

/// `name version licence` of a line such as `toml v1.0.0 (*)|MIT OR Apache-2.0`; nothing for the agent itself.
fn line(line: &str) -> Option<String> {
    let (package, licence) = line.split_once('|')?;
    let mut words = package.split(' ');
    let (name, version) = (words.next()?, words.next()?.strip_prefix('v')?);
    // Older crates write a slash for "or".
    let licence = licence
        .trim_end_matches(" (*)")
        .replace(" / ", "/")
        .replace('/', " OR ");
    (name != "rescue-agent").then(|| format!("{name} {version} {licence}\n"))
}
