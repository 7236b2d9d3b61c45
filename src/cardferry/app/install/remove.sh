# Takes away what receive.py has put there: read by sh over there.
#
# Set by the first line of what arrives: $mark, which begins each line that is meant for the other side.
# shellcheck disable=SC2154
set -u
base=$HOME/.local/share/cardferry
link=$HOME/.local/bin/cardferry

# running: processes that run from there
running() {
    for process in /proc/[0-9]*; do
        case $(tr '\0' ' ' 2>/dev/null <"$process/cmdline") in "$base"/*/bin/python\ *) echo "${process#/proc/}" ;; esac
    done
}

case $(readlink "$link") in
    ../share/cardferry/*) rm -f -- "$link" && printf '%s removed\n' "$mark" ;;
esac
[ -d "$base" ] || exit 0
# The agent ends in order: it says good-bye to its guests, and takes its sockets away.
# shellcheck disable=SC2046
kill $(running) 2>/dev/null
for _ in 1 2 3 4 5 6 7 8 9 10; do
    [ -z "$(running)" ] && break
    sleep 1
done
# shellcheck disable=SC2046
kill -9 $(running) 2>/dev/null
for runtime in "${XDG_RUNTIME_DIR-}" "/run/user/$(id -u)"; do
    rm -f -- "$runtime/cardferry/agent.log" 2>/dev/null && rmdir -- "$runtime/cardferry" 2>/dev/null
done
made=$(sort -r "$base/made" 2>/dev/null) # what is inside of another one comes before it
rm -rf -- "$base" && printf '%s removed\n' "$mark"
printf '%s\n' "$made" | while read -r folder; do
    rmdir -- "$folder" 2>/dev/null
done
