# cardferry's guard: the far end of a connection, run by the account's own sh with nothing installed there.
#
# It is the command of the session that keeps the connection open. It arrives through that session's input
# (see guard.py), tells what the other side needs to know, answers its requests one line each, takes away the
# socket it was told to own, and is a dead man's switch: while the connection lives a line "." comes every 2 s;
# when none comes for 6 to 9 s it ends its own sshd session, so that a computer which vanished without a word
# frees the card although sshd itself has noticed nothing.
#
# Set by the bootstrap: $mark, which names this guard where others can see it. Set by the first line of what arrives:
# $word, a secret that begins every line which is meant for the other side.
# POSIX sh and its tools only; no fork while nothing happens but one sleep each 3 s.

# shellcheck disable=SC2154
set -u
LC_ALL=C
export LC_ALL
umask 077

owned=
inode=
private=
dog=
uid=$(id -u)

say() {
    printf '%s %s\n' "$word" "$*"
}

# owner_uid PATH: the numeric owner of PATH itself, empty when it cannot be seen
owner_uid() {
    # shellcheck disable=SC2046
    set -- $(ls -ldn -- "$1" 2>/dev/null)
    printf '%s' "${3-}"
}

# permissions PATH: as ls writes them, drwx------
permissions() {
    # shellcheck disable=SC2046
    set -- $(ls -ldn -- "$1" 2>/dev/null)
    printf '%s' "${1-}"
}

# inode_of PATH
inode_of() {
    # shellcheck disable=SC2046
    set -- $(ls -di -- "$1" 2>/dev/null)
    printf '%s' "${1-}"
}

# distrusted FOLDER: which folder on the way to it others could change, as in transports/folders.py; nothing if none
distrusted() {
    top=$(owner_uid /)
    real=$(cd -P -- "$1" 2>/dev/null && pwd -P)
    way=$1
    set -- /
    for way in "$way" "$real"; do
        while [ -n "${way%/}" ]; do
            set -- "$@" "$way"
            way=${way%/*}
        done
    done
    ls -ldn -- "$@" 2>/dev/null | while read -r rights _ owner _ _ _ _ _ name; do
        case $owner in
            "$uid" | 0 | "$top") ;;
            *) echo "$name belongs to somebody else" && break ;;
        esac
        case $rights in
            d????????[tT]*) ;;
            d????w* | d???????w*) echo "others can write in $name" && break ;;
        esac
    done
}

# record_of PATH: the file that says who put the socket at PATH there
record_of() {
    printf '%s/.%s.owner' "${1%/*}" "${1##*/}"
}

# is_guard PID TOKEN: is the process PID the guard that has this token?
is_guard() {
    case $1 in '' | *[!0-9]*) return 1 ;; esac
    if [ -r "/proc/$1/cmdline" ]; then
        arguments=$(tr '\0' ' ' <"/proc/$1/cmdline" 2>/dev/null)
    else
        arguments=$(ps -p "$1" -o args= 2>/dev/null)
    fi
    case $arguments in *cardferry-guard*"$2"*) return 0 ;; esac
    return 1
}

# read_record FILE: sets r_token, r_guard, r_session, r_since, r_name
read_record() {
    r_token='' r_guard='' r_session='' r_since='' r_name='' r_bound=''
    [ -f "$1" ] && [ ! -h "$1" ] && [ "$(owner_uid "$1")" = "$uid" ] || return 1
    {
        IFS= read -r r_token
        IFS= read -r r_guard
        IFS= read -r r_session
        IFS= read -r r_since
        IFS= read -r r_name
        IFS= read -r r_bound
    } <"$1"
    [ -n "$r_token" ]
}

# withdraw: take the socket away, if it is still the one we put there
withdraw() {
    [ -n "$owned" ] || return 0
    record=$(record_of "$owned")
    if read_record "$record" && [ "$r_token" = "$mark" ]; then
        [ "$(inode_of "$owned")" = "$inode" ] && rm -f -- "$owned"
        rm -f -- "$record"
    fi
    owned=
}

# drop_private: remove the folder that answer_private has made
drop_private() {
    [ -n "$private" ] && rm -f -- "$private/s" "$private/record" && rmdir -- "$private" 2>/dev/null
    private=
}

