#!/bin/sh
# Checks every crate of the programs by the rules of deny.toml: licences, sources, unwanted crates and known
# vulnerabilities. Without network access to the advisory database the last is skipped, and the output says so.
set -eu
cd "$(dirname "$0")/.."
cargo deny --version >/dev/null || { echo "$0: cargo-deny is missing; run: scripts/setup.sh check" >&2; exit 1; }

cargo deny --locked check bans licenses sources
if why=$(timeout 60 cargo deny --locked fetch db 2>&1); then
    cargo deny --locked check --disable-fetch advisories
else
    echo "$why" | sed -n 's/^fatal: /cargo-deny: /p' >&2
    echo "NOT CHECKED: known vulnerabilities and withdrawn crates (the advisory database cannot be fetched)"
fi
