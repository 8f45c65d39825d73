//! The layers of the agent and of the builder, as tests: a module uses only what lies on floors below
//! its own, and no two modules beside each other use each other.
//!
//! What counts are paths that begin with `crate` or `super`, in `use` and elsewhere, also inside
//! macros; comments, texts and what is compiled for tests do not. A module and what is inside of it
//! are one thing here: a folder's `mod.rs` may use its files, and they what it holds for all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// The agent's modules, the lowest floor first.
const AGENT: &[&[&str]] = &[
    &["files", "bytes", "counted", "parallel", "secret"],
    &["disk", "config"],
    &["fat", "host", "archive", "bank"],
    &["policy", "inventory", "loader", "stick"],
    &["settings", "discover", "import", "originals", "copies"],
    &["firmware", "plan", "medium"],
    &["repair"],
    &["verify", "report"],
    &["logging", "net"],
    &["init", "cli"],
    &["rescue"],
];

/// The builder's modules, the lowest floor first.
const BUILDER: &[&[&str]] = &[
    &["error", "options", "progress"],
    &["hash", "lock", "manual", "settings", "tool"],
    &["inputs"],
    &["parts"],
    &["media"],
    &["finished"],
    &["build", "collect", "fleet"],
    &["cli"],
];

/// The root of a crate, and what is compiled for tests only.
const NO_LAYER: [&str; 4] = ["lib", "main", "catalogue", "layers"];

/// A file as a module: the names from the root of the crate down.
type Module = Vec<String>;

/// The sources of a crate: each module with its text.
type Sources = BTreeMap<Module, String>;

fn module(name: &str) -> Module {
    name.split("::").map(str::to_owned).collect()
}

/// Every path that begins with `crate` or `super`.
fn paths(tokens: TokenStream) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    walk(tokens, &[], &mut found);
    found
}

/// Walks over what stands between commas and blanks: `prefix` is the path before a `{` of `use`.
fn walk(tokens: TokenStream, prefix: &[String], found: &mut Vec<Vec<String>>) {
    let mut path = prefix.to_vec();
    let mut after_colons = true;
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Punct(mark) if mark.as_char() == '#' && is_for_tests(tokens.peek()) => {
                skip_item(&mut tokens);
            }
            TokenTree::Punct(mark) if mark.as_char() == ':' => after_colons = true,
            TokenTree::Ident(name) => {
                let name = name.to_string();
                let begins = matches!(name.as_str(), "crate" | "super");
                if !after_colons || begins && path.last().is_some_and(|last| last != "super") {
                    path = Vec::new();
                }
                if begins || !path.is_empty() {
                    path.push(name);
                    found.push(path.clone());
                }
                after_colons = false;
            }
            TokenTree::Group(group) => {
                let of_use = group.delimiter() == Delimiter::Brace && after_colons;
                let before = if of_use { path.as_slice() } else { &[] };
                walk(group.stream(), before, found);
                (path, after_colons) = (Vec::new(), true);
            }
            _ => (path, after_colons) = (prefix.to_vec(), true),
        }
    }
}

fn is_for_tests(attribute: Option<&TokenTree>) -> bool {
    matches!(attribute, Some(TokenTree::Group(group)) if group.stream().to_string() == "cfg (test)")
}

/// Passes over what follows an attribute: as far as its body or its `;`.
fn skip_item(tokens: &mut impl Iterator<Item = TokenTree>) {
    for token in tokens {
        match token {
            TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => return,
            TokenTree::Punct(mark) if mark.as_char() == ';' => return,
            _ => {}
        }
    }
}

/// The file that a path in `module` leads to; none if it leads out of the crate's files.
fn target(module: &Module, path: &[String], sources: &Sources) -> Option<Module> {
    let ups = path.iter().take_while(|name| *name == "super").count();
    let mut place: Module = match ups {
        0 => Vec::new(),
        _ => module[..module.len().checked_sub(ups)?].to_vec(),
    };
    for name in &path[ups.max(1)..] {
        place.push(name.clone());
        if !sources.contains_key(&place) {
            place.pop();
            break;
        }
    }
    (!place.is_empty()).then_some(place)
}

/// Which module uses which others beside it; what is inside of a folder counts as the folder.
fn uses(sources: &Sources) -> BTreeMap<Module, BTreeSet<Module>> {
    let mut uses: BTreeMap<Module, BTreeSet<Module>> = BTreeMap::new();
    for (module, text) in sources {
        uses.entry(module.clone()).or_default();
        let tokens: TokenStream = text.parse().unwrap();
        for other in paths(tokens)
            .iter()
            .filter_map(|path| target(module, path, sources))
        {
            let pairs = module.iter().zip(&other);
            let depth = pairs.take_while(|(own, others)| own == others).count();
            // One that is inside of the other stands for nothing else than the other.
            if let (Some(own), Some(other)) = (module.get(..=depth), other.get(..=depth)) {
                uses.entry(own.to_vec()).or_default().insert(other.to_vec());
            }
        }
    }
    uses
}