finish() {
    trap '' HUP TERM PIPE
    withdraw
    drop_private
    [ -n "$dog" ] && kill "$dog" 2>/dev/null
    say bye 2>/dev/null
}

# watch: the dead man's switch, in a process of its own
watch() {
    trap 'alive=1' USR1
    say ready
    exec </dev/null >/dev/null 2>&1
    missed=0
    while kill -0 "$$"; do
        alive=0
        sleep 3
        missed=$((missed + 1))
        [ "$alive" = 1 ] && missed=0
        [ "$missed" -ge 2 ] && kill "$PPID" && sleep 3 && kill -9 "$PPID"
    done
}

tell_facts() {
    say "fact uid $uid"
    say "fact session $PPID"
    say "fact system $(uname -s 2>/dev/null)"
    say "fact temporary ${TMPDIR:-/tmp}"
    for folder in "${XDG_RUNTIME_DIR-}" "/run/user/$uid"; do
        if [ -n "$folder" ] && [ -d "$folder" ] && [ "$(owner_uid "$folder")" = "$uid" ]; then
            say "fact runtime $folder"
            break
        fi
    done
    for socket in "${PCSCLITE_CSOCK_NAME-}" /run/pcscd/pcscd.comm /var/run/pcscd/pcscd.comm; do
        if [ -n "$socket" ] && [ -S "$socket" ]; then
            say "fact pcscd $socket"
            break
        fi
    done
    command -v pcscd >/dev/null 2>&1 || [ -x /usr/sbin/pcscd ] && say "fact installed pcscd"
    { command -v cardferry >/dev/null 2>&1 || [ -x "${HOME-}/.local/bin/cardferry" ]; } && say "fact installed cardferry"
    [ -t 0 ] && say "fact terminal yes"
}

# echo ID: nothing but an answer, for who measures the distance
answer_echo() {
    say "$1 done"
}

# folder ID PATH: make the folder, or check that it is ours alone to write in
answer_folder() {
    [ -e "$2" ] || [ -h "$2" ] || mkdir -m 700 -- "$2" 2>/dev/null
    if [ -h "$2" ]; then
        say "$1 fail it is a symbolic link"
    elif [ ! -d "$2" ]; then
        say "$1 fail it cannot be made"
    elif [ "$(owner_uid "$2")" != "$uid" ]; then
        say "$1 fail it belongs to somebody else"
    else
        why=$(distrusted "$2")
        case $(permissions "$2") in
            d????w* | d???????w*) why="others can write in it" ;;
        esac
        if [ -n "$why" ]; then say "$1 fail $why"; else say "$1 done"; fi
    fi
}

