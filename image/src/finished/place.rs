//! The output directory from build to build: what was made replaces what the build before made, and of nothing
//! else. Files that others put there stay, and what was customised in place is not replaced without --force.
//!
//! The artefacts change places together: one rename of a folder says that all of them are complete, then each is moved to
//! its place. If the build is killed before that, the old ones stay; after that, the next build moves the rest, and until
//! then nobody takes the mixture for an image ([`check_settled`]).

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::finished::Finished;
use crate::finished::manifest::{self, Artefact, Manifest};
use crate::finished::paths;
use crate::inputs::drivers;
use crate::parts::layout;

/// Start of the names of folders in which a build works.
pub const MAKING: &str = ".esxi-rescue-making-";
/// The same of files and folders that `customize` writes.
pub const CUSTOMIZING: &str = ".esxi-rescue-customizing-";
const LEFTOVERS: [&str; 2] = [MAKING, CUSTOMIZING];
/// A complete set of artefacts that is being put in place.
const COMPLETE: &str = ".esxi-rescue-complete";
/// In it, the list of the files of the build before that have no successor.
const GONE: &str = ".gone";

/// Refuses to lose settings: where a file that people and `customize` may change is not what the build before made.
/// `before` is that build's manifest; without one nobody can tell.
pub fn check_unchanged(out: &Path, before: &Manifest) -> Result<()> {
    let changed = before
        .artefacts
        .iter()
        .filter(|artefact| {
            Artefact::measure(out, &artefact.path).is_ok_and(|now| now != **artefact)
        })
        .find(|artefact| is_of_people(out, &artefact.path));
    let Some(artefact) = changed else {
        return Ok(());
    };
    let path = out.join(&artefact.path);
    let image = match artefact.path.split_once('/') {
        Some((tree, _)) => out.join(tree),
        None => path.clone(),
    };
    Err(Error::input(
        &path,
        format!(
            "was changed since it was built, and a new build would lose the change. Move {} to another place (and customize with -o \
             from now on), or build with --force to lose the change",
            image.display()
        ),
    ))
}

/// A damaged image is no change that anybody wants back; one that is whole was customised.
fn is_of_people(out: &Path, path: &str) -> bool {
    match path.strip_prefix(layout::NETBOOT) {
        Some(file) => layout::is_changeable(file.trim_start_matches('/')),
        None => Finished::open(&out.join(path)).is_ok(),
    }
}

/// Refuses to replace a file that no build of ours made. `before` is the manifest of the build before.
pub fn check_ours(out: &Path, names: &[String], before: Option<&Manifest>) -> Result<()> {
    let listed = |name: &String| {
        let mut artefacts = before.iter().flat_map(|before| &before.artefacts);
        artefacts.any(|artefact| artefact.path == *name)
    };
    let there = |name: &&String| fs::symlink_metadata(out.join(name.as_str())).is_ok();
    match names.iter().filter(there).find(|name| !listed(name)) {
        None => Ok(()),
        Some(name) => Err(Error::input(
            &out.join(name),
            format!(
                "is there already, and no {} says that a build made it. Move it to another place, build into another folder with \
                 --out, or build with --force to replace it",
                manifest::FILE
            ),
        )),
    }
}

/// Puts the complete folder `made`, with manifest and checksums, in the place of what `before` lists. It is in `out`.
pub fn put(made: &Path, out: &Path, before: Option<&Manifest>) -> Result<()> {
    let new = files_of(made)?;
    let old = before.iter().flat_map(|before| &before.artefacts);
    let mut gone: Vec<String> = old
        .map(|artefact| artefact.path.clone())
        .filter(|path| paths::is_plain(path) && !new.contains(path))
        .collect();
    // These name the tree, so there must not be one of an older tree beside the new one.
    for name in files_of(&out.join(layout::NETBOOT).join(".disk")).unwrap_or_default() {
        let path = format!("{}/.disk/{name}", layout::NETBOOT);
        if !new.contains(&path) && !gone.contains(&path) {
            gone.push(path);
        }
    }
    let list = made.join(GONE);
    fs::write(&list, gone.join("\n")).map_err(Error::io("write", &list))?;
    rename(made, &out.join(COMPLETE))?;
    settle(out).map(|_| ())
}

