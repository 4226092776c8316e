// Node's flags for threads of ours. A thread takes over those of its process, and one of them keeps it from starting:
// --input-type, which says what the text after --eval is (`node --input-type=module -e "..."`). A list given in its place
// may not hold what only a whole process can have, so of the others those are kept that decide how modules load.

const withValue = /^(--import|--require|-r|--loader|--experimental-loader|--conditions|-C)$/;
const alone =
  /^(--(import|require|loader|experimental-[\w-]+|conditions)=|--(experimental|no-experimental)-|--enable-source-maps$|--no-(warnings|deprecation)$|--preserve-symlinks)/;

/** Options of a thread: none, or the flags that it may have. */
export function threadFlags(flags: readonly string[] = process.execArgv): { readonly execArgv?: string[] } {
  if (!flags.some((flag) => flag.startsWith("--input-type"))) return {};
  return {
    execArgv: flags.filter(
      (flag, i) => alone.test(flag) || withValue.test(flag) || withValue.test(flags[i - 1] ?? ""),
    ),
  };
}
