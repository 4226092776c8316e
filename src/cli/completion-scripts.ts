// Completion scripts in the languages of three shells, from plain descriptions of commands. Pure. Not here: where the
// descriptions come from (completion.ts).

export interface CompletedFlag {
  /** With its dashes. */
  readonly flag: string;
  readonly description: string;
  /** What follows it: nothing, one of `choices`, a folder, any path, or text that nobody can guess. */
  readonly value: "none" | "choice" | "folder" | "path" | "text";
  readonly choices?: readonly string[];
}

export interface CompletedCommand {
  readonly name: string;
  readonly summary: string;
  readonly flags: readonly CompletedFlag[];
  /** Words that may stand in place of flags. */
  readonly words: readonly string[];
  readonly takesYaml: boolean;
}

type Script = (commands: readonly CompletedCommand[]) => string;

const every: readonly CompletedFlag[] = [
  { flag: "--help", description: "print help", value: "none" },
  { flag: "--print-schema", description: "print the JSON Schema of the YAML file", value: "none" },
];

const flagsOf = (command: CompletedCommand) =>
  command.takesYaml ? [...command.flags, ...every] : [every[0]!];

/** Where nothing is offered, bash completes file names: right for paths, harmless for the rest. */
const bash: Script = (commands) => {
  const names = commands.map(({ name }) => name).join(" ");
  const values = commands.flatMap((command) =>
    flagsOf(command).flatMap(({ flag, value, choices = [] }) => {
      if (value === "none") return [];
      const isPath = value === "path" || value === "folder";
      const files = isPath ? ` $(compgen -${value === "folder" ? "d" : "f"} -- "$cur")` : "";
      const words = choices.length > 0 ? `$(compgen -W "${choices.join(" ")}" -- "$cur")` : "";
      return [`    "${command.name} ${flag}") COMPREPLY=(${words}${files}); return ;;`];
    }),
  );
  const flags = commands.map((command) => {
    const words = [...flagsOf(command).map(({ flag }) => flag), ...command.words].join(" ");
    const yaml = command.takesYaml ? `; [[ $cur == -* ]] || COMPREPLY+=($(compgen -f -- "$cur"))` : "";
    return `    ${command.name}) COMPREPLY=($(compgen -W "${words}" -- "$cur"))${yaml} ;;`;
  });
  return `# bash completion for lowrank
_lowrank() {
  local cur="\${COMP_WORDS[COMP_CWORD]}" prev="\${COMP_WORDS[COMP_CWORD-1]}"
  COMPREPLY=()
  if [[ $COMP_CWORD -eq 1 ]]; then
    COMPREPLY=($(compgen -W "${names} help --help --version" -- "$cur"))
    return
  fi
  # --flag=value comes as three words.
  if [[ $cur == "=" ]]; then cur=""; elif [[ $prev == "=" ]]; then prev="\${COMP_WORDS[COMP_CWORD-2]}"; fi
  case "\${COMP_WORDS[1]} $prev" in
${values.join("\n")}
  esac
  case "\${COMP_WORDS[1]}" in
    help) [[ $COMP_CWORD -eq 2 ]] && COMPREPLY=($(compgen -W "${names}" -- "$cur")) ;;
${flags.join("\n")}
  esac
}
complete -o filenames -o bashdefault -o default -F _lowrank lowrank`;
};

const zsh: Script = (commands) => {
  const quoted = (text: string) => `'${text.replaceAll("'", "'\\''")}'`;
  const escaped = (text: string) => text.replace(/[\\[\]:]/g, "\\$&");
  const argument = ({ value, choices = [] }: CompletedFlag): string => {
    if (value === "none") return "";
    if (value === "choice") return `:value:(${choices.join(" ")})`;
    if (value === "text") return ":value: ";
    const files = value === "folder" ? "_files -/" : "_files";
    return choices.length > 0 ? `:path:{ compadd ${choices.join(" ")}; ${files} }` : `:path:${files}`;
  };
  const cases = commands.map((command) => {
    const specs = flagsOf(command).map((flag) =>
      quoted(`*${flag.flag}[${escaped(flag.description)}]${argument(flag)}`),
    );
    if (command.takesYaml) specs.push(quoted('*:configuration:_files -g "*.(yaml|yml)"'));
    if (command.words.length > 0) specs.push(quoted(`1:shell:(${command.words.join(" ")})`));
    return `    ${command.name})\n      _arguments \\\n        ${specs.join(" \\\n        ")}\n      ;;`;
  });
  const list = commands.map(({ name, summary }) => `    ${quoted(`${name}:${escaped(summary)}`)}`);
  return `#compdef lowrank
_lowrank() {
  local -a commands
  commands=(
${list.join("\n")}
  )
  if (( CURRENT == 2 )); then
    _describe command commands
    return
  fi
  shift words
  (( CURRENT-- ))
  case $words[1] in
${cases.join("\n")}
  esac
}
if [[ $funcstack[1] == _lowrank ]]; then _lowrank "$@"; else compdef _lowrank lowrank; fi`;
};

const fish: Script = (commands) => {
  const quoted = (text: string) => `'${text.replace(/[\\']/g, "\\$&")}'`;
  const lines = commands.flatMap((command) => {
    const here = `complete -c lowrank -n '__fish_seen_subcommand_from ${command.name}'`;
    const flags = flagsOf(command).map(({ flag, description, value, choices = [] }) => {
      const offered = choices.length > 0 ? ` -a ${quoted(choices.join(" "))}` : "";
      const files = value === "path" || value === "folder" ? " -r -F" : value === "none" ? "" : " -x";
      return `${here} -l ${flag.slice(2)}${files}${offered} -d ${quoted(description)}`;
    });
    const words = command.words.length > 0 ? [`${here} -f -a ${quoted(command.words.join(" "))}`] : [];
    const first = `complete -c lowrank -f -n __fish_use_subcommand -a ${command.name} -d ${quoted(command.summary)}`;
    return [first, ...words, ...flags];
  });
  return ["# fish completion for lowrank", ...lines].join("\n");
};

export const scripts: Readonly<Record<string, Script>> = { bash, zsh, fish };
