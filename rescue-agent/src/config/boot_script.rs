//! Scripts that ESXi runs at each start, `etc/rc.local.d/local.sh` and its neighbours: lines that pass a
//! device through again. They are read and reported, never changed.
//!
//! In scope is the one command that is documented for it, `esxcli hardware pci pcipassthru set` (VMware's
//! "ESXCLI Reference"), also as `localcli`, with its options in all spellings. Out of scope: what a shell
//! would make of variables and loops. Such a line is reported too, without a device.

use super::pci::PciAddress;

/// Bytes of a script that are looked at. Real ones have a few thousand.
const MAX_SCRIPT_BYTES: usize = 1 << 20;
/// Lines that are reported of one script.
const MAX_MARKS: usize = 32;
/// Characters of a command that are kept.
const MAX_WORDS_CHARS: usize = 160;
/// How deep commands may lie in the quotes of other commands, as in `sh -c "…"`.
const MAX_DEPTH: usize = 4;

const PROGRAMS: [&str; 2] = ["esxcli", "localcli"];
const COMMAND: [&str; 4] = ["hardware", "pci", "pcipassthru", "set"];

/// A line of a script that passes a device through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootMark {
    /// The script as ESXi has it, such as `/etc/rc.local.d/local.sh`.
    pub file: String,
    /// The line in it, counted from 1.
    pub line: usize,
    /// The command in its own words, cut, and without anything else that stands on the line.
    pub words: String,
    /// The device, where the line names it itself.
    pub device: Option<PciAddress>,
}

/// The lines of the script `file` that pass devices through.
pub fn marks(file: &str, script: &[u8]) -> Vec<BootMark> {
    let script = &script[..script.len().min(MAX_SCRIPT_BYTES)];
    let script = String::from_utf8_lossy(script);
    let commands = whole_lines(&script).flat_map(|(line, text)| {
        let found = commands(&text, 0);
        found.into_iter().map(move |command| (line, command))
    });
    let marks = commands.filter_map(|(line, command)| {
        let set = Set::read(&command)?;
        set.passes_through().then(|| BootMark {
            file: file.to_owned(),
            line,
            words: set.words.chars().take(MAX_WORDS_CHARS).collect(),
            device: set.device.and_then(|text| text.parse().ok()),
        })
    });
    marks.take(MAX_MARKS).collect()
}

/// The lines of a script, each with its number; what a backslash at the end continues is one line.
fn whole_lines(script: &str) -> impl Iterator<Item = (usize, String)> {
    let mut lines = (1..).zip(script.lines());
    std::iter::from_fn(move || {
        let (number, first) = lines.next()?;
        let mut whole = first.to_owned();
        while let Some(begun) = whole.strip_suffix('\\') {
            whole.truncate(begun.len());
            let Some((_, next)) = lines.next() else {
                break;
            };
            whole.push(' ');
            whole.push_str(next);
        }
        Some((number, whole))
    })
}

/// The commands of a line, each as its words, also those in quotes.
fn commands(line: &str, depth: usize) -> Vec<Vec<String>> {
    // A line whose quotes are not closed belongs to a text of several lines.
    let words =
        shlex::split(line).unwrap_or_else(|| line.split_whitespace().map(str::to_owned).collect());
    let (mut all, mut command) = (Vec::new(), Vec::new());
    for word in words {
        if word.contains(char::is_whitespace) && depth < MAX_DEPTH {
            all.extend(commands(&word, depth + 1));
            command.push(word);
            continue;
        }
        let mut parts = word.split(|c| ";&|()<>`".contains(c));
        command.extend(parts.next().map(str::to_owned));
        for part in parts {
            all.push(std::mem::take(&mut command));
            command.push(part.to_owned());
        }
    }
    all.push(command);
    all
}

/// A command `esxcli hardware pci pcipassthru set`.
#[derive(Debug, Default)]
struct Set<'w> {
    words: String,
    enable: Option<&'w str>,
    device: Option<&'w str>,
}

impl<'w> Set<'w> {
    fn read(command: &'w [String]) -> Option<Self> {
        let is_program = |word: &&'w String| {
            let name = word.rsplit('/').next().unwrap_or_default();
            PROGRAMS.contains(&name)
        };
        let program = command.iter().find(is_program)?;
        let start = command
            .windows(COMMAND.len())
            .position(|four| four == COMMAND)?;
        let mut set = Self {
            words: format!("{program} {}", COMMAND.join(" ")),
            ..Self::default()
        };
        let mut options = command[start + COMMAND.len()..].iter();
        while let Some(option) = options.next() {
            let (name, joined) = split(option);
            let takes_value = matches!(name, "-d" | "--device-id" | "-e" | "--enable");
            if !takes_value && !matches!(name, "-a" | "--apply-now") {
                // Not an option of this command: who logs in, and with which password.
                continue;
            }
            set.add(option);
            if !takes_value {
                continue;
            }
            let apart = || options.next().map(String::as_str);
            let value = joined.or_else(apart);
            if joined.is_none() {
                set.add(value.unwrap_or_default());
            }
            match name {
                "-d" | "--device-id" => set.device = value,
                _ => set.enable = value,
            }
        }
        Some(set)
    }

    /// Adds a word to what is shown, up to more than is ever shown.
    fn add(&mut self, word: &str) {
        if self.words.len() < 4 * MAX_WORDS_CHARS {
            self.words.push(' ');
            self.words.push_str(word);
        }
    }

    /// A value that the shell puts in at the start may be anything.
    fn passes_through(&self) -> bool {
        self.enable.is_some_and(|value| {
            let known = ["true", "1", "on", "yes"];
            known.iter().any(|known| value.eq_ignore_ascii_case(known)) || value.contains('$')
        })
    }
}

