#!/bin/sh
# Makes the folder of a release, see docs/release.md. Run by `make release KEY=NAME`.
# Usage: scripts/release.sh KEY FOLDER
set -eu
[ $# = 2 ] && [ -n "$1" ] || { echo "usage: make release KEY=NAME (the OpenPGP key to sign with)" >&2; exit 2; }
key=$1 folder=$2
cd "$(dirname "$0")/.."
bin=target/x86_64-unknown-linux-gnu/release
refuse() { echo "release: $*" >&2; exit 1; }

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
[ -z "$(git status --porcelain)" ] || refuse "the tree has changes: commit them, or remove them"
[ "$(git tag --points-at HEAD --list "v$version")" = "v$version" ] || refuse "this commit is not tagged v$version"
notes=$(sed -n "/^## $version\$/,/^## /{/^## /d;p}" CHANGELOG.md)
[ -n "$notes" ] || refuse "CHANGELOG.md has no section '## $version'"
gpg --batch --quiet --list-secret-keys "$key" >/dev/null 2>&1 || refuse "gpg has no secret key $key"
[ ! -e "$folder" ] || refuse "$folder is there already"

echo "release: $version, first build"
made=$(mktemp -d "${TMPDIR:-/tmp}/release-XXXXXX")
trap 'rm -rf "$made"' EXIT
$bin/rescue-image build --force --out "$made/one"
kernel=$(jq -r .kernel "$made/one/manifest.json")
grep -qF "${kernel%%+*}" SPECIFICATION.md || refuse "SPECIFICATION.md was not measured with kernel $kernel"
echo "release: second build, in another clone, programs included"
git clone --quiet --no-hardlinks . "$made/clone"
(cd "$made/clone" && CARGO_INCREMENTAL=0 cargo build --quiet --locked --release -p rescue-agent -p rescue-image)
for program in rescue-agent rescue-image; do
    cmp "$bin/$program" "$made/clone/$bin/$program" || refuse "$program does not reproduce"
done
"$made/clone/$bin/rescue-image" build --quiet --out "$made/two" --cache "$made/cache" --inputs "$made/one/manifest.json"
diff "$made/one/SHA256SUMS" "$made/two/SHA256SUMS" || refuse "the images do not reproduce"

mkdir -p "$made/out"
cp -r "$made/one/." "$made/out/"
rm "$made/out/SHA256SUMS"
$bin/rescue-image manual "$made/out/man"
$bin/rescue-image fleet "$made/out/fleet"
install -D -t "$made/out/bin" $bin/rescue-agent $bin/rescue-image
printf '%s\n' "$notes" >"$made/out/NOTES.md"
$bin/rescue-image spdx "$made/one/manifest.json" >"$made/out/esxi-rescue.spdx.json"
{
    echo "esxi-rescue $version: commit $(git rev-parse HEAD)"
    jq -r '.inputs[] | select(.source_url) | "\(.name) \(.version): \(.source_url)"' "$made/one/manifest.json"
} >"$made/out/SOURCES"
(cd "$made/out" && find . -type f ! -name 'SHA256SUMS*' | sed 's|^\./||' | LC_ALL=C sort | xargs -d '\n' sha256sum >SHA256SUMS)
gpg --batch --quiet --local-user "$key" --armor --detach-sign --output "$made/out/SHA256SUMS.asc" "$made/out/SHA256SUMS"
(cd "$made/out" && sha256sum --check --strict --quiet SHA256SUMS && gpg --batch --quiet --verify SHA256SUMS.asc SHA256SUMS)
mkdir -p "$(dirname "$folder")"
mv "$made/out" "$folder"
echo "release: $folder"
