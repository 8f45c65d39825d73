//! A bank's boot.cfg, written the way ESXi's installer writes it.

use std::fmt::Write as _;

/// What a boot.cfg says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootCfg {
    /// `bootstate`: 0 valid, 1 upgrading, 2 dirty, 3 invalid.
    pub bootstate: String,
    /// `updated`: the bank's generation; text, so that a test may write nonsense.
    pub updated: String,
    /// `build`, such as `6.7.0-8169922`.
    pub build: String,
    /// `quickboot`, written only where set.
    pub quickboot: Option<String>,
    /// `title`.
    pub title: String,
    /// `kernel`.
    pub kernel: String,
    /// `kernelopt`.
    pub kernelopt: String,
    /// Files of `modules=`, the state archive last.
    pub modules: Vec<String>,
    /// Lines added at the end, as they are.
    pub more: Vec<String>,
}

impl BootCfg {
    /// A bank that boots, of this build and generation.
    pub fn new(build: &str, updated: u32, modules: &[&str]) -> Self {
        Self {
            bootstate: "0".into(),
            updated: updated.to_string(),
            build: build.into(),
            quickboot: None,
            title: "Loading VMware ESXi".into(),
            kernel: "b.b00".into(),
            kernelopt: "no-auto-partition installerDiskDumpSlotSize=2560".into(),
            modules: modules.iter().map(|name| (*name).to_owned()).collect(),
            more: Vec::new(),
        }
    }

    /// The file's text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |key: &str, value: &str| {
            // Writing into a String does not fail.
            let _ = writeln!(text, "{key}={value}");
        };
        line("bootstate", &self.bootstate);
        line("title", &self.title);
        line("timeout", "5");
        line("prefix", "");
        line("kernel", &self.kernel);
        line("kernelopt", &self.kernelopt);
        line("modules", &self.modules.join(" --- "));
        line("build", &self.build);
        line("updated", &self.updated);
        if let Some(quickboot) = &self.quickboot {
            line("quickboot", quickboot);
        }
        for more in &self.more {
            text.push_str(more);
            text.push('\n');
        }
        text
    }
}