/// An option and the value that is written together with it: `-e=TRUE`, `-eTRUE`, `--enable=TRUE`.
fn split(option: &str) -> (&str, Option<&str>) {
    if let Some((name, value)) = option.split_once('=') {
        return (name, Some(value));
    }
    match option.split_at_checked(2) {
        Some((name @ ("-d" | "-e"), value)) if !value.is_empty() => (name, Some(value)),
        _ => (option, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(script: &str) -> Vec<(usize, String, Option<String>)> {
        let marks = marks("/etc/rc.local.d/local.sh", script.as_bytes());
        marks
            .into_iter()
            .map(|mark| {
                assert_eq!(mark.file, "/etc/rc.local.d/local.sh");
                let device = mark.device.map(|device| device.to_string());
                (mark.line, mark.words, device)
            })
            .collect()
    }

    #[test]
    fn the_command_is_known_in_every_spelling() {
        for script in [
            "esxcli hardware pci pcipassthru set -a -e TRUE -d 0000:00:1f.2",
            "esxcli hardware pci pcipassthru set -d=0000:00:1f.2 -e=true",
            "esxcli hardware pci pcipassthru set -d0000:00:1f.2 -eon",
            "localcli hardware pci pcipassthru set --device-id 0000:00:1f.2 --enable 1 --apply-now",
            "/bin/esxcli --formatter=csv hardware pci pcipassthru set --enable=True --device-id=00:1f.2",
            "esxcli hardware pci pcipassthru set -e 'TRUE' -d \"0000:00:1F.2\" >/dev/null 2>&1",
            "sleep 60 && esxcli hardware pci pcipassthru set -e TRUE -d 0000:00:1f.2;exit 0",
            "(esxcli hardware pci pcipassthru set -e TRUE -d 0000:00:1f.2)&",
            "sh -c \"sleep 9; esxcli hardware pci pcipassthru set -e TRUE -d '0000:00:1f.2'\" &",
            "\tX=$(esxcli  hardware pci\tpcipassthru set -e true -d 0000:00:1f.2) # why\r",
            "esxcli hardware pci pcipassthru set \\\n  -e TRUE \\\n  -d 0000:00:1f.2",
        ] {
            let found = found(script);
            let devices: Vec<_> = found
                .iter()
                .map(|(line, _, device)| (*line, device.as_deref()))
                .collect();
            assert_eq!(devices, [(1, Some("0000:00:1f.2"))], "{script}");
        }
    }

    #[test]
    fn what_gives_back_or_is_no_such_command_is_not_reported() {
        let script = "#!/bin/sh ++group=host/vim/vmvisor/boot\n\
            # esxcli hardware pci pcipassthru set -e TRUE -d 0000:00:1f.2\n\
            esxcli hardware pci pcipassthru set -e false -d 0000:00:1f.2\n\
            esxcli hardware pci pcipassthru set -d 0000:00:1f.2 # -e TRUE\n\
            esxcli hardware pci pcipassthru list\n\
            echo hardware pci pcipassthru set -e TRUE -d 0000:00:1f.2\n\
            esxcli system settings kernel set -s pcipassthru -v TRUE\n\
            exit 0\n";
        assert_eq!(found(script), []);
    }

    #[test]
    fn only_the_command_itself_is_kept_of_a_line() {
        let script = "\nPW=secret esxcli -u root -p secret hardware pci pcipassthru set --password=secret -e $ON -d $dev; secret";
        let words = "esxcli hardware pci pcipassthru set -e $ON -d $dev";
        assert_eq!(found(script), [(2, words.into(), None)]);
        let long = format!(
            "esxcli hardware pci pcipassthru set -e TRUE -d {}",
            "x".repeat(9999)
        );
        assert_eq!(found(&long)[0].1.chars().count(), MAX_WORDS_CHARS);
    }

    #[test]
    fn lines_are_counted_as_an_editor_counts_them() {
        let script = "a \\\nb\nesxcli hardware pci pcipassthru set -e TRUE -d 0000:01:00.0\n\
            it's not closed; esxcli hardware pci pcipassthru set -e TRUE -d 0000:02:00.0\n";
        let found = found(script);
        let found: Vec<_> = found
            .iter()
            .map(|(line, _, device)| (*line, device.as_deref()))
            .collect();
        assert_eq!(
            found,
            [(3, Some("0000:01:00.0")), (4, Some("0000:02:00.0"))]
        );
    }
}
