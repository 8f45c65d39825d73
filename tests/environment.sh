# Read by setup-venv.sh and setup-fleet.sh: how a Python environment is made in $folder that will hold $contents.

complete() { [ "$(cat "$folder/complete" 2>/dev/null)" = "$contents" ]; }

# begin [OPTIONS OF venv]: an empty environment. Ends the script if the folder is complete.
begin() {
    ! complete || exit 0
    mkdir -p "$(dirname "$folder")"
    # Tests run side by side: the first one makes it, the others wait.
    exec 9>"$folder.lock"
    flock 9
    ! complete || exit 0
    rm -rf "$folder"
    /usr/bin/python3 -m venv "$@" "$folder" || { echo "python3 -m venv failed: apt-get install python3-venv" >&2; exit 1; }
}

# An index that fails once must not fail a test.
pip() {
    for pause in 5 30 0; do
        "$folder/bin/pip" "$@" --quiet --disable-pip-version-check && return
        sleep "$pause"
    done
    return 1
}

end() { echo "$contents" >"$folder/complete"; }
