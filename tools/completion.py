"""Completion for bash, zsh and fish from the command's tables, for tools/gen-docs.

Names of objects that hawserd keeps are asked of `hawser __complete KIND WORD` when Tab is pressed. The verb of a
command that has verbs is its first word.
"""



def kind_of(name):
    return "" if name == "none" else name


def scopes(command):
    """(verb or "", its row or None, options, kinds of operands) of all forms of a command."""
    def options_of(owner, verb):
        return [o for o in owner["options"] if verb in o.get("verbs", verb).split()]

    result = []
    if not command["verbs"]:
        result.append(("", None, command["options"], [kind_of(o["completes"]) for o in command["operands"]]))
    for owner in (command, command.get("managed", {"verbs": []})):
        for verb in owner["verbs"]:
            result.append((verb["name"], verb, options_of(owner, verb["name"]), [kind_of(k) for k in verb["completes"]]))
    return result


def verbs_of(command):
    return command["verbs"] or command.get("managed", {"verbs": []})["verbs"]


# ---- bash ---------------------------------------------------------------------------------------

def bash(commands):
    out = "# bash completion for hawser; written by tools/gen-docs from the command's tables.\n\n"
    out += "# $1: COMMAND:VERB:OPTION\n_hawser_values()\n{\n    case $1 in\n"
    for command in commands:
        for verb, _, options, _ in scopes(command):
            for option in options:
                where = f"{command['name']}:{verb}:"
                names = f"{where}--{option['name']}" + (f"|{where}-{option['letter']}" if option["letter"] else "")
                if option["choices"]:
                    out += f"    {names}) echo {' '.join(option['choices'])} ;;\n"
                elif not option["flag"]:
                    out += f"    {names}) echo @{kind_of(option['completes'])} ;;\n"
    out += "    esac\n}\n\n# $1: COMMAND:VERB\n_hawser_options()\n{\n    case $1 in\n"
    for command in commands:
        for verb, _, options, _ in scopes(command):
            words = " ".join(f"--{o['name']}" + ("" if o["flag"] else "=") for o in options)
            out += f"    {command['name']}:{verb}) echo {words} --help ;;\n".replace("  --help", " --help")
    out += "    esac\n}\n\n_hawser_verbs()\n{\n    case $1 in\n"
    for command in commands:
        if verbs_of(command):
            out += f"    {command['name']}) echo {' '.join(v['name'] for v in verbs_of(command))} ;;\n"
    out += "    esac\n}\n\n# $1: COMMAND:VERB:NUMBER of the operand\n_hawser_operands()\n{\n    case $1 in\n"
    for command in commands:
        for verb, row, _, kinds in scopes(command):
            if not verb:
                known = " ".join("@" + k for k in dict.fromkeys(kinds) if k)
                out += f"    {command['name']}::*) " + (f"echo {known}" if known else ":") + " ;;\n"
                continue
            words = row["operands"].split()
            for i, kind in enumerate(kinds):
                number = "*" if words[i].endswith("...") else i + 1
                if kind:
                    out += f"    {command['name']}:{verb}:{number}) echo @{kind} ;;\n"
    names = " ".join(c["name"] for c in commands)
    return out + "    esac\n}\n\n" + BASH_TAIL.replace("@COMMANDS@", names)


