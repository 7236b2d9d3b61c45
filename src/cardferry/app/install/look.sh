# What a computer has that cardferry needs: read by sh over there, its lines are read by there.py.
#
# Set by the first line of what arrives: $mark, which begins each line that is meant for the other side; and
# $program, which says what a Python is.
# shellcheck disable=SC2154
set -u

say() {
    printf '%s %s\n' "$mark" "$*"
}

# candidates: where Pythons can be, also those that are not in the PATH of a session without a terminal
candidates() {
    for minor in '' .11 .12 .13 .14 .15 .16; do
        command -v "python3$minor"
    done
    for found in /usr/bin/python3.?? /usr/local/bin/python3.?? "$HOME"/.local/bin/python3.?? \
        "$HOME"/.local/share/uv/python/cpython-3*/bin/python3.?? "$HOME"/.pyenv/versions/3*/bin/python3; do
        [ -x "$found" ] && printf '%s\n' "$found"
    done
}

say "system $(uname -s) $(uname -m)"
say "program $(readlink "$HOME/.local/share/cardferry/current")"
if [ -e "$HOME/.local/bin/cardferry" ]; then
    say "link $(readlink "$HOME/.local/bin/cardferry" || echo file)"
    "$HOME/.local/bin/cardferry" --version </dev/null >/dev/null 2>&1 && say "works yes"
fi
candidates | while read -r python; do
    if said=$("$python" -I -c "$program" </dev/null 2>/dev/null); then say "python $said"; else say "broken $python"; fi
done
