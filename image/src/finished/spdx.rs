//! The parts of an image as an SPDX 2.3 document, for tools that look for licences and known vulnerabilities. Made from
//! the manifest alone.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::finished::manifest::Manifest;
use crate::inputs::list::{self, Input};

const ROOT: &str = "SPDXRef-esxi-rescue";
const UNKNOWN: &str = "NOASSERTION";

/// The document.
#[must_use]
pub fn document(manifest: &Manifest) -> Value {
    let inputs: Vec<(String, &Input)> = manifest
        .inputs
        .iter()
        .enumerate()
        .map(|(index, input)| (format!("SPDXRef-{index}-{}", plain(&input.name)), input))
        .collect();
    let image = json!({
        "SPDXID": ROOT,
        "name": "esxi-rescue",
        "versionInfo": manifest.version,
        "downloadLocation": UNKNOWN,
        "filesAnalyzed": false,
        "licenseConcluded": UNKNOWN,
        "licenseDeclared": "MIT OR Apache-2.0",
        "copyrightText": UNKNOWN,
    });
    let packages = [image]
        .into_iter()
        .chain(inputs.iter().map(|(id, input)| package(id, input)));
    let describes = json!({
        "spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES", "relatedSpdxElement": ROOT,
    });
    let relations = [describes]
        .into_iter()
        .chain(inputs.iter().map(|(id, input)| relation(id, input)));
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(manifest.source_date_epoch);
    json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": format!("esxi-rescue-{}", manifest.version),
        "documentNamespace": format!("urn:esxi-rescue:{}:{}", manifest.version, manifest.inputs_digest),
        "creationInfo": {
            "created": humantime::format_rfc3339_seconds(time).to_string(),
            "creators": [format!("Tool: rescue-image-{}", manifest.version)],
        },
        "packages": packages.collect::<Vec<_>>(),
        "relationships": relations.collect::<Vec<_>>(),
    })
}

/// An identifier may hold letters, digits, dots and hyphens.
fn plain(name: &str) -> String {
    name.chars()
        .map(|letter| {
            if letter.is_ascii_alphanumeric() || letter == '.' {
                letter
            } else {
                '-'
            }
        })
        .collect()
}

fn package(id: &str, input: &Input) -> Value {
    let mut package = json!({
        "SPDXID": id,
        "name": input.name,
        "versionInfo": input.version,
        "downloadLocation": input.source_url.as_deref().unwrap_or(UNKNOWN),
        "filesAnalyzed": false,
        "licenseConcluded": UNKNOWN,
        "licenseDeclared": input.licence.as_deref().unwrap_or(UNKNOWN),
        "copyrightText": UNKNOWN,
    });
    if let Some(sha256) = &input.sha256 {
        package["checksums"] = json!([{ "algorithm": "SHA256", "checksumValue": sha256 }]);
    }
    let version = input.version.replace('+', "%2B").replace(':', "%3A");
    let locator = match input.kind.as_str() {
        list::PACKAGE | list::TOOL => Some(format!(
            "pkg:deb/debian/{}@{version}?arch=amd64",
            input.name
        )),
        "crate" => Some(format!("pkg:cargo/{}@{version}", input.name)),
        _ => None,
    };
    if let Some(locator) = locator {
        package["externalRefs"] = json!([{
            "referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": locator,
        }]);
    }
    package
}

/// What has a licence in the list is in the image, and so are the settings and a kernel that was given; the rest made it.
fn relation(id: &str, input: &Input) -> Value {
    let is_given = matches!(input.kind.as_str(), "settings" | "kernel");
    match input.licence.is_some() || is_given {
        true => {
            json!({ "spdxElementId": ROOT, "relationshipType": "CONTAINS", "relatedSpdxElement": id })
        }
        false => {
            json!({ "spdxElementId": id, "relationshipType": "BUILD_TOOL_OF", "relatedSpdxElement": ROOT })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::finished::manifest;
    use crate::inputs::licences;
    use crate::inputs::package_set::tests::package_set;

    #[test]
    fn every_part_is_a_package_with_a_relation_and_a_name_of_its_own() {
        let mut manifest = manifest::tests::manifest(Vec::new());
        let set = package_set();
        manifest.inputs = set.shipped.iter().map(licences::package).collect();
        manifest.inputs.extend(set.tools.iter().map(licences::tool));
        manifest.inputs.extend(licences::crates());
        let document = document(&manifest);
        let packages = document["packages"].as_array().unwrap();
        assert_eq!(packages.len(), manifest.inputs.len() + 1);
        let ids: BTreeSet<&str> = packages
            .iter()
            .map(|one| one["SPDXID"].as_str().unwrap())
            .collect();
        assert_eq!(ids.len(), packages.len());
        assert!(ids.iter().all(|id| {
            id.bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte))
        }));
        let relations = document["relationships"].as_array().unwrap();
        assert_eq!(relations.len(), packages.len());
        let kind = |name: &str| {
            let id = packages.iter().find(|one| one["name"] == name).unwrap()["SPDXID"].clone();
            let of = |one: &&Value| one["spdxElementId"] == id || one["relatedSpdxElement"] == id;
            relations.iter().find(of).unwrap()["relationshipType"].clone()
        };
        assert_eq!(kind("shim-signed"), "CONTAINS");
        assert_eq!(kind("xorriso"), "BUILD_TOOL_OF");
        assert_eq!(document["creationInfo"]["created"], "1970-01-01T00:00:00Z");
    }
}
