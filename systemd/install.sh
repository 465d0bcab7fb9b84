#!/usr/bin/env bash
# Installs crmbridge from this copy of its source, upgrades it, or takes it away again. As root, on the PBX host:
#
#   systemd/install.sh                        install or upgrade; may be run as often as you like
#   systemd/install.sh --uninstall            keeps /etc/crmbridge and /var/lib/crmbridge
#   systemd/install.sh --uninstall --purge    keeps nothing
#
# Each version has a folder of its own below /opt/crmbridge/versions; /opt/crmbridge/current leads to the one in use.
# An upgrade that does not become ready is taken back. PYTHON= names another Python than the newest that is found.
set -euo pipefail
umask 022

SOURCE=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
OPT=/opt/crmbridge
CONF=/etc/crmbridge
STATE=/var/lib/crmbridge
SECRETS=$CONF/credentials
UNIT=/etc/systemd/system/crmbridge.service
COMMAND=/usr/local/sbin/crmbridge
ASTERISK=/etc/asterisk
SERVICE_USER=crmbridge
cd /
CONFIG_MISTAKES=78 # exit code of crmbridge

say() { printf '%s\n' "$*"; }
fail() {
    printf 'install.sh: %s\n' "$*" >&2
    exit 1
}

main() {
    local uninstall='' purge=''
    for argument in "$@"; do
        case $argument in
            --uninstall) uninstall=yes ;;
            --purge) purge=yes ;;
            *) fail "unknown option $argument (known: --uninstall, --purge)" ;;
        esac
    done
    [ "$(id -u)" = 0 ] || fail "must be run as root"
    [ -d /run/systemd/system ] || fail "this host was not booted with systemd"
    exec 9>/run/crmbridge-install.lock
    flock --nonblock 9 || fail "another install.sh is at work"
    if [ -n "$uninstall" ]; then
        uninstall "$purge"
        return
    fi
    [ -z "$purge" ] || fail "--purge goes with --uninstall only"
    install_or_upgrade
}

install_or_upgrade() {
    local python version new
    python=$(find_python)
    version=$(version_of_source "$python")
    new=$OPT/versions/$version
    getent passwd "$SERVICE_USER" >/dev/null ||
        useradd --system --user-group --home-dir "$STATE" --no-create-home --shell /usr/sbin/nologin "$SERVICE_USER"
    build "$python" "$new"
    configure "$new"
    try_settings "$new"
    switch_to "$new"
    remove_old_versions
    say "crmbridge $version is in $OPT/current; its settings are in $CONF/config.toml"
    tell_about_asterisk
    check_and_start
}

# The newest Python that is new enough and can make virtual environments.
find_python() {
    local candidate
    for candidate in ${PYTHON:-python3.14 python3.13 python3.12 python3.11 python3}; do
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    fail "no Python 3.11 or newer with venv; on Debian 12: apt-get install python3-venv; elsewhere set PYTHON="
}

# The version's name: its number and a digest of all that is installed, so that two states of one number differ.
version_of_source() {
    local number digest
    number=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' "$SOURCE/daemon/crmbridge/__init__.py")
    digest=$({
        "$1" --version
        cd "$SOURCE"
        find README.md CHANGELOG.md LICENSE setup.cfg setup.py daemon requirements systemd asterisk-conf docs tests/traces \
            -type f -not -path '*/__pycache__/*' -not -path '*.egg-info/*' -print0 | LC_ALL=C sort -z | xargs -0 sha256sum
    } | sha256sum)
    say "$number-${digest:0:12}"
}

# Not in place: pip leaves folders in the source that it builds from.
build() {
    local python=$1 new=$2 work
    if [ -e "$new/.complete" ]; then return; fi
    say "building $new ..."
    rm -rf "$new"
    mkdir -p "$OPT/versions"
    work=$(mktemp -d)
    # shellcheck disable=SC2064  # as it is now
    trap "rm -rf '$work' '$new'" EXIT
    (cd "$SOURCE" && cp -a --parents README.md LICENSE setup.cfg setup.py daemon tests/traces "$work")
    "$python" -m venv "$new"
    local pip=("$new/bin/python" -m pip --disable-pip-version-check --quiet --no-cache-dir)
    "${pip[@]}" install --require-hashes -r "$SOURCE/requirements/run.txt"
    "${pip[@]}" install --no-deps --no-build-isolation "$work"
    "$new/bin/crmbridge" --version >/dev/null
    install -d "$new/share/crmbridge"
    cp -r "$SOURCE"/{README.md,CHANGELOG.md,LICENSE,docs,systemd,asterisk-conf} "$new/share/crmbridge/"
    rm -rf "$work"
    trap - EXIT
    touch "$new/.complete"
}