/// Finishes what a build that was killed had begun to put in place; whether there was anything.
pub fn settle(out: &Path) -> Result<bool> {
    let complete = out.join(COMPLETE);
    if !complete.is_dir() {
        return Ok(false);
    }
    let list = complete.join(GONE);
    let gone = fs::read_to_string(&list).unwrap_or_default();
    for name in gone.lines().filter(|name| paths::is_plain(name)) {
        remove(&out.join(name))?;
    }
    for name in files_of(&complete)?.iter().filter(|name| *name != GONE) {
        let place = out.join(name);
        if let Some(parent) = place.parent() {
            fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
        }
        rename(&complete.join(name), &place)?;
    }
    fs::remove_dir_all(&complete).map_err(Error::io("remove", &complete))?;
    Ok(true)
}

/// An error where a build was killed while it put its images in place, and some are old and some new.
pub fn check_settled(out: &Path) -> Result<()> {
    if out.join(COMPLETE).is_dir() {
        return Err(Error::input(
            out,
            "a build was interrupted while it replaced the images here, so that they do not belong together; run 'make image' \
             ('rescue-image build') to finish it",
        ));
    }
    Ok(())
}

/// Removes what builds and customisations left behind that were killed. The folder is locked.
pub fn tidy(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(Error::io("list", folder))? {
        let entry = entry.map_err(Error::io("list", folder))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !LEFTOVERS.iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        let path = entry.path();
        let kind = entry.file_type().map_err(Error::io("read", &path))?;
        let removed = if kind.is_dir() {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        removed.map_err(Error::io("remove", &path))?;
    }
    Ok(())
}

/// The files below a folder, by their path in it, sorted.
fn files_of(folder: &Path) -> Result<Vec<String>> {
    let files = drivers::files_below(folder)?;
    let name = |path: &PathBuf| Some(path.strip_prefix(folder).ok()?.to_str()?.to_owned());
    Ok(files.iter().filter_map(name).collect())
}

fn rename(made: &Path, place: &Path) -> Result<()> {
    fs::rename(made, place).map_err(Error::io("write", place))
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::{netboot, usb};
    use crate::parts::sample;
    use crate::settings::Setting;

    /// Makes small artefacts of this identity in a folder of `out`, as a build does.
    fn make(out: &Path, identity: &str, with_usb: bool) -> (tempfile::TempDir, PathBuf, Manifest) {
        let mut parts = sample::parts();
        parts.identity = identity.to_owned();
        let temp = tempfile::Builder::new()
            .prefix(MAKING)
            .tempdir_in(out)
            .unwrap();
        let made = temp.path().join("made");
        let tree = netboot::make(&parts, temp.path()).unwrap();
        netboot::write(&tree, &made.join(layout::NETBOOT)).unwrap();
        fs::write(made.join(layout::ISO), identity).unwrap();
        let usb = if with_usb {
            usb::make(&parts, temp.path()).unwrap()
        } else {
            identity.into()
        };
        fs::write(made.join(layout::USB), usb).unwrap();
        let names = files_of(&made).unwrap();
        let measured = names
            .iter()
            .map(|name| Artefact::measure(&made, name).unwrap());
        let manifest = manifest::tests::manifest(measured.collect());
        manifest.store(&made).unwrap();
        (temp, made, manifest)
    }

    fn build(out: &Path, identity: &str) -> Manifest {
        let (_temp, made, manifest) = make(out, identity, true);
        put(&made, out, Manifest::load(out).as_ref()).unwrap();
        manifest
    }

    #[test]
    fn a_build_that_is_killed_leaves_the_old_artefacts_or_is_finished_by_the_next() {
        let temp = tempfile::tempdir().unwrap();
        let out = temp.path();
        let old = build(out, "1111111111111111");
        let tree = out.join(layout::NETBOOT);
        // Killed while it makes them.
        let (folder, ..) = make(out, "2222222222222222", false);
        let left = folder.keep();
        assert!(old.holds(out) && !settle(out).unwrap());
        tidy(out).unwrap();
        assert!(!left.exists());
        // Killed after any number of its moves.
        let count = files_of(&make(out, "2222222222222222", false).1)
            .unwrap()
            .len();
        for moves in (0..=count).step_by(4) {
            let number = format!("{:016}", 100 + moves);
            let (_folder, made, new) = make(out, &number, false);
            fs::write(made.join(GONE), "netboot/.disk/none").unwrap();
            fs::rename(&made, out.join(COMPLETE)).unwrap();
            let names = files_of(&out.join(COMPLETE)).unwrap();
            for name in names.iter().filter(|name| *name != GONE).take(moves) {
                fs::create_dir_all(out.join(name).parent().unwrap()).unwrap();
                fs::rename(out.join(COMPLETE).join(name), out.join(name)).unwrap();
            }
            let error = Finished::open(&tree).unwrap_err().to_string();
            assert!(error.contains("interrupted"), "{error}");
            assert!(settle(out).unwrap());
            assert!(new.holds(out), "{moves}");
            for entry in files_of(&tree.join(".disk")).unwrap() {
                if entry.starts_with("esxi-rescue-") && !entry.ends_with(&number) {
                    fs::remove_file(tree.join(".disk").join(entry)).unwrap();
                }
            }
            Finished::open(&tree).unwrap();
        }
    }

    #[test]
    fn the_file_of_another_is_not_replaced() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join(layout::ISO);
        let names = [layout::ISO.to_owned(), layout::USB.to_owned()];
        check_ours(temp.path(), &names, None).unwrap();
        fs::write(&path, "of another").unwrap();
        let error = check_ours(temp.path(), &names, None)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(layout::ISO) && error.contains("--force"),
            "{error}"
        );
        let ours =
            manifest::tests::manifest(vec![Artefact::measure(temp.path(), layout::ISO).unwrap()]);
        check_ours(temp.path(), &names, Some(&ours)).unwrap();
    }

    #[test]
    fn a_rebuild_replaces_its_own_files_and_leaves_those_of_others() {
        let temp = tempfile::tempdir().unwrap();
        let tree = temp.path().join("netboot");
        let mut first = build(temp.path(), "1111111111111111");
        fs::create_dir_all(tree.join("grub/hosts")).unwrap();
        fs::write(tree.join("grub/hosts/5ZTVM22.cfg"), "set default=local").unwrap();
        fs::write(tree.join("of-an-older-version"), "").unwrap();
        first
            .artefacts
            .push(Artefact::measure(temp.path(), "netboot/of-an-older-version").unwrap());
        first.store(temp.path()).unwrap();
        build(temp.path(), "2222222222222222");
        assert_eq!(
            Finished::open(&tree).unwrap().identity(),
            "2222222222222222"
        );
        assert!(tree.join("grub/hosts/5ZTVM22.cfg").exists());
        assert!(!tree.join("of-an-older-version").exists());
    }

    #[test]
    fn what_was_customised_in_place_is_not_replaced() {
        for (image, file) in [
            ("netboot", "netboot/esxi-rescue.ipxe"),
            (layout::USB, layout::USB),
        ] {
            let temp = tempfile::tempdir().unwrap();
            let manifest = build(temp.path(), "1111111111111111");
            check_unchanged(temp.path(), &manifest).unwrap();
            let mut finished = Finished::open(&temp.path().join(image)).unwrap();
            finished.set(&Setting::parse("countdown=0").unwrap());
            finished.save(None).unwrap();
            let error = check_unchanged(temp.path(), &manifest).unwrap_err();
            let error = error.to_string();
            assert!(error.contains(file) && error.contains("--force"), "{error}");
        }
    }

    #[test]
    fn a_damaged_or_missing_file_is_made_again() {
        let temp = tempfile::tempdir().unwrap();
        let manifest = build(temp.path(), "1111111111111111");
        fs::write(temp.path().join(layout::USB), "cut").unwrap();
        fs::write(temp.path().join("netboot/vmlinuz"), "cut").unwrap();
        fs::remove_file(temp.path().join("netboot/dnsmasq.conf")).unwrap();
        check_unchanged(temp.path(), &manifest).unwrap();
    }
}
