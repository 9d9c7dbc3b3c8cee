#!/bin/sh
# Serves HES on this machine, and says first how to talk to it. Called by `make run`, which sets up before.
#
# The key lives in .hes-key (mode 0600) and reaches the server by its environment: arguments can be read by everyone
# on the machine. A HES_BOOTSTRAP_KEY that is already set is used instead.
set -eu
unset CDPATH
cd -- "$(dirname -- "$0")/.."
umask 077  # the key, and what the server writes: database and outbox hold people's mail

# Set for the server too, so that what is printed here is true whatever hes.toml says.
export HES_HOST="${HES_HOST:-127.0.0.1}" HES_PORT="${HES_PORT:-8025}"
case $HES_HOST in
    0.0.0.0) reach=127.0.0.1 ;;
    ::) reach='[::1]' ;;
    *:*) reach="[$HES_HOST]" ;;
    *) reach=$HES_HOST ;;
esac

if [ -n "${HES_BOOTSTRAP_KEY:-}" ]; then
    from="set by you as HES_BOOTSTRAP_KEY"
    case $HES_BOOTSTRAP_KEY in  # it may say where the key stands
        file:*) bearer='$(cat "${HES_BOOTSTRAP_KEY#file:}")' ;;
        env:*) bearer="\$${HES_BOOTSTRAP_KEY#env:}" ;;
        *) bearer='$HES_BOOTSTRAP_KEY' ;;
    esac
    for_hes=' HES_API_KEY="$HES_BOOTSTRAP_KEY"'
else
    if [ ! -s .hes-key ]; then
        .venv/bin/python -c 'import secrets; print("hes_live_local_" + secrets.token_hex(24))' >".hes-key.$$"
        mv -f ".hes-key.$$" .hes-key
    fi
    chmod 600 .hes-key
    HES_BOOTSTRAP_KEY=$(cat .hes-key)
    from="kept in .hes-key"
    for_hes=
    bearer="\$(cat '$(pwd | sed "s/'/'\\\\''/g")/.hes-key')"
fi
export HES_BOOTSTRAP_KEY
[ "http://$reach:$HES_PORT" = http://127.0.0.1:8025 ] || for_hes=" HES_URL=http://$reach:$HES_PORT$for_hes"

cat <<END

  URL  http://$reach:$HES_PORT
  Key  $HES_BOOTSTRAP_KEY  ($from; admin of project "default")
  Try  curl -sS http://$reach:$HES_PORT/v1/emails -H "Authorization: Bearer $bearer" -H 'Content-Type: application/json' -d '{"from":"me@example.com","to":"you@example.com","subject":"Hello","text":"It works."}'
  Or   in another terminal, in this folder:
       export PATH="\$PWD/.venv/bin:\$PATH"$for_hes
       hes send --from me@example.com --to you@example.com --subject Hello --text 'It works.' --watch

  Emails go to the outbox and nowhere else, unless hes.toml or HES_PROVIDERS names a provider. Ctrl-C stops.

END
exec .venv/bin/hes serve