# What is there is left as it is; what is missing is made of what can be found out.
configure() {
    local new=$1 config=$CONF/config.toml
    install -d -m 0750 -o root -g "$SERVICE_USER" "$CONF"
    install -d -m 0700 -o root -g root "$SECRETS"
    if [ ! -e "$config" ]; then
        local edits=(-e '1s/.*/# Settings of crmbridge. Secrets are in credentials\/ beside it. After a change: systemctl reload crmbridge/')
        local port
        port=$(ami_port)
        if [ "$port" != 5038 ]; then edits+=(-e "s/^# port = 5038.*/port = $port/"); fi
        # shellcheck disable=SC2016  # no variables
        if is_freepbx; then edits+=(-e 's/^# \[dialer\]$/[dialer]/' -e '/^\[dialer\]$/,/^$/s#^\# channel = .*#channel = "Local/{ext}@originate-skipvm"#'); fi
        sed "${edits[@]}" "$new/share/crmbridge/docs/config.toml" | install -m 0640 -o root -g "$SERVICE_USER" /dev/stdin "$config"
    fi
    secret "$new" ami.secret "$(ami_secret)"
    secret "$new" http.password ''
}

# A secret of root's. One that stands in config.toml, or that Asterisk has already, stays in force.
secret() {
    local new=$1 name=$2 found=$3 file=$SECRETS/$2
    if [ -s "$file" ]; then return; fi
    "$new/bin/python" - "$CONF/config.toml" "$name" "$found" <<'EOF' | install -m 0600 -o root -g root /dev/stdin "$file"
import secrets, sys, tomllib
file, name, found = sys.argv[1:]
section, _, key = name.partition(".")
try:
    with open(file, "rb") as settings:
        configured = tomllib.load(settings).get(section, {}).get(key)
except (tomllib.TOMLDecodeError, AttributeError):
    configured = None  # `crmbridge check` says what is wrong with it
print(configured or found or secrets.token_hex(24))
EOF
}

try_settings() {
    local new=$1 code=0
    CREDENTIALS_DIRECTORY=$SECRETS "$new/bin/crmbridge" config show --config "$CONF/config.toml" >/dev/null || code=$?
    if [ "$code" = "$CONFIG_MISTAKES" ]; then fail "nothing was changed: mend $CONF/config.toml, then run this again"; fi
    [ "$code" = 0 ] || fail "nothing was changed: crmbridge can't be run from $new"
}

# Put a version in use. A service that runs is restarted, and if it does not become ready the former version comes back.
switch_to() {
    local new=$1 former=''
    if [ -e "$OPT/current" ]; then former=$(readlink -f "$OPT/current"); fi
    if [ "$new" = "$former" ] && cmp -s "$new/share/crmbridge/systemd/crmbridge.service" "$UNIT" && [ -e "$COMMAND" ]; then
        return
    fi
    local runs=''
    if systemctl is-active --quiet crmbridge || systemctl is-enabled --quiet crmbridge 2>/dev/null; then runs=yes; fi
    use "$new"
    if [ -z "$runs" ] || systemctl restart crmbridge; then return; fi
    say "--- crmbridge's last words:" >&2
    journalctl --unit=crmbridge --lines=15 --output=cat --no-pager >&2
    if [ -z "$former" ] || [ "$new" = "$former" ]; then fail "crmbridge does not become ready; its last words are above"; fi
    use "$former"
    systemctl restart crmbridge || fail "$new does not become ready, and neither does the former version $former"
    rm -rf "$new"
    fail "$new does not become ready (its last words are above); $former is in use again"
}

use() {
    ln -sfn "$1" "$OPT/.next"
    mv -T "$OPT/.next" "$OPT/current" # at once: there is never no version
    ln -sfn "$OPT/current/share/crmbridge/systemd/crmbridge-wrapper" "$COMMAND"
    install -m 0644 "$1/share/crmbridge/systemd/crmbridge.service" "$UNIT"
    systemctl daemon-reload
}

# The version in use and the one built before it stay, the latter to go back to by hand.
remove_old_versions() {
    local current kept=0 version
    current=$(readlink -f "$OPT/current")
    while read -r version; do
        if [ "$version" = "$current" ] || [ $((kept += 1)) -le 1 ]; then continue; fi
        rm -rf "$version"
    done < <(find "$OPT/versions" -mindepth 1 -maxdepth 1 -printf '%T@ %p\n' | sort -rn | cut -d ' ' -f 2-)
}