BASH_TAIL = r'''# Adds what compgen finds, a line each: names may hold blanks and stars.
_hawser_add()
{
    local line
    while IFS= read -r line; do
        COMPREPLY+=("$line")
    done < <(compgen "$@")
}

_hawser_words()
{
    # $1: the word so far; the rest: words, or @kinds of words
    local current=$1 kind
    shift
    for kind; do
        case $kind in
        @file) _hawser_add -f -- "$current" ;;
        @folder) _hawser_add -d -- "$current" ;;
        @format) _hawser_add -W "qcow2 raw" -- "$current" ;;
        @attachment)
            _hawser_add -W "$(hawser list --names 2>/dev/null)" -- "$current"
            _hawser_add -f -- "$current"
            ;;
        @command) _hawser_add -W "@COMMANDS@ formats" -- "$current" ;;
        @) ;;
        @*) _hawser_add -W "$(hawser __complete "${kind#@}" -- "$current" 2>/dev/null)" -- "$current" ;;
        *) _hawser_add -W "$kind" -- "$current" ;;
        esac
    done
}

# Bash breaks words at @ as well: "VOLUME@SNAPSHOT" is one here. Sets words and count.
_hawser_join()
{
    local word join=
    words=()
    for word in "${COMP_WORDS[@]:0:COMP_CWORD+1}"; do
        if [ -n "$join" ] || { [[ $word == @* ]] && [ ${#words[@]} -gt 2 ]; }; then
            words[${#words[@]} - 1]+=$word
        else
            words+=("$word")
        fi
        join=
        [[ $word == @ ]] && join=1
    done
    count=$((${#words[@]} - 1))
}

_hawser()
{
    local -a words
    local count i word option= values verb= number=0
    _hawser_join
    local current=${words[count]} previous=${words[count - 1]} command=${words[1]}
    COMPREPLY=()
    if [ "$count" -eq 1 ]; then
        COMPREPLY=($(compgen -W "@COMMANDS@" -- "$current"))
        return
    fi
    local verbs=$(_hawser_verbs "$command")
    [ "$count" -gt 2 ] && [[ " $verbs " == *" ${words[2]} "* ]] && verb=${words[2]}
    # "--name=value" arrives as three words where = breaks words, as one where it does not.
    if [ "$current" = = ]; then
        option=$previous current=
    elif [ "$previous" = = ]; then
        option=${words[count - 2]}
    else
        option=$previous
    fi
    case $current in
    --*=*) option=${current%%=*} current=${current#*=} ;;
    esac
    values=$(_hawser_values "$command:$verb:$option")
    if [ -n "$values" ]; then
        _hawser_words "$current" $values
    elif [[ $current == -* ]]; then
        COMPREPLY=($(compgen -W "$(_hawser_options "$command:$verb")" -- "$current"))
        [[ ${COMPREPLY-} == *= ]] && compopt -o nospace 2>/dev/null
    else
        for ((i = 2; i <= count; i++)); do
            [[ ${words[i]} == -* ]] || number=$((number + 1))
        done
        [ "$count" -eq 2 ] && _hawser_words "$current" $verbs
        _hawser_words "$current" $(_hawser_operands "$command:$verb:$((number - 1))")
    fi
    # What is before the @ stands there already.
    if [[ $COMP_WORDBREAKS == *@* && $current == *@* ]]; then
        for i in "${!COMPREPLY[@]}"; do
            COMPREPLY[i]=${COMPREPLY[i]#"${current%@*}@"}
        done
    fi
}

complete -o filenames -F _hawser hawser
'''


# ---- zsh ----------------------------------------------------------------------------------------

def zsh_quote(text):
    return text.replace("'", "'\\''").replace(":", "\\:").replace("[", "\\[").replace("]", "\\]")


def zsh_arguments(options, operands, action):
    """The words for _arguments. @operands: (name, kind)."""
    rows = []
    for option in options:
        many = "*" if option["list"] else ""
        values = f"({' '.join(option['choices'])})" if option["choices"] else action(kind_of(option["completes"]))
        rest = "" if option["flag"] else f":{option['value'].split('=')[0].lower()}:{values}"
        equals = "" if option["flag"] else "="
        rows.append(f"'{many}--{option['name']}{equals}[{zsh_quote(option['help'])}]{rest}'")
        if option["letter"]:
            rows.append(f"'{many}-{option['letter']}[{zsh_quote(option['help'])}]{rest}'")
    for name, kind in operands:
        many = "*" if name.endswith("...") else ""
        rows.append(f"'{many}:{name.strip('[].').lower()}:{action(kind)}'")
    rows.append("'--help[print a summary]'")
    return " \\\n      ".join(rows)


