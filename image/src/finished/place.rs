//! The output directory from build to build: what was made takes the place of what the build before made, and of nothing
//! else. Files that others put there stay, and what was customised in place is not lost without a word.

use std::fs;
use std::path::Path;

use crate::error::{Error, Result};
use crate::finished::Finished;
use crate::finished::manifest::{self, Artefact, Manifest};
use crate::finished::paths;
use crate::parts::layout;

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

/// Moves the files `names` from `made` to `out`. Files that `before` lists and that are no longer made are removed.
pub fn put(made: &Path, out: &Path, names: &[String], before: Option<&Manifest>) -> Result<()> {
    // Whatever breaks off from here on must not look as if people had changed it.
    remove(&out.join(manifest::FILE))?;
    for name in [layout::ISO, layout::USB] {
        rename(&made.join(name), &out.join(name))?;
    }
    // It names the tree, so there must not be that of an older one beside it.
    let names_of_tree = out.join(layout::NETBOOT).join(".disk");
    if names_of_tree.is_dir() {
        fs::remove_dir_all(&names_of_tree).map_err(Error::io("replace", &names_of_tree))?;
    }
    for name in names {
        let place = out.join(name);
        if name.starts_with(layout::NETBOOT) {
            if let Some(parent) = place.parent() {
                fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
            }
            rename(&made.join(name), &place)?;
        }
    }
    let gone = before.iter().flat_map(|before| &before.artefacts);
    for artefact in gone.filter(|artefact| !names.contains(&artefact.path)) {
        if paths::is_plain(&artefact.path) {
            remove(&out.join(&artefact.path))?;
        }
    }
    Ok(())
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

    /// Puts small artefacts of this identity into `out`, as a build does.
    fn build(out: &Path, identity: &str) -> Manifest {
        let mut parts = sample::parts();
        parts.identity = identity.to_owned();
        let temp = tempfile::tempdir_in(out).unwrap();
        let made = temp.path().join("made");
        let tree = netboot::make(&parts, temp.path()).unwrap();
        netboot::write(&tree, &made.join(layout::NETBOOT)).unwrap();
        fs::write(made.join(layout::ISO), identity).unwrap();
        fs::write(
            made.join(layout::USB),
            usb::make(&parts, temp.path()).unwrap(),
        )
        .unwrap();
        let mut names = vec![layout::ISO.to_owned(), layout::USB.to_owned()];
        names.extend(tree.iter().map(|(path, _)| format!("netboot/{path}")));
        put(&made, out, &names, Manifest::load(out).as_ref()).unwrap();
        let measured = names
            .iter()
            .map(|name| Artefact::measure(out, name).unwrap());
        let manifest = manifest::tests::manifest(measured.collect());
        manifest.store(out).unwrap();
        manifest
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