# look ID PATH: what is there, who put it there, whether somebody listens (where the kernel tells)
answer_look() {
    if [ -h "$2" ]; then
        say "$1 kind other"
    elif [ -S "$2" ]; then
        say "$1 kind socket"
    elif [ -e "$2" ]; then
        say "$1 kind other"
    elif [ ! -d "${2%/*}/" ]; then
        say "$1 kind no-folder"
    elif [ ! -w "${2%/*}/" ]; then
        say "$1 kind locked"
    else
        say "$1 kind none"
    fi
    bound=$2
    if read_record "$(record_of "$2")"; then
        say "$1 token $r_token"
        say "$1 since $r_since"
        say "$1 name $r_name"
        bound=$r_bound
        is_guard "$r_guard" "$r_token" && say "$1 running yes"
    fi
    if [ -r /proc/net/unix ]; then
        if [ -n "$(listening_inode "$bound")$(listening_inode "$2")" ]; then
            say "$1 listening yes"
        else
            say "$1 listening no"
        fi
    fi
    why=$(distrusted "${2%/*}/")
    [ -n "$why" ] && say "$1 unsafe $why"
    say "$1 folder $(permissions "${2%/*}/.")"
    say "$1 done"
}

# listening_inode PATH: the kernel's number of the socket that somebody bound to PATH and listens on (Linux)
listening_inode() {
    grep -F -e " $1" /proc/net/unix 2>/dev/null | while read -r _ _ _ flags _ _ number path; do
        if [ "$path" = "$1" ] && [ "$flags" = 00010000 ]; then
            printf '%s' "$number"
            break
        fi
    done
}

# holder ID PATH: the process that listens there, where the system tells (Linux, one's own processes)
answer_holder() {
    number=$(listening_inode "$2")
    if [ -n "$number" ]; then
        for process in /proc/[0-9]*; do
            # shellcheck disable=SC2010
            if ls -l "$process/fd" 2>/dev/null | grep -q "socket:.$number]"; then
                say "$1 holder $(tr '\0' ' ' <"$process/cmdline" 2>/dev/null | cut -c 1-80)(pid ${process#/proc/})"
                break
            fi
        done
    fi
    say "$1 done"
}

# evict ID PATH: end the recorded session that put the socket at PATH there, and take the socket away
answer_evict() {
    if read_record "$(record_of "$2")" && is_guard "$r_guard" "$r_token"; then
        kill "$r_session" 2>/dev/null
        for _ in 1 2 3; do
            is_guard "$r_guard" "$r_token" || break
            sleep 1
        done
        is_guard "$r_guard" "$r_token" && kill -9 "$r_guard" "$r_session" 2>/dev/null
    fi
    answer_remove "$1" "$2"
}

# remove ID PATH: take a dead socket away, never anything else
answer_remove() {
    [ ! -h "$2" ] && [ -S "$2" ] && rm -f -- "$2"
    rm -f -- "$(record_of "$2")"
    if [ -e "$2" ]; then say "$1 fail it cannot be removed"; else say "$1 done"; fi
}

# private ID FOLDER: make a folder that is ours alone, for a socket s that sshd binds
answer_private() {
    drop_private
    if mkdir -m 700 -- "$2" 2>/dev/null; then
        private=$2
        say "$1 done"
    else
        say "$1 fail the account may not make a folder there"
    fi
}

# publish ID PATH MODE GROUP NAME: give the socket that sshd has bound its rights, while nobody else can reach its name
# and put another file there, and then its public name; write down beside it whose it is.
answer_publish() {
    bound=$private/s
    record=$(record_of "$2")
    why=
    if [ -h "$bound" ] || [ ! -S "$bound" ]; then
        why="sshd has made no socket there"
    elif [ -n "$4" ] && ! said=$(chgrp -- "$4" "$bound" 2>&1); then
        case $said in
            *'invalid group'* | *'unknown group'* | *'illegal group'*) why="there is no group $4" ;;
            *) why="the account may not give it to the group $4" ;;
        esac
    elif ! chmod "$3" "$bound"; then
        why="the account may not change its rights"
    else
        inode=$(inode_of "$bound")
        printf '%s\n' "$mark" "$$" "$PPID" "$(date '+%Y-%m-%d %H:%M')" "$5" "$bound" >"$private/record"
        rm -f -- "$record"
        if ! place "$bound" "$2"; then
            say "$1 taken yes"
            why="something else took the place at this moment"
        elif ! place "$private/record" "$record"; then
            rm -f -- "$2"
            why="something else is at $record"
        fi
    fi
    drop_private
    if [ -n "$why" ]; then say "$1 fail $why"; else owned=$2 && say "$1 done"; fi
}

# place FILE PATH: give a file of ours its public name; false if that is taken. A link refuses where a name exists
# already; moving is for systems that do not link sockets. Both would put it into a folder that PATH is, or leads to.
place() {
    [ -h "$2" ] || [ -d "$2" ] && return 1
    wanted=$(inode_of "$1")
    ln -- "$1" "$2" 2>/dev/null || [ -e "$2" ] || [ -h "$2" ] || mv -f -- "$1" "$2" 2>/dev/null
    [ "$(inode_of "$2")" = "$wanted" ]
}

trap finish EXIT
trap 'exit 1' HUP TERM INT PIPE
tell_facts
watch &
dog=$!

while IFS= read -r line; do
    case $line in
        .) kill -USR1 "$dog" 2>/dev/null ;;
        quit) exit 0 ;;
        *)
            eval "set -- $line"
            id=$1
            verb=$2
            shift 2
            case $verb in
                echo | folder | look | holder | evict | remove | private | publish) "answer_$verb" "$id" "$@" ;;
                *) say "$id fail the guard does not know $verb" ;;
            esac
            ;;
    esac
done
