# SPDX-License-Identifier: Apache-2.0
# zsh -f complete.zsh DIRECTORY LINE: presses the tabulator behind LINE in an interactive zsh that has the functions of
# DIRECTORY, and prints each match that it finds behind "match:".
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell "stty -echo; PROMPT= PS2= fpath=(${(q)1} \$fpath)"
# Without a list, which would ask first whether it may be so long.
zpty -w shell 'autoload -Uz compinit; compinit -D -u; setopt no_auto_list; bindkey "^I" complete-word'
zpty -w shell 'comppostfuncs=(exit)'
# _arguments and others use compadd also to filter; these calls only fill arrays.
zpty -w shell 'compadd() {
    local -a found
    if [[ ${@[1,(i)(-|--)]} != *-(O|A|D)\ * ]]; then
        builtin compadd -A found "$@"
        (($#found)) && print -rl - "match:"${^found}
    fi
    builtin compadd "$@"
}'
zpty -w shell 'print rea""dy'
zpty -r shell line $'*ready\r\n'
zpty -n -w shell "$2"$'\t'
while zpty -r shell line; do
    [[ $line == *match:* ]] && print -r - "match:${${line#*match:}%%$'\r'*}"
done