/// Everything that is against the layers, in words.
fn violations(floors: &[&[&str]], sources: &Sources) -> Vec<String> {
    let floor = |module: &Module| {
        let is_there = |names: &&[&str]| names.contains(&module[0].as_str());
        floors.iter().position(is_there)
    };
    let uses = uses(sources);
    let mut found = Vec::new();
    for (module, others) in &uses {
        let Some(own) = floor(module) else {
            found.push(format!("{} has no floor", module.join("::")));
            continue;
        };
        for other in others.iter().filter(|other| other.len() == 1) {
            if floor(other).is_none_or(|floor| floor >= own) {
                let (module, other) = (module.join("::"), other.join("::"));
                found.push(format!("{module} uses {other}, which is not below it"));
            }
        }
    }
    found.extend(circles(&uses));
    found
}

/// The files that use each other, over however many others.
fn circles(uses: &BTreeMap<Module, BTreeSet<Module>>) -> Vec<String> {
    // What uses nothing that is left, or is used by nothing that is left, is in no circle.
    let mut left = uses.clone();
    loop {
        let before = left.len();
        let names: BTreeSet<Module> = left.keys().cloned().collect();
        left.retain(|_, others| !others.is_disjoint(&names));
        let used: BTreeSet<Module> = left.values().flatten().cloned().collect();
        left.retain(|module, _| used.contains(module));
        if left.len() == before {
            break;
        }
    }
    let in_words = |(module, others): (&Module, &BTreeSet<Module>)| {
        let others = others.iter().filter(|other| left.contains_key(*other));
        let others: Vec<String> = others.map(|other| other.join("::")).collect();
        format!(
            "in a circle: {} uses {}",
            module.join("::"),
            others.join(", ")
        )
    };
    left.iter().map(in_words).collect()
}

fn read(folder: &Path, above: &Module, sources: &mut Sources) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let (path, mut module) = (entry.path(), above.clone());
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            module.push(name);
            read(&path, &module, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            if name != "mod" {
                module.push(name);
            }
            let without = module.len() == 1 && NO_LAYER.contains(&module[0].as_str());
            let is_tests = module.last().is_some_and(|name| name == "tests");
            if !without && !is_tests {
                sources.insert(module, fs::read_to_string(&path).unwrap());
            }
        }
    }
}

fn sources_of(folder: &str) -> Sources {
    let mut sources = Sources::new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    read(&folder, &Module::new(), &mut sources);
    assert!(sources.len() > 20, "{} has moved", folder.display());
    sources
}

#[test]
fn no_module_of_the_agent_uses_what_lies_above_it() {
    assert_eq!(violations(AGENT, &sources_of("src")), [""; 0]);
}

#[test]
fn no_module_of_the_builder_uses_what_lies_above_it() {
    assert_eq!(violations(BUILDER, &sources_of("../image/src")), [""; 0]);
}

/// What the test above says of these files: the name of a module and its text.
fn said(files: &[(&str, &str)]) -> Vec<String> {
    let sources = files
        .iter()
        .map(|(name, text)| (module(name), (*text).to_owned()))
        .collect();
    violations(&[&["low", "beside"], &["high"]], &sources)
}

#[test]
fn an_arrow_upward_is_seen_wherever_it_stands() {
    let ways = [
        "use crate::high;",
        "use crate::high::deep::Thing;",
        "pub(crate) use crate::{elsewhere::A, high::{self, B}};",
        "fn f() -> u8 { 1 + crate::high::number() }",
        "fn f(x: &crate::high::Thing) {}",
        "fn f() { assert!(matches!(1, crate::high::ONE)); }",
        "use super::high::Thing;",
        "#[cfg(test)] use x::y; use crate::high::Thing;",
        "#[cfg(test)] fn t() {} fn f() { crate::high::number(); }",
    ];
    for text in ways {
        let found = said(&[("high", ""), ("low", text)]);
        assert_eq!(found, ["low uses high, which is not below it"], "{text}");
    }
    let found = said(&[
        ("high", ""),
        ("low::deep", "use super::super::high::Thing;"),
    ]);
    assert_eq!(found, ["low uses high, which is not below it"]);
}

#[test]
fn what_may_be_is_not_complained_about() {
    let fine = [
        "use crate::low::Thing;",
        "// use crate::high;\n",
        "const A: &str = \"use crate::high;\";",
        "#[cfg(test)] mod tests { use crate::high::Thing; }",
        "#[cfg(test)] use crate::high::Thing;",
        "use std::{fmt, io}; use other::high::Thing;",
    ];
    for text in fine {
        let found = said(&[("high", "use crate::low::A;"), ("low", text)]);
        assert_eq!(found, [""; 0], "{text}");
    }
}

#[test]
fn neighbours_and_strangers_are_seen() {
    let found = said(&[("beside", ""), ("low", "use crate::beside::A;")]);
    assert_eq!(found, ["low uses beside, which is not below it"]);
    assert_eq!(said(&[("new", "")]), ["new has no floor"]);
}

#[test]
fn files_that_use_each_other_are_seen() {
    let found = said(&[
        ("low", "mod a; mod b; mod c; use a::A;"),
        ("low::e", "use super::b::A;"),
        ("low::e::f", ""),
        ("low::b::g", "use super::super::c::A;"),
        ("low::a", "use super::{Common, b::B};"),
        ("low::b", "mod g;"),
        ("low::c", "use super::a::A;"),
        ("low::d", "use super::a::A;"),
    ]);
    let circle: Vec<&String> = found.iter().filter(|one| one.contains("circle")).collect();
    assert_eq!(circle.len(), 3, "{found:?}");
    assert_eq!(circle[0], "in a circle: low::a uses low::b");
}