# Asterisk's own settings

asterisk_settings() { # those about AMI, comments taken away, spaces trimmed
    cat "$ASTERISK"/manager.conf "$ASTERISK"/manager_*.conf "$ASTERISK"/manager.d/*.conf 2>/dev/null |
        sed -e 's/;.*//' -e 's/^[[:space:]]*//' -e 's/[[:space:]]*$//'
}

setting() { # SECTION KEY
    asterisk_settings | awk -v section="[$1]" -v key="$2" '
        /^\[/ { inside = index($0, section) == 1; next }
        inside && match($0, /[[:space:]]*=>?[[:space:]]*/) && substr($0, 1, RSTART - 1) == key {
            value = substr($0, RSTART + RLENGTH)
        }
        END { print value }'
}

ami_port() {
    local port
    port=$(setting general port)
    say "${port:-5038}"
}

ami_secret() { setting crmbridge secret; }

is_freepbx() { grep -qsE '^#include +"?manager_custom.conf' "$ASTERISK/manager.conf"; }

# Whom a file with a secret in it has to belong to so that Asterisk can read it.
asterisk_user() {
    if getent passwd asterisk >/dev/null && getent group asterisk >/dev/null; then
        say "-o asterisk -g asterisk"
    else
        stat -c '-o %U -g %G' "$ASTERISK"
    fi
}

tell_about_asterisk() {
    local files=$OPT/current/share/crmbridge/asterisk-conf with_secret
    if [ ! -d "$ASTERISK" ]; then
        say "There is no $ASTERISK here: see README.md for an Asterisk on another host (ami.host)."
        return
    fi
    with_secret="sed -e \"s/^;secret = .*/secret = \$(cat $SECRETS/ami.secret)/\""
    if [ -z "$(ami_secret)" ]; then
        say "Asterisk does not know crmbridge yet. Its user on AMI, with the secret in $SECRETS/ami.secret:"
        if is_freepbx; then
            say "  $with_secret $files/freepbx/manager_custom.conf >>$ASTERISK/manager_custom.conf"
        else
            grep -qsE '^#include +"?manager\.d/' "$ASTERISK/manager.conf" ||
                say "  echo '#include \"manager.d/*.conf\"' >>$ASTERISK/manager.conf"
            say "  install -d $ASTERISK/manager.d"
            say "  $with_secret $files/vanilla/manager.d/crmbridge.conf | install -m 0640 $(asterisk_user) /dev/stdin $ASTERISK/manager.d/crmbridge.conf"
        fi
        say "  asterisk -rx 'manager reload'"
    fi
    if ! grep -qsE '^[[:space:]]*enabled[[:space:]]*=>?[[:space:]]*yes' "$ASTERISK/cdr_manager.conf"; then
        say "Asterisk does not tell its call records yet:"
        say "  cp $files/$(if is_freepbx; then say freepbx; else say vanilla; fi)/cdr_manager.conf $ASTERISK/"
        say "  asterisk -rx 'module reload cdr_manager.so'"
    fi
}

check_and_start() {
    if "$COMMAND" check; then
        systemctl enable --quiet --now crmbridge || fail "crmbridge does not become ready: journalctl -u crmbridge"
        say "crmbridge runs: systemctl status crmbridge"
    elif systemctl is-active --quiet crmbridge; then
        say "crmbridge runs, but not all links of the chain hold: see FAIL above; \`crmbridge check\` tries them again"
    else
        say "Mend what says FAIL above, and run this again: crmbridge is started once all links of the chain hold."
        say "To start it as it is: systemctl enable --now crmbridge"
    fi
}

uninstall() {
    if [ -e "$UNIT" ]; then systemctl disable --quiet --now crmbridge; fi
    rm -rf "$UNIT" "$COMMAND" "$OPT"
    systemctl daemon-reload
    systemctl reset-failed crmbridge 2>/dev/null || true
    if [ -n "$1" ]; then
        rm -rf "$CONF" "$STATE" "$UNIT.d"
        if getent passwd "$SERVICE_USER" >/dev/null; then userdel "$SERVICE_USER"; fi
        say "crmbridge is gone, its settings and state too. Asterisk's files were not touched."
    else
        say "crmbridge is gone. Left: settings in $CONF, state in $STATE, their user $SERVICE_USER (--purge takes these, too)."
    fi
}

main "$@"