def zsh(commands):
    out = "#compdef hawser\n# written by tools/gen-docs from the command's tables.\n\n"
    out += ("_hawser_attachments() { compadd -- ${(f)\"$(hawser list --names 2>/dev/null)\"}; _files }\n\n"
            "# The kind is the last word; what _arguments says comes before it.\n"
            "_hawser_objects() {\n  local -a names=(${(f)\"$(hawser __complete $@[-1] -- \"$PREFIX\" 2>/dev/null)\"})\n"
            "  compadd \"${@[1,-2]}\" -a names\n}\n\n"
            "_hawser() {\n  if (( CURRENT == 2 )); then\n    local -a commands=(\n")
    fixed = {"file": "_files", "folder": "_files -/", "format": "(qcow2 raw)", "attachment": "_hawser_attachments",
             "command": f"({' '.join(c['name'] for c in commands)} formats)", "": "_nothing"}

    def action(kind):
        return fixed[kind] if kind in fixed else f"_hawser_objects {kind}"

    for command in commands:
        out += f"      '{command['name']}:{zsh_quote(command['summary'])}'\n"
    out += "    )\n    _describe command commands\n    return\n  fi\n  local -a actions\n  case $words[2] in\n"
    for command in commands:
        if verbs_of(command):
            rows = "\n".join(f"      '{v['name']}:{zsh_quote(v['help'])}'" for v in verbs_of(command))
            out += f"  {command['name']})\n    actions=(\n{rows}\n    )\n    ;;\n"
    out += ("  esac\n  (( CURRENT == 3 && $#actions )) && _describe action actions\n"
            "  local verb=\n  (( CURRENT > 3 )) && [[ -n ${(M)actions:#$words[3]:*} ]] && verb=$words[3]\n"
            "  shift words; (( CURRENT-- ))\n  local command=$words[1]\n"
            "  [[ -n $verb ]] && { shift words; (( CURRENT-- )) }\n  case $command:$verb in\n")
    for command in commands:
        for verb, row, options, kinds in scopes(command):
            names = row["operands"].split() if row else [o["name"] for o in command["operands"]]
            out += f"  {command['name']}:{verb})\n    _arguments \\\n      {zsh_arguments(options, zip(names, kinds), action)}\n    ;;\n"
    return out + "  esac\n}\n\n_hawser \"$@\"\n"


# ---- fish ---------------------------------------------------------------------------------------

FISH_HEAD = r'''# fish completion for hawser; written by tools/gen-docs from the command's tables.

# COMMAND [VERB]: that command line; with an empty VERB one that has none yet.
function __hawser_is
    set -l words (commandline -opc)
    test "$words[2]" = $argv[1]; or return 1
    test (count $argv) -lt 2; and return 0
    test "$words[3]" = "$argv[2]"
end

# Of a KIND of objects; the word may be "--option=VALUE".
function __hawser_names
    hawser __complete $argv[1] -- (string replace -r '^--[a-z-]+=' '' -- (commandline -ct)) 2>/dev/null
end

'''


def fish(commands):
    def quote(text):
        return text.replace("\\", "\\\\").replace("'", "\\'")

    fixed = {"file": "-F", "folder": "-a '(__fish_complete_directories)'", "format": "-a 'qcow2 raw'",
             "attachment": "-F -a '(hawser list --names 2>/dev/null)'",
             "command": "-a 'formats " + " ".join(c["name"] for c in commands) + "'", "": ""}

    def words(kind):
        return fixed[kind] if kind in fixed else f"-a '(__hawser_names {kind})'"

    out = FISH_HEAD + "complete -c hawser -f\n"
    for command in commands:
        out += f"complete -c hawser -n __fish_use_subcommand -a {command['name']} -d '{quote(command['summary'])}'\n"
    for command in commands:
        for verb in verbs_of(command):
            out += f"complete -c hawser -n '__hawser_is {command['name']} \"\"' -a {verb['name']} -d '{quote(verb['help'])}'\n"
        for verb, _, options, kinds in scopes(command):
            where = f"complete -c hawser -n '__hawser_is {command['name']}{' ' + verb if verb else ''}'"
            for kind in dict.fromkeys(kinds):
                if words(kind):
                    out += f"{where} {words(kind)}\n"
            for option in options:
                letter = f" -s {option['letter']}" if option["letter"] else ""
                kind, value = kind_of(option["completes"]), ""
                if option["choices"]:
                    value = f" -x -a '{' '.join(option['choices'])}'"
                elif not option["flag"]:
                    value = (" -r " if kind in ("file", "attachment") else " -x ") + words(kind)
                out += f"{where} -l {option['name']}{letter}{value.rstrip()} -d '{quote(option['help'])}'\n"
    return out
