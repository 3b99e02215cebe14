#!/bin/bash
# Makes the accounts that /run/secrets/share_accounts lists (`name:password`, one a line), then runs Samba.
#
# Names and numbers of people are kept on a volume that the appliance reads too, so that it can say who dropped a file.
# A number, once given, stays: somebody who leaves the list can log in no more, and is still named for what they dropped.
set -euo pipefail

accounts=/run/secrets/share_accounts
people=/var/lib/extrausers
first_number=20000
group_number=${PGID:-1000}

main() {
    check_inbox
    touch "$people/passwd" "$people/group" "$people/shadow"
    chmod 0644 "$people/passwd" "$people/group"
    chmod 0600 "$people/shadow"
    prepare_group
    mkdir -p /run/samba /var/lib/samba/private /var/cache/samba /var/log/samba
    sed "s/= GROUP\$/= $group/" /etc/samba/smb.conf.template >/run/samba/smb.conf
    add_accounts
    exec smbd --foreground --no-process-group --debug-stdout --configfile=/run/samba/smb.conf
}

# People write with the appliance's group; without these two the appliance could not take a file out again.
check_inbox() {
    local mode owner
    read -r mode owner <<<"$(stat -c '%a %g' /srv/inbox)"
    if [ "$owner" != "$group_number" ] || (((0$mode & 02070) != 02070)); then
        fail "the inbox has mode $mode and group $owner." \
            "On the host, in the folder of compose.yaml: sudo chgrp $group_number inbox && sudo chmod 2770 inbox"
    fi
}

# The group needs a name here, whatever its number is.
prepare_group() {
    if ! getent group "$group_number" >/dev/null; then
        echo "appliance:x:$group_number:" >>"$people/group"
    fi
    group=$(getent group "$group_number" | cut -d: -f1) || fail "PGID is $group_number; use a group above 499."
}

add_accounts() {
    local name password added=0 line=0
    [ -r "$accounts" ] || fail "there is no secrets/share_accounts. On the host, in the folder of compose.yaml: make secrets"
    while IFS=: read -r name password || [ -n "$name" ]; do
        line=$((line + 1))
        password=${password%$'\r'}
        case $name in '' | '#'* | $'\r') continue ;; esac
        [[ $name =~ ^[a-z][a-z0-9_.-]{0,30}$ ]] ||
            fail "secrets/share_accounts:$line: a name is small letters, digits, '.', '-' and '_', and begins with a letter."
        ((${#password} >= 8)) || fail "secrets/share_accounts:$line: the password of $name has fewer than 8 letters."
        ! grep -q "^$name:" /etc/passwd || fail "secrets/share_accounts:$line: $name is a name of the system; take another."
        remember "$name"
        printf '%s\n%s\n' "$password" "$password" | smbpasswd -c /run/samba/smb.conf -L -s -a "$name" >/dev/null
        added=$((added + 1))
    done <"$accounts"
    ((added > 0)) || fail "secrets/share_accounts names nobody: write name:password there, one person a line," \
        "then docker compose up -d --force-recreate share"
    echo "share: $added accounts, group $group ($group_number)"
}

remember() {
    local name=$1 number
    if ! grep -q "^$name:" "$people/passwd"; then
        number=$(awk -F: -v next_one="$first_number" '$3 >= next_one { next_one = $3 + 1 } END { print next_one }' "$people/passwd")
        echo "$name:x:$number:$first_number::/nonexistent:/usr/sbin/nologin" >>"$people/passwd"
    fi
}

fail() {
    echo "share: $*" >&2
    exit 1
}

main
