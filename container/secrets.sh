#!/usr/bin/env bash
# Makes what compose.yaml needs and git must not have: run it as `make secrets`. What is there already stays as it is.
#
#   secrets/   random tokens and passwords, readable by the appliance's user alone
#   .env       from .env.example, with this user's numbers
#   inbox/     gets the group and mode that the share needs; outbox/ the owner
set -euo pipefail
umask 077
cd "$(dirname "$0")/.."

main() {
    make_env
    mkdir -p secrets inbox outbox
    make_random api_token
    make_random read_token
    make_random grafana_admin_password
    make_empty hub_token "a Hub token that may write to your organisation, if results are to be pushed"
    make_empty hub_read_token "a Hub token that may read, if models with a licence to accept are used"
    make_empty notify_urls "where notifications go, one address a line, and name it in .env"
    make_empty heartbeat_url "an address to ask once a minute, and name it in .env"
    make_accounts
    chmod 2770 inbox
    chmod 0755 outbox
    hand_over
    echo "Pages:   http://${address}:${pages_port:-8080}  read token: secrets/read_token, to act: secrets/api_token"
    echo "Grafana: http://${address}:${grafana_port:-3000}  user admin, password: secrets/grafana_admin_password"
    echo "Share:   accounts and passwords: secrets/share_accounts (COMPOSE_PROFILES=share in .env)"
}

# Root, as with sudo, makes all this for the person who typed it, or for user 1000: nobody trains as root.
make_env() {
    local user group
    user=${SUDO_UID:-$(id -u)}
    group=${SUDO_GID:-$(id -g)}
    if [ "$user" = 0 ]; then
        user=1000 group=1000
    fi
    if ! [ -e .env ]; then
        sed "s/^PUID=.*/PUID=$user/; s/^PGID=.*/PGID=$group/" .env.example >.env
        echo "wrote .env (user $user, group $group)"
    fi
    PUID=$(value PUID) PGID=$(value PGID) address=$(value LAN_ADDRESS)
    address=${address:-127.0.0.1}
    pages_port=$(value PAGES_PORT) grafana_port=$(value GRAFANA_PORT)
}

# value NAME: what .env says of it.
value() {
    sed -n "s/^$1=//p" .env | tail -n 1
}

make_random() {
    [ -e "secrets/$1" ] || { random >"secrets/$1" && echo "wrote secrets/$1"; }
}

make_empty() {
    [ -e "secrets/$1" ] || { : >"secrets/$1" && echo "made  secrets/$1, empty: put in $2"; }
}

make_accounts() {
    local name
    [ ! -e secrets/share_accounts ] || return 0
    name=$(printf '%s' "${SUDO_USER:-$(id -un)}" | tr '[:upper:]' '[:lower:]' | tr -cd 'a-z0-9_-')
    if [ "$name" = root ] || ! [[ $name =~ ^[a-z] ]]; then
        name=person
    fi
    {
        echo "# Who may use the share: name:password, one person a line. Then: docker compose up -d --force-recreate share"
        echo "$name:$(random)"
    } >secrets/share_accounts
    echo "wrote secrets/share_accounts (one account: $name)"
}

# 32 bytes from the kernel, in letters that survive every shell and every keyboard.
random() {
    head -c 32 /dev/urandom | base64 | tr -d '\n=' | tr '+/' '-_'
    echo
}

# The appliance runs as PUID:PGID and reads the secrets as that user; the inbox is shared by its group.
hand_over() {
    local wanted="${PUID:-1000}:${PGID:-1000}"
    if [ "$(id -u)" = 0 ]; then
        chown -R "$wanted" secrets
        chown "$wanted" .env inbox outbox
        chmod 2770 inbox
    elif [ "$(id -u):$(id -g)" != "$wanted" ]; then
        echo "These belong to you and not to $wanted of .env: sudo chown -R $wanted secrets inbox outbox" >&2
        exit 1
    fi
}

main
