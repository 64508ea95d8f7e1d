# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh
# What the tests share.
set -eu

fail() {
    echo "FAILED: $*" >&2
    exit 1
}

# within SECONDS COMMAND...: waits until the command succeeds.
within() {
    tries=$(($1 * 10))
    shift
    until "$@" >/dev/null 2>&1; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || fail "not in time: $*"
        sleep 0.1
    done
}

main_pid() {
    systemctl show --property=MainPID --value epmd.service
}

ours_serves() {
    epmd -names
    [ "$(readlink "/proc/$(main_pid)/exe")" = /usr/libexec/epmd/epmd ] || fail "another epmd serves"
}

is_registered() {
    epmd -names | grep -q "^name $1 at port [0-9]*$"
}

# start_node NAME: a node that goes on until the end of the test.
start_node() {
    systemd-run --quiet --unit="node-$1" --setenv=HOME=/root \
        /usr/bin/erl -noinput -sname "$1" -setcookie test
    within 30 is_registered "$1"
}

# ask NODE EXPRESSION: what a node of its own says about that node, N.
ask() {
    HOME=/root erl -noinput -sname "asks$$" -setcookie test -eval \
        "[_, H] = string:split(atom_to_list(node()), \"@\"), N = list_to_atom(\"$1@\" ++ H),
         io:format(\"~p~n\", [$2]), halt()."
}
