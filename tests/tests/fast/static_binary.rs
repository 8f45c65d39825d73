//! The agent runs where there is nothing else: it needs no interpreter and no library.

use anyhow::{Result, ensure};
use rescue_tests::artefacts;
use rescue_tests::tools::Tool;

#[test]
fn the_agent_has_no_interpreter_and_needs_no_library() -> Result<()> {
    let agent = artefacts::agent()?;
    let headers = Tool::new("readelf")?
        .args(["--wide", "--program-headers"])
        .arg(&agent)
        .run_text()?;
    ensure!(
        !headers.contains("INTERP"),
        "{} has an interpreter:\n{headers}",
        agent.display()
    );
    let dynamic = Tool::new("readelf")?
        .args(["--wide", "--dynamic"])
        .arg(&agent)
        .run_text()?;
    ensure!(
        !dynamic.contains("NEEDED"),
        "{} needs libraries:\n{dynamic}",
        agent.display()
    );
    Ok(())
}
