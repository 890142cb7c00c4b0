# bash completion for mempulse                             -*- shell-script -*-

_mempulse_pids()
{
    local d exe
    for d in /proc/[0-9]*; do
        exe=$(readlink "$d/exe" 2>/dev/null) || continue
        case ${exe##*/} in
            *python*) printf '%s\n' "${d#/proc/}" ;;
        esac
    done
}

_mempulse()
{
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} words

    if [ "$COMP_CWORD" -eq 1 ]; then
        words="inject detach status --help --version"
    else
        case $prev in
            -p|--pid) words=$(_mempulse_pids) ;;
            -f|--format) words="text ndjson" ;;
            --color) words="auto always never" ;;
            --report) words="mempulse" ;;
            --max-overhead) words="0 0.5 1 2 5" ;;
            --fail-on) words="rss> self>" ;;
            -o|--output)
                mapfile -t COMPREPLY < <(compgen -f -- "$cur")
                return ;;
            *)
                case ${COMP_WORDS[1]} in
                    inject) words="--pid --duration --count --timeout --replace --depth --root --function --module
                                   --exclude --thread --min-bytes --min-time --lines --no-uss --uss-budget --max-overhead
                                   --output --format --json --summary --report --color --quiet --verbose --max-loss --fail-on
                                   --help" ;;
                    detach) words="--pid --wait --timeout --strict --json --quiet --verbose --help" ;;
                    status) words="--pid --strict --json --help" ;;
                esac ;;
        esac
    fi
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
}

complete -F _mempulse mempulse
